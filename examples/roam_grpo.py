"""GRPO with the ROAM reward as one readable loop, without a trainer: nano learns a drawn part it never saw.

    python examples/roam_grpo.py            # about a minute on 2 cores; the folder runs/example-grpo

`anomalyr1 train nano-grpo` does the same by TRL, with resume, adapters, several GPUs, and each prompt read
once. Here everything is in sight. Dimensions: G completions of one prompt (a group), P prompt tokens, L
completion tokens, V words of the vocabulary.
"""

from __future__ import annotations

import copy
import random
from pathlib import Path

import torch
from torch import Tensor

import anomalyr1
from anomalyr1 import prompts, rewards
from anomalyr1.images.door import open_image
from anomalyr1.images.frames import Frame, resize
from anomalyr1.policy.load import Policy, load_policy
from anomalyr1.types import Answer, Question, Sample

STEPS, G, L = 16, 8, 96
LEARNING_RATE, BETA, EPSILON = 5e-5, 0.04, 1e-6
OUT = Path("runs/example-grpo")


def main(steps: int = STEPS, out: Path = OUT) -> list[float]:
    """Train, and give the mean reward of each step."""
    torch.manual_seed(0)
    draw = random.Random(0)
    policy = load_policy("nano")
    reference = copy.deepcopy(policy.model).eval().requires_grad_(False)
    optimizer = torch.optim.AdamW(policy.model.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
    samples = list(anomalyr1.load("drawn:connector?n=12&seed=0&references=0", folder=out / "drawn"))
    means = []
    for step in range(1, steps + 1):
        # 1. One prompt: a picture and a question with options whose answer is known
        sample = draw.choice(samples)
        question = draw.choice([prompts.gold_inspection_questions(sample)[0], *with_options(sample)])
        inputs, frame = encode(policy, sample, question)
        # 2. A group: G completions of it, sampled
        completions = sample_group(policy, inputs)  # (G, L)
        written = completions != policy.processor.tokenizer.pad_token_id  # (G, L)
        # 3. Each is read, and earns the answer reward and ROAM
        texts = policy.processor.tokenizer.batch_decode(completions, skip_special_tokens=True)
        answers = [anomalyr1.parse(text, question.options, frame) for text in texts]
        earned = torch.tensor([reward(answer, question) for answer in answers])  # (G,)
        # 4. The advantage is what a completion earned beyond its group, in standard deviations
        advantages = (earned - earned.mean()) / (earned.std() + EPSILON)  # (G,)
        # 5. The loss: likelier completions where the advantage is positive, and not far from the reference
        logps = log_probabilities(policy.model, inputs, completions)  # (G, L)
        with torch.no_grad():
            reference_logps = log_probabilities(reference, inputs, completions)
        loss = grpo_loss(logps, reference_logps, advantages, written)
        # 6. One step
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.model.parameters(), 1.0)
        optimizer.step()
        means.append(float(earned.mean()))
        print(f"step {step:3}  reward {means[-1]:.2f} of 2  {question.kind}: {texts[0][:70]!r}")
    policy.model.save_pretrained(out / "final")
    policy.processor.save_pretrained(out / "final")
    print(f"saved: {out / 'final'}; inspect with it: anomalyr1 inspect PARTS --model {out / 'final'}")
    return means


def with_options(sample: Sample) -> list[Question]:
    """The sample's own questions with options and a known answer."""
    return [question for question in sample.questions if question.answer is not None]


def encode(policy: Policy, sample: Sample, question: Question) -> tuple[dict[str, Tensor], Frame]:
    """The model's inputs for one prompt, and how the model sees the inspected image."""
    prompt = prompts.build(sample, question)
    pictures = [resize(open_image(path).rgb, policy.family, policy.max_pixels) for path in prompt.images]
    text = policy.processor.apply_chat_template(prompt.messages, tokenize=False, add_generation_prompt=True)
    images = [picture for picture, _ in pictures]
    inputs = policy.processor(text=[text], images=images, do_resize=False, return_tensors="pt")
    return dict(inputs), pictures[-1][1]


def reward(answer: Answer, question: Question) -> float:
    """0 to 2, as in the paper's recipe."""
    return sum(term(answer, question) or 0.0 for term in (rewards.accuracy, rewards.roam))


def sample_group(policy: Policy, inputs: dict[str, Tensor]) -> Tensor:
    """(G, L) ids of sampled completions, padded behind the token that ends each."""
    policy.model.eval()
    prompt_length = inputs["input_ids"].shape[1]
    with torch.no_grad():
        ids = policy.model.generate(
            **inputs,
            do_sample=True,
            temperature=1.0,
            num_return_sequences=G,
            max_new_tokens=L,
            eos_token_id=list(policy.stop_ids),
            suppress_tokens=list(policy.suppressed_ids),
        )
    return ids[:, prompt_length:]


def log_probabilities(model: torch.nn.Module, inputs: dict[str, Tensor], completions: Tensor) -> Tensor:
    """(G, L) log-probability of each token of the completions, given the prompt and the tokens before it."""
    count, length = completions.shape
    # The prompt stands before each completion, its image too: what a shared prefix avoids
    repeated = {name: value.repeat(count, *[1] * (value.dim() - 1)) for name, value in inputs.items()}
    repeated["input_ids"] = torch.cat([repeated["input_ids"], completions], dim=1)  # (G, P + L)
    repeated["attention_mask"] = torch.ones_like(repeated["input_ids"])
    if "mm_token_type_ids" in repeated:
        text_only = torch.zeros_like(completions)
        repeated["mm_token_type_ids"] = torch.cat([repeated["mm_token_type_ids"], text_only], dim=1)
    logits = model(**repeated, logits_to_keep=length + 1).logits[:, :-1]  # (G, L, V)
    return logits.log_softmax(-1).gather(-1, completions[..., None])[..., 0]


def grpo_loss(logps: Tensor, reference_logps: Tensor, advantages: Tensor, written: Tensor) -> Tensor:
    """The loss of Shao et al. (2024): the mean over completions of the mean over their tokens.

    There is one step a group, so the ratio of new to old probabilities is 1 and nothing is clipped; its
    gradient is what counts.
    """
    ratio = (logps - logps.detach()).exp()
    apart = reference_logps - logps
    kl = apart.exp() - apart - 1
    per_token = -ratio * advantages[:, None] + BETA * kl  # (G, L)
    return ((per_token * written).sum(1) / written.sum(1).clamp(min=1)).mean()


if __name__ == "__main__":
    main()
