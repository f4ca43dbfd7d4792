"""What holds of every engine: one contract, run by all that are installed."""

from pathlib import Path

import pytest

from anomalyr1 import answers, prompts, records
from anomalyr1.engines.endpoint import EndpointEngine
from anomalyr1.engines.endpoint_config import EndpointConfig
from anomalyr1.engines.local import LocalEngine
from anomalyr1.engines.replay import ReplayEngine
from anomalyr1.images.frames import fit
from anomalyr1.types import Answer, InputError, Inspection, Reply, Sample
from support import served
from support.contract import ASKED, IMAGES, SAMPLES, SHORT, policy, spoken


@pytest.fixture(params=["local", "replay", "endpoint", "vllm"])
def engine(request, tmp_path):
    if request.param == "local":
        yield LocalEngine(policy())
    elif request.param == "replay":
        fingerprint = LocalEngine(policy()).fingerprint(SHORT).model_copy(update={"style": "ours"})
        with records.Writer(tmp_path / "recorded.jsonl", fingerprint) as writer:
            for i, sample in enumerate(SAMPLES):
                replies = [
                    Reply(
                        question_id=prompt.question.id,
                        completion=one.text,
                        answer=Answer(status="unparseable"),
                        finish=one.finish,
                        option_scores=one.option_scores,
                    )
                    for prompt, one in zip(ASKED[2 * i : 2 * i + 2], spoken()[2 * i : 2 * i + 2], strict=True)
                ]
                writer.append(
                    Inspection(
                        sample_id=sample.id, verdict="unsure", reason="recorded", replies=tuple(replies)
                    )
                )
        yield ReplayEngine(tmp_path / "recorded.jsonl")
    elif request.param == "endpoint":
        with served.serving(served.Nano()) as (url, _):
            yield EndpointEngine(
                EndpointConfig(url=url, model="nano", family="qwen2_5_vl", max_pixels=policy().max_pixels)
            )
    else:
        pytest.importorskip(
            "vllm", reason='vLLM is not installed here: pip install ".[vllm]" on a machine with a GPU'
        )
        from anomalyr1.engines.vllm import VllmEngine

        yield VllmEngine("nano")


def test_contract(engine):
    completions = engine.complete(ASKED, IMAGES, SHORT)
    assert [one.text for one in completions] == [
        one.text for one in spoken()
    ]  # greedy: the same weights say the same everywhere
    assert all(one.error is None for one in completions)
    assert [one.finish for one in completions] == [one.finish for one in spoken()]
    for prompt, one, other in zip(ASKED, completions, spoken(), strict=True):
        image = IMAGES[prompt.images[-1]]
        assert one.frame.original_wh == image.size_wh
        assert one.frame.model_wh == fit(image.size_wh, policy().family, policy().max_pixels)
        assert one.frame.units == "pixels"
        assert one.answer == answers.parse(one.text, prompt.question.options, one.frame)
        assert one.prompt_tokens in (0, other.prompt_tokens)  # 0: not known
        assert one.completion_tokens in (0, other.completion_tokens)
        assert (one.option_scores is None) == (other.option_scores is None)
        if one.option_scores:
            assert one.option_scores == pytest.approx(other.option_scores, abs=1e-3)
            assert sum(one.option_scores.values()) == pytest.approx(1)
            assert max(one.option_scores, key=one.option_scores.get) == one.answer.choice
    assert any(one.option_scores for one in completions)
    found = engine.fingerprint(SHORT)
    assert (found.model, found.family, found.max_pixels) == ("nano", "qwen2_5_vl", policy().max_pixels)
    assert found.engine == engine.name
    assert engine.complete([], IMAGES, SHORT) == []


def test_what_cannot_be_asked_is_refused(engine):
    if engine.name == "replay":
        pytest.skip("a recording has no images to miss")
    gone = prompts.build(Sample(id="gone", image=Path("gone.png")), prompts.inspection_questions("gone")[0])
    with pytest.raises(InputError, match=r"sample 'gone'.*'gone\.png' was not given"):
        engine.complete([*ASKED, gone], IMAGES, SHORT)
