"""Model text to answers: the one door. `write` makes the completion a model should learn, `parse` reads what a model wrote."""

from anomalyr1.answers.completion import as_mmad, as_released, choice_at, parse, write
from anomalyr1.answers.conclusion import read_conclusion

__all__ = ["as_mmad", "as_released", "choice_at", "parse", "read_conclusion", "write"]
