"""What held-out good parts allow to promise."""

import numpy as np
import pytest

from anomalyr1.evidence.promise import false_alarm_bound, held_out_for


@pytest.mark.parametrize(("rate", "count"), [(0.1, 29), (0.05, 59), (0.02, 149), (0.01, 299), (0.005, 598)])
def test_the_published_table(rate, count):
    assert held_out_for(rate) == count
    assert false_alarm_bound(count) <= rate < false_alarm_bound(count - 1)


@pytest.mark.parametrize("held_out", [29, 59])
def test_the_promise_is_kept(held_out):
    """Whatever scores are like: the share above the highest of m is within the promise in 95 % of draws."""
    rng = np.random.default_rng(0)
    scores = rng.lognormal(size=(1000, held_out))
    population = np.sort(rng.lognormal(size=100_000))
    rates = 1 - np.searchsorted(population, scores.max(1), side="right") / len(population)
    assert (rates <= false_alarm_bound(held_out)).mean() >= 0.92


def test_nothing_is_promised_without_parts():
    assert false_alarm_bound(0) is None
