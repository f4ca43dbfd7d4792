"""One group in words: what the parser saw in each completion, which row of ROAM that is, what it earned, and
its advantage.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from anomalyr1.boxes import set_iou, to_array
from anomalyr1.rewards import ROAM, UNCHECKED, roam_row
from anomalyr1.training.run_folder import GROUPS, Group, read_groups, read_lines
from anomalyr1.types import Answer, Box, InputError, Question


def explain_group(run: Path, step: int | None = None, number: int = 1) -> list[str]:
    """Lines about the `number`-th group of a step, the newest one unless `step` names it.

    Raises `InputError` for a run without groups, and for a step or a number that has none, naming what there
    is.
    """
    steps = list(dict.fromkeys(line["step"] for line in read_lines(run / GROUPS)))
    if not steps:
        raise InputError(
            f"{str(run)!r} has no groups ({GROUPS} is absent or empty); name the folder of a GRPO run that "
            "has "
            "begun"
        )
    step = steps[-1] if step is None else step
    if step not in steps:
        raise InputError(
            f"{str(run)!r} has no groups of step {step}; it has those of {len(steps)} steps, from "
            f"{steps[0]} to "
            f"{steps[-1]}"
        )
    groups = read_groups(run, step)
    if not 1 <= number <= len(groups):
        raise InputError(
            f"step {step} of {str(run)!r} has {len(groups)} groups; choose one of 1 to {len(groups)}"
        )
    return [f"step {step}, group {number} of {len(groups)}", *group_lines(groups[number - 1])]


def group_lines(group: Group) -> list[str]:
    """A group in words; the texts in it are the policy's own and may hold anything."""
    question = group.question
    lines = [
        f"sample {group.sample_id}, {question.kind}, {group.prompt_tokens} prompt tokens",
        f"image {group.image}",
        *_indented("question: ", question.text),
        *(f"  {letter}. {question.option_text(letter)}" for letter in question.letters),
        f"gold: {gold(question)}",
    ]
    if group.without_signal:
        lines.append("all completions that were scored earned the same: nothing is learned from this group")
    for i, (answer, total) in enumerate(zip(group.answers(), group.totals(), strict=True)):
        lines += ["", f"completion {i + 1}: reward {_value(total)}, advantage {group.advantages[i]:+.3f}"]
        lines += _completion_lines(answer, question, group.rewards_of(i), group.weights)
    return lines


def _completion_lines(
    answer: Answer, question: Question, rewards: Mapping[str, float | None], weights: Mapping[str, float]
) -> list[str]:
    """How a completion was read, and what it earned."""
    earned = [f"{name} {_value(value)} x {weights[name]:g}" for name, value in rewards.items()]
    lines = [
        f"  read: {answer.status}; the reasoning {_conclusion(answer, question)}; the answer is "
        f"{_answer(answer, question)}",
        f"  {_roam(answer, question, rewards)}",
        f"  rewards: {', '.join(earned)}",
    ]
    if answer.counts:
        lines.append(f"  counted: {', '.join(f'{name} {number}' for name, number in answer.counts.items())}")
    return lines + _indented("  text: ", answer.raw)


def _roam(answer: Answer, question: Question, rewards: Mapping[str, float | None]) -> str:
    """The row of ROAM that was paid, under the name of its table.

    It is the row of ours, and the text says that it was not paid, where no reward of the group is a ROAM.
    """
    if (value := rewards.get("roam_released")) is not None:
        return f"ROAM as released, which reads letters in a way of its own: {value:g}"
    table, title = ROAM, "ROAM"
    if "roam_unchecked" in rewards and "roam" not in rewards:
        table, title = UNCHECKED, "ROAM unchecked, where whatever the reasoning concludes agrees"
    elif not rewards.keys() & {"roam", "roam_boxes"}:
        title = "ROAM, not paid here"
    row = roam_row(answer, question, table)
    return f"{title}: {'does not apply' if row is None else f'{row.name} ({row.value:g})'}"


def _answer(answer: Answer, question: Question) -> str:
    """What an answer says, in a few words."""
    if answer.choice is not None:
        return answer.choice
    if answer.boxes is not None:
        text = _box_list(answer.boxes)
        if question.boxes:
            text += f" (set IoU {set_iou(to_array(answer.boxes), to_array(question.boxes)):.2f})"
        return text
    if answer.unmapped_boxes is not None:
        return f"{len(answer.unmapped_boxes)} boxes in the model's own units"
    return "not readable"


def gold(question: Question) -> str:
    """The right answer of a question, in a few words."""
    if question.answer is not None:
        return question.answer
    return "not known" if question.boxes is None else _box_list(question.boxes)


def _box_list(boxes: tuple[Box, ...]) -> str:
    """Corners in original pixels, and labels."""
    texts = [f"[{', '.join(f'{value:.0f}' for value in box.xyxy)}] {box.label}".strip() for box in boxes]
    return "; ".join(texts) or "no box"


def _conclusion(answer: Answer, question: Question) -> str:
    """What the reasoning says, as a verb and its object."""
    if question.options:
        return f"concludes {answer.conclusion}" if answer.conclusion else "concludes nothing"
    if answer.says_defect is None:
        return "says neither defect nor clean"
    place = f" in the {answer.place}" if answer.place else ""
    return f"says there is a defect{place}" if answer.says_defect else "says there is none"


def _value(value: float | None) -> str:
    return "none" if value is None else f"{value:.3g}"


def _indented(title: str, text: str) -> list[str]:
    """A text of several lines behind its title, the later lines under the beginning of the text."""
    indent = " " * len(title)
    return [(indent if i else title) + line for i, line in enumerate(text.split("\n"))]
