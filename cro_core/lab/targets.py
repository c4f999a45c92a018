"""What the engine promises, scenario by scenario, and whether the lab finds that it keeps it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from importlib.metadata import version
from itertools import product
from typing import Any

import numpy as np

from cro_core.errors import InvalidInput
from cro_core.lab.discoveries import stream
from cro_core.lab.measures import Share, coverage, fpr, power, srm_alarms
from cro_core.lab.scenario import Scenario, planned
from cro_core.statistics.rules import LookPlan
from cro_core.statistics.sample_size import sample_size

RATES = (0.01, 0.03, 0.10)
DRIFTS = ("week", "promo", "decay")
ALLOCATIONS: tuple[dict[str, Any], ...] = (
    {"adaptive": False},
    {"adaptive": True, "floor": 0.3},
    {"adaptive": True, "floor": 0.1},
)


@dataclass(frozen=True, slots=True)
class Line:
    """One figure of the table."""

    target: str
    """Which promise, as ``T1``."""
    what: str
    """The figure, in words."""
    scenario: str
    """What was simulated."""
    found: Share
    """What came out."""
    low: float
    """Least that keeps the promise; -inf where nothing is too small."""
    high: float
    """Most that keeps it; inf where nothing is too much."""
    naive: Share | None = None
    """The same of the naive rule on the same data."""
    slack: float = 3.0
    """Monte-Carlo errors that the figure may lie outside."""

    @property
    def kept(self) -> bool:
        """Whether the promise is kept, as far as the simulation can tell."""
        room = self.slack * self.found.error
        return self.low - room <= self.found.value <= self.high + room


Target = Callable[[int, np.random.Generator], Iterator[Line]]


def table(programmes: int, seed: int, only: Sequence[str] | None = None) -> Iterator[Line]:
    """Every promise, simulated; lines come as they are ready.

    Args:
        programmes: simulated per scenario; 10,000 is what the promises are worded for.
        seed: of the random numbers; a target's lines do not depend on which others are asked for.
        only: keys of ``TARGETS``, each simulated once, or of ``TOGETHER``, whose lines alone are kept then;
            ``None`` is all.

    Raises:
        InvalidInput: a key that is none.
    """
    names = list(TARGETS)
    asked = names if only is None else list(dict.fromkeys(only))
    for name in asked:
        if name not in TARGETS and name not in TOGETHER:
            raise InvalidInput(f"target is {name!r}: choose from {', '.join(_all_names())}", field="only")
    for name in dict.fromkeys(TOGETHER.get(name, name) for name in asked):
        lines = TARGETS[name](programmes, np.random.default_rng([seed, names.index(name)]))
        yield from (line for line in lines if name in asked or line.target in asked)


def _all_names() -> list[str]:
    return sorted({*TARGETS, *TOGETHER}, key=lambda name: int(name[1:]))


def document(lines: Sequence[Line], programmes: int, seed: int, day: date) -> str:
    """The whole table as a document that says how it came about."""
    libraries = ", ".join(f"{name} {version(name)}" for name in ("numpy", "scipy"))
    kept = sum(line.kept for line in lines)
    return f"""# What the lab finds

{programmes:,} programmes per scenario, seed {seed}, on {day:%d %B %Y} with {libraries}. {kept} of {len(lines)} figures
are within their bounds; a figure may be {lines[0].slack:g} Monte-Carlo errors (after ±) outside. The naive rule looks at a
chi-square at .05 every hour, once each variant has 100 visitors and the observed uplift is 10 %. For T11 its column
shows the pooled uplift's bias instead, for T14 the false discovery rate without correction.
[statistics.md](statistics.md) says what the scenarios are.

{markdown(lines)}"""


def markdown(lines: Sequence[Line]) -> str:
    """The table alone."""
    head = [
        "| target | what | scenario | bound | found | naive rule | kept |",
        "|---|---|---|---|---|---|---|",
    ]
    return "\n".join(head + [_row(line) for line in lines]) + "\n"


def _row(line: Line) -> str:
    bounds = [f"at least {line.low:.4g}"] * math.isfinite(line.low)
    bounds += [f"at most {line.high:.4g}"] * math.isfinite(line.high)
    naive = "" if line.naive is None else f"{line.naive.value:.4f}"
    found = f"{line.found.value:.4f} ± {line.found.error:.4f}"
    kept = "yes" if line.kept else "**no**"
    return f"| {line.target} | {line.what} | {line.scenario} | {', '.join(bounds)} | {found} | {naive} | {kept} |"


def _at_fixed_size(rate: float, **more: Any) -> Scenario:
    """As many visitors as give one chi-square at the end 80 % power for +10 %."""
    return replace(Scenario(base_rate=rate, units=2 * sample_size(rate, 0.1)), **more)


def _false_positives(programmes: int, rng: np.random.Generator) -> Iterator[Line]:
    moving: list[Share] = []
    for shares, drift, rate in product(ALLOCATIONS, DRIFTS, RATES):
        scenario = _at_fixed_size(rate, profile=drift, **shares)
        found = fpr(scenario, programmes, rng)
        moving += [found.any] * scenario.adaptive
        yield Line("T1", "false positives", str(scenario), found.any, -math.inf, 0.05, found.naive)
    error = math.sqrt(sum(f.error**2 for f in moving)) / len(moving)
    pooled = Share(float(np.mean([f.value for f in moving])), error)
    yield Line("T3", "false positives", "moving shares, all of the above", pooled, -math.inf, 0.05)


def _false_wins(programmes: int, rng: np.random.Generator) -> Iterator[Line]:
    for arms, shares, drift in product((3, 4), ALLOCATIONS[::2], DRIFTS):
        units = arms * sample_size(0.03, 0.1)
        scenario = replace(Scenario(uplifts=(0.0,) * (arms - 1), units=units, profile=drift), **shares)
        found = fpr(scenario, programmes, rng)
        yield Line(
            "T2", "false challenger wins", str(scenario), found.challenger, -math.inf, 0.025, found.naive
        )


def _planned_power(programmes: int, rng: np.random.Generator) -> Iterator[Line]:
    for rate in RATES:
        scenario = planned(Scenario(base_rate=rate, uplifts=(0.1,), profile="week"))
        found = power(scenario, programmes, rng)
        yield Line(
            "T4", "power at the planner's size", str(scenario), found.power, 0.8, math.inf, found.naive
        )
    for floor in (0.3, 0.1):
        scenario = planned(Scenario(uplifts=(0.1,), profile="week", adaptive=True, floor=floor))
        found = power(scenario, programmes, rng)
        yield Line(
            "T4", "power at the planner's size", str(scenario), found.power, 0.8, math.inf, found.naive
        )
    for profile, most in (("const", (0.82, 0.55, 0.42)), ("week", (math.inf,) * 3)):
        for uplift, bound in zip((0.1, 0.15, 0.2), most, strict=True):
            scenario = replace(planned(Scenario(profile=profile)), uplifts=(uplift,))
            sample = power(scenario, programmes, rng).sample
            yield Line("T5", "mean sample / fixed-horizon sample", str(scenario), sample, -math.inf, bound)


def _futility(programmes: int, rng: np.random.Generator) -> Iterator[Line]:
    scenario = planned(Scenario(plan=LookPlan(futility=True)))
    for uplift, most in ((0.0, 0.67), (0.1, 0.76)):
        at = replace(scenario, uplifts=(uplift,))
        found = power(at, programmes, rng)
        yield Line("T6", "mean sample with futility", str(at), found.sample, -math.inf, most)
    yield Line("T6", "power with futility", str(at), found.power, 0.8, math.inf, found.naive)


def _many_variants(programmes: int, rng: np.random.Generator) -> Iterator[Line]:
    equal = Scenario(uplifts=(0.1, 0.0, 0.0), units=4 * sample_size(0.03, 0.1), profile="week")
    split = power(equal, programmes, rng)
    matched = replace(equal, adaptive=True, floor=0.1)
    found = power(matched, programmes, rng)
    yield Line("T8", "power with equal shares", str(equal), split.power, -math.inf, math.inf, split.naive)
    yield Line("T8", "power, control matched", str(matched), found.power, 0.77, math.inf, found.naive)


def _moving_power(programmes: int, rng: np.random.Generator) -> Iterator[Line]:
    for factor, least in ((1.0, 0.70), (1.25, 0.80)):
        scenario = _at_fixed_size(0.03, uplifts=(0.1,), adaptive=True)
        scenario = replace(scenario, units=round(factor * scenario.units))
        found = power(scenario, programmes, rng)
        name = f"{scenario}, traffic x{factor:g}"
        yield Line("T9", "power", name, found.power, least, math.inf, found.naive)


def _delays(programmes: int, rng: np.random.Generator) -> Iterator[Line]:
    for drift in DRIFTS:
        scenario = _at_fixed_size(0.03, adaptive=True, profile=drift, delay_hours=24.0, window_hours=72.0)
        found = fpr(scenario, programmes, rng)
        name = f"{scenario}, conversions a day late"
        yield Line("T10", "false positives", name, found.any, -math.inf, 0.057, found.naive)


def _estimates(programmes: int, rng: np.random.Generator) -> Iterator[Line]:
    for drift in ("week", "decay"):
        scenario = _at_fixed_size(0.03, uplifts=(0.1,), adaptive=True, profile=drift)
        found = coverage(scenario, programmes, rng)
        yield Line(
            "T11", "bias of the uplift by days", str(scenario), found.bias, -0.003, 0.003, found.pooled_bias
        )
    for uplift in (0.1, 0.15):
        scenario = planned(Scenario(uplifts=(uplift,), profile="week"))
        found = coverage(scenario, programmes, rng)
        median = Share(found.median, 1.25 * found.bias.error / uplift)
        yield Line("T12", "median estimate / truth", str(scenario), median, 0.97, 1.03)
        yield Line("T12", "stagewise coverage", str(scenario), found.stagewise, 0.94, 0.965)


def _split_checks(programmes: int, rng: np.random.Generator) -> Iterator[Line]:
    for uplifts, floor in (((0.0,), 0.3), ((0.0, 0.0), 0.1)):
        scenario = Scenario(profile="week", adaptive=True, uplifts=uplifts, floor=floor)
        found = srm_alarms(scenario, programmes, rng)
        yield Line("T13", "false alarms of the split check", str(scenario), found, -math.inf, 0.01)


def _streams(programmes: int, rng: np.random.Generator) -> Iterator[Line]:
    scenario = Scenario(uplifts=(0.1,), profile="week")
    for together in (1, 5):
        found = stream(scenario, max(programmes // 50, 1), rng, together=together)
        name = f"120 experiments, {together} at a time, a fifth with +10%"
        yield Line("T14", "false discovery rate", name, found.rate, -math.inf, 0.10, found.uncorrected)
        yield Line("T14", "real effects found", name, found.power, 0.75, math.inf)


TARGETS: Mapping[str, Target] = {
    "T1": _false_positives,
    "T2": _false_wins,
    "T4": _planned_power,
    "T6": _futility,
    "T8": _many_variants,
    "T9": _moving_power,
    "T10": _delays,
    "T11": _estimates,
    "T13": _split_checks,
    "T14": _streams,
}
"""The promises, by the first of those that one simulation serves."""

TOGETHER: Mapping[str, str] = {"T3": "T1", "T5": "T4", "T12": "T11"}
"""Promises that another one's simulation serves."""
