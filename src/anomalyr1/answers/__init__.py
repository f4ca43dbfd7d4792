"""Model text to answers: the one door.

`write` makes the completion a model should learn, `parse` reads what a model wrote, `read_reasoning` what its
reasoning says.
"""

from anomalyr1.answers.completion import as_mmad, as_released, choice_at, parse, parse_with_place, write
from anomalyr1.answers.conclusion import read_conclusion
from anomalyr1.answers.reasoning import Reasoning, read_reasoning

__all__ = [
    "Reasoning",
    "as_mmad",
    "as_released",
    "choice_at",
    "parse",
    "parse_with_place",
    "read_conclusion",
    "read_reasoning",
    "write",
]
