"""The e-value that adds up: its expectation, and the chance that a product of them ever reaches 20."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cro_core.errors import InvalidInput
from cro_core.statistics.arrays import Floats
from cro_core.statistics.evalue import RATIOS, e_value, log_e_value

SEED = 8


def test_the_ratios_are_those_that_were_agreed() -> None:
    assert (
        pytest.approx(
            [0.0125, 0.0378, 0.0637, 0.0908, 0.1196, 0.1511, 0.1869, 0.2301, 0.2879, 0.3920], abs=5e-5
        )
        == RATIOS
    )


def test_it_is_the_mean_of_likelihood_ratios() -> None:
    x0, x1, w = 60, 45, 0.3
    expected = np.mean(
        [math.exp(psi * x1 - (x0 + x1) * math.log(1 - w + w * math.exp(psi))) for psi in RATIOS]
    )
    assert e_value([[x0, x1]], [w]) == pytest.approx(expected, rel=1e-12)
    assert e_value([[60, 45]], [0.5]) < 1 < e_value([[45, 60]], [0.5])
    assert e_value(np.zeros((0, 2)), []) == pytest.approx(1, abs=1e-12)
    assert e_value([[0, 0]], [0.5]) == pytest.approx(1, abs=1e-12)


def test_epochs_multiply_inside_each_ratio() -> None:
    counts, shares = [[60, 45], [20, 70]], [0.3, 0.7]
    each = [
        math.prod(
            math.exp(psi * x1 - (x0 + x1) * math.log(1 - w + w * math.exp(psi)))
            for (x0, x1), w in zip(counts, shares, strict=True)
        )
        for psi in RATIOS
    ]
    assert e_value(counts, shares) == pytest.approx(np.mean(each), rel=1e-12)
    assert e_value(counts, shares) != pytest.approx(e_value(counts[:1], [0.3]) * e_value(counts[1:], [0.7]))
    assert e_value([[60, 45], [20, 25]], [0.3, 0.3]) == pytest.approx(e_value([[80, 70]], [0.3]), rel=1e-12)


def test_programmes_on_leading_axes() -> None:
    rng = np.random.default_rng(SEED)
    counts, shares = rng.poisson(30, (5, 3, 2)), rng.uniform(0.2, 0.8, (5, 3))
    found = log_e_value(counts, shares)
    assert found == pytest.approx([math.log(e_value(c, w)) for c, w in zip(counts, shares, strict=True)])


def test_a_large_one_stays_a_number() -> None:
    assert e_value([[0, 10_000]], [0.5]) == math.exp(700)


@pytest.mark.parametrize("share", [0.5, 0.3])
@pytest.mark.parametrize("rate", [0.03, 0.5])
def test_without_an_effect_its_expectation_is_at_most_1(share: float, rate: float) -> None:
    """Also where the challenger is worse, and where shares follow what was seen."""
    rng = np.random.default_rng(SEED)
    n1 = rng.binomial(2_000, share, 40_000)
    x = np.stack([rng.binomial(2_000 - n1, rate), rng.binomial(n1, rate)], axis=-1)[:, None]
    e = np.exp(log_e_value(x, np.full((len(x), 1), share)))
    assert e.mean() <= 1.05
    worse = np.stack([rng.binomial(2_000 - n1, rate), rng.binomial(n1, 0.9 * rate)], axis=-1)[:, None]
    assert np.exp(log_e_value(worse, np.full((len(x), 1), share))).mean() < 0.9


def test_shares_that_follow_the_past_leave_the_expectation() -> None:
    rng = np.random.default_rng(SEED)
    shares, counts = np.full((20_000, 10), 0.5), np.zeros((20_000, 10, 2))
    for day in range(10):
        if day:
            ahead = counts[:, :day, 1].sum(-1) / np.maximum(counts[:, :day].sum((-1, -2)), 1)
            shares[:, day] = np.clip(ahead**3 / (ahead**3 + (1 - ahead) ** 3), 0.1, 0.9)
        total = rng.poisson(15, 20_000)
        counts[:, day, 1] = rng.binomial(total, shares[:, day])
        counts[:, day, 0] = total - counts[:, day, 1]
    assert np.exp(log_e_value(counts, shares)).mean() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("homes", [1, 5, 20, pytest.param(50, marks=pytest.mark.slow)])
def test_products_over_homes_seldom_reach_20(homes: int) -> None:
    """26 weeks at 9 conversions a day; a home starts anew above 3 and pauses below 1/3."""
    rng, repeats = np.random.default_rng(SEED), 1_500
    now, past = np.zeros((repeats, homes, 1, 2)), np.zeros((repeats, homes))
    ever = np.zeros(repeats, bool)
    for _ in range(26):
        e = log_e_value(now, np.full((repeats, homes, 1), 0.5))
        anew = e > math.log(3)
        past, now = past + np.where(anew, e, 0), np.where(anew[..., None, None], 0, now)
        running: Floats = (e > -math.log(3)) | (rng.random(e.shape) < 0.3)
        now = now + rng.poisson(31.5, now.shape) * running[..., None, None]
        together = (past + log_e_value(now, np.full((repeats, homes, 1), 0.5))).sum(-1)
        ever |= together >= math.log(20)
    assert ever.mean() <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / repeats)


def test_it_finds_what_is_there() -> None:
    rng = np.random.default_rng(SEED)
    x = np.stack([rng.poisson(6_000, 500), rng.poisson(1.1 * 6_000, 500)], axis=-1)[:, None]
    assert (log_e_value(x, np.full((500, 1), 0.5)) >= math.log(20)).mean() > 0.95


@pytest.mark.parametrize(
    ("counts", "shares", "message"),
    [
        ([[1, 2, 3]], [0.5], r"conversions have shape \(1, 3\)"),
        ([[1, 2]], [0.5, 0.5], r"shares \(2,\)"),
        ([[1, -2]], [0.5], "negative number or NaN"),
        ([[1, math.nan]], [0.5], "negative number or NaN"),
        ([[1, 2]], [1.0], "shares are"),
        ([[1, 2]], [math.nan], "shares are"),
    ],
)
def test_bad_arguments_are_named(counts: list[list[float]], shares: list[float], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        e_value(counts, shares)


def test_an_epoch_without_conversions_may_have_any_share() -> None:
    assert e_value([[0, 0], [5, 9]], [1.0, 0.5]) == e_value([[5, 9]], [0.5]) > 1
