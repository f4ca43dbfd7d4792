import json
from dataclasses import replace

import pytest

from anomalyr1 import answers
from anomalyr1.answers import parse_with_place
from anomalyr1.engines.endpoint import EndpointEngine
from anomalyr1.engines.endpoint_config import EndpointConfig
from anomalyr1.engines.loading import load_engine
from anomalyr1.engines.parity import compare_engines
from anomalyr1.engines.replay import ReplayEngine
from anomalyr1.inspection.inspector import Inspector
from anomalyr1.types import Box, InputError, SetupError
from support import recordings, served, transformers_serve

BOX = Box(x1=60, y1=40, x2=80, y2=54, label="stain")
NEAR = Box(x1=60, y1=40, x2=80, y2=61, label="stain")
SAYS_A = answers.write("A stain. So the answer is A.", "A")
SAYS_B = answers.write("It is even. So the answer is B.", "B")
DRAWS, DRAWS_NEAR, DRAWS_NONE = (
    answers.write("Look.", boxes, recordings.FRAME) for boxes in ([BOX], [NEAR], [])
)


class Changed:
    """A replay of which completions or the fingerprint are changed."""

    def __init__(self, path, name="replay", run=None, **change):
        self._replay, self._change, self._run, self.name = ReplayEngine(path), change, run or {}, name

    def fingerprint(self, sampling):
        return self._replay.fingerprint(sampling).model_copy(update=self._run)

    def complete(self, prompts, images, sampling):
        completions = []
        for prompt, plain in zip(prompts, self._replay.complete(prompts, images, sampling), strict=True):
            changed = replace(plain, **self._change)
            answer, _ = parse_with_place(changed.text, prompt.question.options, changed.frame)
            completions.append(replace(changed, answer=answer))
        return completions


@pytest.fixture
def recorded(tmp_path):
    paths = [recordings.draw(tmp_path / f"{i}.png") for i in range(2)]
    samples = [recordings.sample(path) for path in paths]

    def record(name, *texts):
        return recordings.record(
            tmp_path / f"{name}.jsonl", {one.id: own for one, own in zip(samples, texts, strict=True)}
        )

    return samples, record


def test_an_engine_agrees_with_itself(recorded):
    samples, record = recorded
    path = record("a", (SAYS_A, DRAWS), (SAYS_B, DRAWS_NONE))
    found = compare_engines((ReplayEngine(path), ReplayEngine(path)), samples)
    assert (found.images, found.questions, found.compared, found.failed) == (2, 4, 4, (0, 0))
    assert (found.same_text, found.same_choice, found.choices, found.mean_iou, found.boxes) == (
        4,
        2,
        2,
        1.0,
        2,
    )
    assert (found.same_frame, found.frames, found.tokens) == (4, 4, 0)  # a recording knows no token counts
    assert found.score_difference is None
    assert found.differences == ()
    assert found.same_input


def test_what_differs_is_counted(recorded):
    samples, record = recorded
    first = record("a", (SAYS_A, DRAWS), (SAYS_B, DRAWS_NONE))
    second = record("b", (SAYS_B, DRAWS_NEAR), (SAYS_B, DRAWS))
    found = compare_engines((ReplayEngine(first), ReplayEngine(second)), samples)
    assert (found.same_text, found.same_choice) == (1, 1)
    assert found.mean_iou == pytest.approx((2 / 3 + 0) / 2)


@pytest.mark.parametrize(
    ("changes", "field", "value", "same_input"),
    [
        ({"prompt_tokens": 7}, "largest_token_difference", 3, False),
        ({"prompt_tokens": 10}, "same_tokens", 4, True),
        ({"frame": replace(recordings.FRAME, model_wh=(56, 56))}, "same_frame", 0, False),
        ({"frame": None}, "frames", 0, True),  # unknown is not different
        ({"frame": None}, "boxes", 0, True),
        ({"error": "deadline: late", "text": ""}, "failed", (0, 4), False),
        ({"error": "deadline: late", "text": ""}, "compared", 0, False),
        ({"option_scores": {"A": 0.5, "B": 0.5}}, "score_difference", pytest.approx(0.4), True),
    ],
)
def test_inputs_that_differ_are_seen(recorded, changes, field, value, same_input):
    samples, record = recorded
    path = record("a", (SAYS_A, DRAWS), (SAYS_B, DRAWS_NONE))
    first = Changed(path, prompt_tokens=10, option_scores={"A": 0.9, "B": 0.1})
    found = compare_engines((first, Changed(path, **{"prompt_tokens": 10, **changes})), samples)
    assert getattr(found, field) == value
    assert found.same_input == same_input


def test_two_pixel_caps_are_not_compared_in_silence(recorded):
    samples, record = recorded
    path = record("a", (SAYS_A, DRAWS), (SAYS_B, DRAWS_NONE))
    other = Changed(
        path, name="other", run={"max_pixels": 50_176, "model": "else", "style": "mmad", "masks": "box"}
    )
    with pytest.raises(InputError, match=r"at most 100,352 pixels and other 50,176.*--allow-pixels"):
        compare_engines((ReplayEngine(path), other), samples)
    found = compare_engines((ReplayEngine(path), other), samples, allow_pixels=True)
    assert found.differences == ("model: 'recorded' and 'else'", "max_pixels: 100352 and 50176")


def test_command(recorded, tmp_path, call):
    samples, record = recorded
    path = record("a", (SAYS_A, DRAWS), (SAYS_B, DRAWS_NONE))
    both = f"replay:{path},replay:{path}"
    code, said, err = call("parity", *(sample.image for sample in samples), "--engines", both)
    assert (code, err) == (0, "")
    assert "same text: 4 of 4; same option: 2 of 2" in said
    code, said, _ = call("parity", samples[0].image, "--engines", both, "--json")
    assert json.loads(said)["questions"] == 2
    for engines, message in (
        (f"replay:{path}", "expected two engines"),
        ("local,magic", "unknown engine 'magic'"),
        (f"{both},x", "two"),
    ):
        code, _, err = call("parity", samples[0].image, "--engines", engines)
        assert code == 1
        assert message in err


def test_local_nano_equals_nano_behind_a_url(tmp_path):
    """The parity that matters: the same weights here and behind HTTP, by transformers' own `generate`."""
    path = recordings.draw(tmp_path / "part.png")
    local = load_engine("local:nano")
    with served.serving(served.Nano()) as (url, _):
        engine = EndpointEngine(
            EndpointConfig(url=url, model="nano", family="qwen2_5_vl", max_pixels=local.policy.max_pixels)
        )
        found = compare_engines((local, engine), [recordings.sample(path)])
    assert (found.same_text, found.same_choice, found.same_tokens, found.same_frame) == (2, 1, 2, 2)
    assert found.score_difference < 1e-3
    assert found.same_input


def test_local_nano_equals_nano_behind_transformers_serve(tmp_path):
    """A server that splits the reasoning off, ignores log-probabilities, and is not ours."""
    path = recordings.draw(tmp_path / "part.png")
    local = load_engine("local:nano")
    with transformers_serve.serving_nano(tmp_path / "log") as (url, model):
        file = tmp_path / "server.yaml"
        cap = local.policy.max_pixels
        file.write_text(f"url: {url}\nmodel: {model}\nfamily: qwen2_5_vl\nmax_pixels: {cap}\n")
        engine = load_engine(f"endpoint:{file}")
        found = compare_engines((local, engine), [recordings.sample(path)])
        versions = engine.fingerprint().versions
        theirs = Inspector(engine, masks="box")(path)
    assert (found.same_text, found.same_choice, found.same_tokens, found.same_frame) == (2, 1, 2, 2)
    assert (found.put_back, found.without_reasoning) == ((0, 2), (0, 0))
    assert found.same_input
    assert not found.no_text_agrees
    assert versions["reasoning"] == "split off by the server or its template, put back"
    assert (versions["logprobs"], versions["frame"]) == ("ignored", "known")
    assert theirs.verdict != "good"
    assert theirs.counts["reasoning_put_back"] == 2


def test_command_says_that_reasoning_was_put_back(tmp_path, call):
    path, echo = recordings.draw(tmp_path / "part.png"), served.Echo()
    with served.serving(echo) as (url, _), served.serving(served.split_off(echo, "reasoning")) as (other, _):
        for name, where in (("whole", url), ("split", other)):
            (tmp_path / name).write_text(f"url: {where}\nmodel: nano\nfamily: qwen2_5_vl\n")
        engines = [f"endpoint:{tmp_path / name}" for name in ("whole", "split")]
        code, out, _ = call("parity", path, "--engines", ",".join(engines))
    assert code == 0
    assert "same text: 2 of 2" in out
    assert f"{engines[1]} split the reasoning off 2 of 2 texts; it was put back" in out
    assert f"{engines[0]} split" not in out


def test_no_text_in_common_is_no_parity(recorded, call):
    """A server that drops the reasoning answers alike, and is still not the same."""
    samples, record = recorded
    path = record("a", (SAYS_A, DRAWS), (SAYS_B, DRAWS_NONE))
    bare = record("b", *([text.partition("</think>")[2] for text in (SAYS_A, DRAWS)] for _ in "12"))
    code, out, _ = call("parity", samples[0].image, "--engines", f"replay:{path},replay:{bare}")
    assert code == 2
    assert "same text: 0 of 2; same option: 1 of 1" in out
    assert "no text agrees: other weights, another chat template, or reasoning that a server drops" in out
    assert f"replay:{bare} gave no reasoning with 2 of 2 texts" in out
    assert f"replay:{path} gave" not in out


# Specs.


@pytest.mark.parametrize("spec", ["", "magic", "endpoint", "replay:", "locals"])
def test_unknown_engines(spec):
    with pytest.raises(InputError, match="unknown engine"):
        load_engine(spec)


def test_an_endpoint_has_its_own_model(tmp_path):
    file = tmp_path / "server.yaml"
    file.write_text("url: http://127.0.0.1:9/v1\nmodel: m\nfamily: qwen3_vl\n")
    assert load_engine(f"endpoint:{file}").name == "endpoint"
    for more in ({"model": "other"}, {"revision": "x"}, {"max_pixels": 10**6}):
        with pytest.raises(InputError, match="names its own model"):
            load_engine(f"endpoint:{file}", **more)


def test_vllm_that_is_missing_names_the_install_line():
    try:
        import vllm  # noqa: F401
    except ImportError:
        with pytest.raises(SetupError, match=r'vLLM is missing: pip install "\.\[vllm\]"'):
            load_engine("vllm:nano")
    else:
        pytest.skip("vLLM is installed here")
