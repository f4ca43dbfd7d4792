"""What a model folder may say and hold: the tables by which `safety` and `weights` check it.

A kind of model has model types, classes, and numbers that cost memory or time where they are large; each of
these has a range that holds every published model of the kind, and any other number a common one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

_RUNS_CODE = "it can run code of the folder, which this package never allows; use a model without it"
_MERGE = "load the model that the adapter was merged into (peft's merge_and_unload, then save_pretrained)"
_TOKENIZER_ELSEWHERE = (
    "it redirects where the tokenizer is read from; name the file tokenizer.json and remove the key"
)

CODE = frozenset((
    ".py", ".pyc", ".pyo", ".pyd", ".pyw", ".so", ".dll", ".dylib", ".exe", ".sh", ".bat", ".ps1",
))  # fmt: skip
"""Suffixes of files that are code."""
PICKLES = frozenset((
    ".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".msgpack", ".h5", ".hdf5", ".keras", ".joblib",
    ".dill", ".npy", ".npz",
))  # fmt: skip
"""Suffixes of formats that hold pickles or other code that runs when they are read."""
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")

FILE_REASONS = {
    **dict.fromkeys(CODE, f"code in a model folder; {_RUNS_CODE}"),
    **dict.fromkeys(
        PICKLES,
        "this format can run code when it is read; only safetensors are. If it holds the weights, "
        "convert them to safetensors where nothing can be lost: "
        'python -c "import sys, torch, safetensors.torch as s; '
        "s.save_file(torch.load(sys.argv[1], weights_only=True), 'model.safetensors')\" FILE. "
        "If this is a checkpoint or a run of training, which needs such files to go on, leave it as it is "
        "and name the run: its finished policy is taken",
    ),
    **dict.fromkeys(ADAPTER_FILES, f"an adapter, which names another model to load; {_MERGE}"),
}
"""Why a file of this suffix or name is refused, and what to do."""

FORBIDDEN_KEYS = {
    "auto_map": _RUNS_CODE,
    "trust_remote_code": _RUNS_CODE,
    "custom_generate": _RUNS_CODE,
    "custom_pipelines": _RUNS_CODE,
    "kernel_config": _RUNS_CODE,
    "use_kernels": _RUNS_CODE,
    "transformers_weights": "it redirects where the weights are read from; "
    "name the file model.safetensors and remove the key",
    "fast_tokenizer_files": _TOKENIZER_ELSEWHERE,
    "tokenizer_file": _TOKENIZER_ELSEWHERE,
    "vocab_file": _TOKENIZER_ELSEWHERE,
    "merges_file": _TOKENIZER_ELSEWHERE,
    "audio_tokenizer": "it loads a second model from elsewhere; remove the key",
    "quantization_config": "quantised weights need loaders that are not supported; "
    "use the model that is not quantised",
    "peft_type": _MERGE,
    "base_model_name_or_path": _MERGE,
}
"""Keys that may stand nowhere in a folder's configuration, each with the reason and what to do."""

_IMAGE_PROCESSORS = ("Qwen2VLImageProcessor", "Qwen2VLImageProcessorFast", "Qwen2VLImageProcessorPil")
_SAM2_PROCESSORS = ("Sam2ImageProcessor", "Sam2ImageProcessorFast")
_TOKENIZERS = ("Qwen2Tokenizer", "Qwen2TokenizerFast", "PreTrainedTokenizerFast", "TokenizersBackend")
_KERNELS = (
    "sdpa", "eager", "flash_attention_2", "flash_attention_3", "flex_attention", "grouped_mm", "batched_mm",
)  # fmt: skip
_KERNEL_KEYS = (
    "attn_implementation", "_attn_implementation", "_attn_implementation_internal",
    "experts_implementation", "_experts_implementation", "_experts_implementation_internal",
)  # fmt: skip
_TYPES_OF_WEIGHTS = ("float32", "bfloat16", "float16")
_ANY_KIND = {
    **dict.fromkeys(_KERNEL_KEYS, _KERNELS),
    **dict.fromkeys(("dtype", "torch_dtype"), _TYPES_OF_WEIGHTS),
}

Ranges = Mapping[str, tuple[float, float]]

COMMON_RANGE = (-(2**20), 2**20)
"""The range of a number that has no range of its own."""
_LARGE = 2**30
_SIZES: Ranges = {
    "num_labels": (0, 1024),
    "num_hidden_layers": (1, 512),
    "hidden_size": (1, 65_536),
    "num_attention_heads": (1, 1024),
    "num_key_value_heads": (1, 1024),
    "num_channels": (1, 16),
    "in_channels": (1, 16),
    "in_chans": (1, 16),
    "patch_size": (1, 64),
}
_POLICY_RANGES: Ranges = {
    **_SIZES,
    "depth": (1, 512),
    "num_heads": (1, 1024),
    "head_dim": (1, 1024),
    "num_experts": (1, 4096),
    "num_experts_per_tok": (1, 4096),
    "decoder_sparse_step": (1, 512),
    "out_hidden_size": (1, 65_536),
    "intermediate_size": (1, 1_048_576),
    "moe_intermediate_size": (1, 1_048_576),
    "vocab_size": (1, 4_194_304),
    "num_position_embeddings": (1, 4_194_304),
    "temporal_patch_size": (1, 16),
    "spatial_merge_size": (1, 16),
    "merge_size": (1, 16),
    "window_size": (28, 65_536),  # less than a token is wide is divided by
    "tokens_per_second": (0, 1000),
    "max_position_embeddings": (1, 2**24),
    "rope_theta": (1, 1e12),
    "model_max_length": (1, 1e31),  # transformers' word for "no limit" is 1e30
    **dict.fromkeys(("min_pixels", "max_pixels", "shortest_edge", "longest_edge"), (1, _LARGE)),
}
_SAM2_RANGES: Ranges = {
    **_SIZES,
    "num_hidden_layers": (1, 64),
    "hidden_size": (1, 4096),
    "embed_dim_per_stage": (1, 4096),
    "backbone_channel_list": (1, 4096),
    "fpn_hidden_size": (1, 4096),
    "blocks_per_stage": (1, 256),
    "num_attention_heads_per_stage": (1, 64),
    "window_size_per_stage": (0, 1024),
    "window_positional_embedding_background_size": (1, 1024),
    "patch_kernel_size": (1, 64),
    "patch_stride": (1, 64),
    "patch_padding": (0, 64),
    "query_stride": (1, 64),
    "fpn_kernel_size": (1, 16),
    "fpn_stride": (1, 16),
    "fpn_padding": (0, 16),
    "mlp_ratio": (0, 16),
    "mlp_dim": (1, 65_536),
    "iou_head_depth": (1, 64),
    "iou_head_hidden_dim": (1, 4096),
    "num_multimask_outputs": (1, 16),
    "num_point_embeddings": (1, 64),
    "mask_input_channels": (1, 1024),
    "attention_downsample_rate": (1, 64),
    **dict.fromkeys(("image_size", "height", "width", "backbone_feature_sizes"), (1, 4096)),
}


@dataclass(frozen=True)
class Kind:
    """What the folder of one kind of model may say."""

    architectures: Mapping[str, str]
    """The model types that may be loaded, each with its class."""
    parts: Mapping[str, tuple[str, ...]]
    """The model types that its parts may have beside its own."""
    allowed_values: Mapping[str, tuple[str, ...]]
    """Keys that choose a class or a kernel, and the values they may have; anything else could be imported
    from elsewhere."""
    ranges: Ranges
    """Numbers that cost, or are divided by, and the range of each."""
    files: tuple[tuple[str, ...], ...]
    """The files that a whole folder holds; of those in brackets one."""
    words: str
    """What is supported, in words."""
    surplus: float = 1.02
    """How many times the tensors that the configuration describes may lie in the files."""


_QWEN = {
    "qwen2_5_vl": "Qwen2_5_VLForConditionalGeneration",
    "qwen3_vl": "Qwen3VLForConditionalGeneration",
    "qwen3_vl_moe": "Qwen3VLMoeForConditionalGeneration",
}
POLICY = Kind(
    architectures=_QWEN,
    parts={name: (f"{name}_text", f"{name}_vision") for name in _QWEN},
    allowed_values={
        "processor_class": ("Qwen2_5_VLProcessor", "Qwen3VLProcessor"),
        "image_processor_type": _IMAGE_PROCESSORS,
        "feature_extractor_type": _IMAGE_PROCESSORS,
        "video_processor_type": ("Qwen2VLVideoProcessor", "Qwen3VLVideoProcessor"),
        "tokenizer_class": _TOKENIZERS,
        "slow_tokenizer_class": _TOKENIZERS,
        **_ANY_KIND,
    },
    ranges=_POLICY_RANGES,
    files=(
        ("config.json",),
        ("tokenizer_config.json",),
        ("preprocessor_config.json", "processor_config.json"),
    ),
    words="Qwen2.5-VL and Qwen3-VL",
)
_SAM2_PARTS = ("sam2_vision_model", "sam2_hiera_det_model", "sam2_prompt_encoder", "sam2_mask_decoder")
SAM2 = Kind(
    architectures={"sam2": "Sam2Model", "sam2_video": "Sam2VideoModel"},
    parts={
        "sam2": _SAM2_PARTS,
        "sam2_video": (*_SAM2_PARTS, "sam2_video_prompt_encoder", "sam2_video_mask_decoder"),
    },
    allowed_values={
        "processor_class": ("Sam2Processor", "Sam2VideoProcessor"),
        "image_processor_type": _SAM2_PROCESSORS,
        "feature_extractor_type": _SAM2_PROCESSORS,
        "video_processor_type": ("Sam2VideoVideoProcessor",),
        **_ANY_KIND,
    },
    ranges=_SAM2_RANGES,
    files=(("config.json",), ("preprocessor_config.json", "processor_config.json")),
    words="SAM2",
    surplus=2,  # a video model, as SAM2 is published, has a memory that masks of images do not need
)
DINOV2 = Kind(
    architectures={"dinov2": "Dinov2Model"},
    parts={"dinov2": ()},
    allowed_values={
        "image_processor_type": ("BitImageProcessor", "BitImageProcessorFast", "BitImageProcessorPil"),
        "feature_extractor_type": ("BitImageProcessor", "BitImageProcessorFast", "BitImageProcessorPil"),
        **_ANY_KIND,
    },
    ranges={
        **_SIZES,
        "num_hidden_layers": (1, 64),
        "hidden_size": (1, 4096),
        "image_size": (14, 2048),
        "patch_size": (4, 64),
        "mlp_ratio": (1, 16),
        "layer_norm_eps": (0, 1),
    },
    files=(("config.json",),),
    words="DINOv2",
)

_QWEN_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
_NANO_WORDS = r" ?[A-Za-z]+|[0-9]| ?[^\sA-Za-z0-9]+|\s+"
TOKENIZER_PATTERNS = (_QWEN_WORDS, _NANO_WORDS)
"""The regular expressions that may split text; another one could take for ever on a line of it."""
TOKENIZER_KINDS = {
    "model": ("BPE",),
    "normalizer": ("NFC",),
    "pre_tokenizer": ("ByteLevel", "Split", "Sequence"),
    "post_processor": ("ByteLevel", "TemplateProcessing", "Sequence"),
    "decoder": ("ByteLevel", "Sequence"),
}
"""The parts of tokenizer.json and the types that each, and what lies in it, may have. Others abort the
process where they are malformed, which no `except` sees."""

MOST_ENTRIES = 4096
"""In one list or object: layers, added tokens, labels."""
MOST_SETTINGS = 65_536
"""In one file that transformers reads as settings."""
LONGEST_TEXT = 1024
"""Characters of a key or value in these files; templates have a limit of their own."""
MOST_TOKENS = 2**19
"""In a vocabulary, or merges."""
