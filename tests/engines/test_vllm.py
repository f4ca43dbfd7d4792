"""The vLLM engine over a stand-in with the calls and fields of vLLM 0.30 that our engine uses, over nano."""

import sys
import types
from collections import namedtuple

import pytest
import torch

from anomalyr1.engines.engine import Sampling
from anomalyr1.engines.local import LocalEngine
from anomalyr1.policy import chat
from anomalyr1.policy.folders import NANO_FOLDER
from anomalyr1.policy.load import load_policy
from anomalyr1.types import InputError
from support.contract import ASKED, IMAGES, SHORT, policy, spoken

torch.set_num_threads(1)

Logprob = namedtuple("Logprob", "logprob")
Own = namedtuple("Own", "text token_ids finish_reason logprobs")
Output = namedtuple("Output", "prompt_token_ids outputs")


class Params:
    """`vllm.SamplingParams`; a field it does not have is an error."""

    def __init__(
        self,
        *,
        max_tokens,
        temperature,
        top_p,
        seed,
        stop_token_ids,
        logit_bias,
        logprobs,
        skip_special_tokens,
    ):
        self.__dict__ |= {name: value for name, value in locals().items() if name != "self"}


class Llm:
    """`vllm.LLM`, over transformers' own processor and `generate`."""

    made = None
    max_pixels = None

    def __init__(
        self,
        *,
        model,
        trust_remote_code,
        enable_prefix_caching,
        generation_config,
        limit_mm_per_prompt,
        mm_processor_kwargs,
        seed,
    ):
        assert (model, trust_remote_code, enable_prefix_caching, generation_config) == (
            str(NANO_FOLDER),
            False,
            True,
            "vllm",
        )
        self.cap = Llm.max_pixels or mm_processor_kwargs["max_pixels"]
        self.policy = load_policy(model, device="cpu")
        Llm.made = self

    def generate(self, prompts, params, use_tqdm):
        assert use_tqdm is False
        self.params = params
        return [self._one(prompt, own) for prompt, own in zip(prompts, params, strict=True)]

    def _one(self, prompt, params):
        processor = self.policy.processor
        size = {"shortest_edge": self.policy.family.min_pixels, "longest_edge": self.cap}
        seen = processor.image_processor(
            images=prompt["multi_modal_data"]["image"], size=size, return_tensors="pt"
        )
        image_id = processor.tokenizer.convert_tokens_to_ids(chat.IMAGE)
        merge = self.policy.model.config.vision_config.spatial_merge_size
        counts = [int(grid.prod()) // merge**2 for grid in seen["image_grid_thw"]]
        whole = torch.tensor([chat.expand(prompt["prompt_token_ids"], image_id, counts)])
        inputs = {
            "input_ids": whole,
            "attention_mask": torch.ones_like(whole),
            "mm_token_type_ids": (whole == image_id).long(),
        } | seen
        with torch.inference_mode():
            out = self.policy.model.generate(
                **inputs,
                max_new_tokens=params.max_tokens,
                do_sample=False,
                suppress_tokens=list(params.logit_bias),
                output_scores=True,
                return_dict_in_generate=True,
            )
        ids = out.sequences[0, whole.shape[1] :].tolist()
        stop = "stop" if ids[-1] in params.stop_token_ids else "length"
        text = processor.tokenizer.decode(
            ids, skip_special_tokens=params.skip_special_tokens, clean_up_tokenization_spaces=False
        )
        logprobs = params.logprobs and [
            self._top(id_, row[0], params.logprobs) for id_, row in zip(ids, out.scores, strict=True)
        ]
        return Output(whole[0].tolist(), [Own(text, ids, stop, logprobs)])

    def _top(self, chosen, scores, n):
        logprobs = scores.log_softmax(-1)
        return {id_: Logprob(logprobs[id_].item()) for id_ in {chosen, *logprobs.topk(n).indices.tolist()}}


@pytest.fixture
def vllm_engine(monkeypatch):
    from anomalyr1.engines import vllm

    monkeypatch.setitem(sys.modules, "vllm", types.SimpleNamespace(LLM=Llm, SamplingParams=Params))
    monkeypatch.setattr(vllm, "version", lambda name: "0.30.0")
    return vllm.VllmEngine


def test_it_says_what_the_local_engine_says(vllm_engine):
    engine = vllm_engine("nano")
    completions = engine.complete(ASKED, IMAGES, SHORT)
    for one, other in zip(completions, spoken(), strict=True):
        assert (one.text, one.frame, one.prompt_tokens, one.completion_tokens, one.finish) == (
            other.text, other.frame, other.prompt_tokens, other.completion_tokens, other.finish,
        )  # fmt: skip
        assert one.option_scores == (other.option_scores and pytest.approx(other.option_scores, abs=1e-4))
    ours, local = engine.fingerprint(SHORT), LocalEngine(policy()).fingerprint(SHORT)
    for name in ("model", "revision", "family", "max_pixels", "sampling", "seed"):
        assert getattr(ours, name) == getattr(local, name)


def test_what_it_asks_for(vllm_engine):
    engine = vllm_engine("nano")
    engine.complete(
        [ASKED[0], ASKED[0], ASKED[1]], IMAGES, Sampling(max_new_tokens=3, temperature=0.7, top_p=0.9, seed=5)
    )
    first, again, boxes = Llm.made.params
    assert (first.max_tokens, first.temperature, first.top_p) == (3, 0.7, 0.9)
    assert len({first.seed, again.seed, boxes.seed}) == 3
    assert (first.logprobs, boxes.logprobs) == (20, None)
    assert set(first.stop_token_ids) == set(policy().stop_ids)
    assert not set(first.logit_bias) & set(policy().stop_ids)
    named = {policy().processor.tokenizer.convert_tokens_to_ids(name) for name in chat.NEVER_WRITTEN}
    assert named & set(policy().suppressed_ids) <= set(first.logit_bias)


def test_an_image_that_vllm_resizes_is_found_out(vllm_engine, monkeypatch):
    monkeypatch.setattr(Llm, "max_pixels", 20_000)
    with pytest.raises(InputError, match=r"expected a prompt of \d+ tokens, vLLM made \d+ of it"):
        vllm_engine("nano").complete(ASKED[:1], IMAGES, SHORT)


def test_fast_is_refused(vllm_engine):
    with pytest.raises(InputError, match="does not answer without reasoning"):
        vllm_engine("nano").fingerprint(Sampling(fast=True))
