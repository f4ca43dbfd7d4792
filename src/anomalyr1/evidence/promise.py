"""What held-out good parts allow to promise of false alarms: order statistics, without any assumption.

The threshold is the k-th highest score of m good parts that nothing was learned from. How many of all good
parts reach it follows a beta distribution, whatever the scores are like (Wilks 1941).
"""

from __future__ import annotations

CONFIDENCE = 0.95


def false_alarm_bound(held_out: int, alarms: int = 0, confidence: float = CONFIDENCE) -> float | None:
    """The rate of false alarms that is not exceeded at this confidence.

    The threshold is the score of the held-out good part with `alarms` others above it, and a part is strange
    when its score is above the threshold. None where so few promise nothing.

    >>> round(false_alarm_bound(29), 3), round(false_alarm_bound(59), 3)
    (0.098, 0.049)
    """
    from scipy.stats import beta

    if held_out <= alarms:
        return None
    return float(beta.ppf(confidence, alarms + 1, held_out - alarms))


def held_out_for(rate: float, confidence: float = CONFIDENCE) -> int:
    """How many held-out good parts promise a rate of false alarms, with the highest score as the threshold.

    >>> [held_out_for(rate) for rate in (0.1, 0.05, 0.02, 0.01, 0.005)]
    [29, 59, 149, 299, 598]
    """
    import math

    return math.ceil(math.log(1 - confidence) / math.log(1 - rate))
