"""The table of promises: what the statistics promise, scenario by scenario, and whether a simulation finds it kept."""

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
from cro_core.lab.discoveries import false_discoveries
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
    """A line of the table of promises: a simulated figure, and its bounds."""

    target: str
    """Key of the promise, such as ``T1``."""
    what: str
    """Name of the figure, in words."""
    scenario: str
    """The simulated scenario, in words."""
    found: Share
    """The simulated figure."""
    low: float
    """Least value that keeps the promise; -inf where nothing is too small."""
    high: float
    """Most that keeps the promise; inf where nothing is too much."""
    naive: Share | None = None
    """The figure of the naive rule on the same data; ``None`` where it has none."""
    slack: float = 3.0
    """Monte-Carlo errors by which the figure may lie outside its bounds."""

    @property
    def kept(self) -> bool:
        """Whether the promise is kept, as far as the simulation can tell."""
        room = self.slack * self.found.error
        return self.low - room <= self.found.value <= self.high + room


Target = Callable[[int, np.random.Generator], Iterator[Line]]


def table(programmes: int, seed: int, only: Sequence[str] | None = None) -> Iterator[Line]:
    """Simulates every promise and yields its lines as they are ready.

    Args:
        programmes: simulated per scenario; 10,000 is what the promises are worded for.
        seed: of the random numbers; a target's lines do not depend on which others are asked for.
        only: keys of ``TARGETS``, each simulated once, or of ``TOGETHER``, whose lines alone are kept then;
            ``None`` is all.

    Raises:
        InvalidInput: a key that is none.
    """
    names = list(TARGETS)
    keys = names if only is None else list(dict.fromkeys(only))
    for name in keys:
        if name not in TARGETS and name not in TOGETHER:
            raise InvalidInput(f"target is {name!r}: choose from {', '.join(_all_names())}", field="only")
    for name in dict.fromkeys(TOGETHER.get(name, name) for name in keys):
        lines = TARGETS[name](programmes, np.random.default_rng([seed, names.index(name)]))
        yield from (line for line in lines if name in keys or line.target in keys)


def _all_names() -> list[str]:
    return sorted({*TARGETS, *TOGETHER}, key=lambda name: int(name[1:]))


def document(lines: Sequence[Line], programmes: int, seed: int, day: date) -> str:
    """Writes the table of promises as a document that says how it came about."""
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
    """Writes the table of promises in Markdown."""
    head = [
        "| target | what | scenario | bound | found | naive rule | kept |",
        "|---|---|---|---|---|---|---|",
    ]
    return "\n".join(head + [_row(line) for line in lines]) + "\n"


def _row(line: Line) -> str:
    bounds = [f"at least {line.low:.4g}"] * math.isfinite(line.low)
    bounds += [f"at most {line.high:.4g}"] * math.isfinite(line.high)
    naive = "" if line.naive is None else f"{line.naive.value:.4f}"
    figure = f"{line.found.value:.4f} ± {line.found.error:.4f}"
    kept = "yes" if line.kept else "**no**"
    return f"| {line.target} | {line.what} | {line.scenario} | {', '.join(bounds)} | {figure} | {naive} | {kept} |"


def _at_fixed_size(rate: float, **more: Any) -> Scenario:
    """Makes a scenario with as many visitors as give one chi-square at the end 80 % power for +10 %."""
    return replace(Scenario(base_rate=rate, units=2 * sample_size(rate, 0.1)), **more)


def _false_positives(programmes: int, rng: np.random.Generator) -> Iterator[Line]:
    moving: list[Share] = []
    for shares, drift, rate in product(ALLOCATIONS, DRIFTS, RATES):
        scenario = _at_fixed_size(rate, profile=drift, **shares)
        measure = fpr(scenario, programmes, rng)
        moving += [measure.any] * scenario.adaptive
        yield Line("T1", "false positives", str(scenario), measure.any, -math.inf, 0.05, measure.naive)
    error = math.sqrt(sum(figure.error**2 for figure in moving)) / len(moving)
    pooled = Share(float(np.mean([figure.value for figure in moving])), error)
    yield Line("T3", "false positives", "moving shares, all of the above", pooled, -math.inf, 0.05)


def _false_wins(programmes: int, rng: np.random.Generator) -> Iterator[Line]:
    for variants, shares, drift in product((3, 4), ALLOCATIONS[::2], DRIFTS):
        units = variants * sample_size(0.03, 0.1)
        scenario = replace(Scenario(uplifts=(0.0,) * (variants - 1), units=units, profile=drift), **shares)
        measure = fpr(scenario, programmes, rng)
        yield Line(
            "T2", "false challenger wins", str(scenario), measure.challenger, -math.inf, 0.025, measure.naive
        )


def _planned_power(programmes: int, rng: np.random.Generator) -> Iterator[Line]:
    for rate in RATES:
        scenario = planned(Scenario(base_rate=rate, uplifts=(0.1,), profile="week"))
        measure = power(scenario, programmes, rng)
        yield Line(
            "T4", "power at the planner's size", str(scenario), measure.power, 0.8, math.inf, measure.naive
        )
    for floor in (0.3, 0.1):
        scenario = planned(Scenario(uplifts=(0.1,), profile="week", adaptive=True, floor=floor))
        measure = power(scenario, programmes, rng)
        yield Line(
            "T4", "power at the planner's size", str(scenario), measure.power, 0.8, math.inf, measure.naive
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
        measure = power(at, programmes, rng)
        yield Line("T6", "mean sample with futility", str(at), measure.sample, -math.inf, most)
    yield Line("T6", "power with futility", str(at), measure.power, 0.8, math.inf, measure.naive)


def _many_variants(programmes: int, rng: np.random.Generator) -> Iterator[Line]:
    equal = Scenario(uplifts=(0.1, 0.0, 0.0), units=4 * sample_size(0.03, 0.1), profile="week")
    split = power(equal, programmes, rng)
    matched = replace(equal, adaptive=True, floor=0.1)
    measure = power(matched, programmes, rng)
    yield Line("T8", "power with equal shares", str(equal), split.power, -math.inf, math.inf, split.naive)
    yield Line("T8", "power, control matched", str(matched), measure.power, 0.77, math.inf, measure.naive)


def _moving_power(programmes: int, rng: np.random.Generator) -> Iterator[Line]:
    for factor, least in ((1.0, 0.70), (1.25, 0.80)):
        scenario = _at_fixed_size(0.03, uplifts=(0.1,), adaptive=True)
        scenario = replace(scenario, units=round(factor * scenario.units))
        measure = power(scenario, programmes, rng)
        name = f"{scenario}, traffic x{factor:g}"
        yield Line("T9", "power", name, measure.power, least, math.inf, measure.naive)


def _delays(programmes: int, rng: np.random.Generator) -> Iterator[Line]:
    for drift in DRIFTS:
        scenario = _at_fixed_size(0.03, adaptive=True, profile=drift, delay_hours=24.0, window_hours=72.0)
        measure = fpr(scenario, programmes, rng)
        name = f"{scenario}, conversions a day late"
        yield Line("T10", "false positives", name, measure.any, -math.inf, 0.057, measure.naive)


def _estimates(programmes: int, rng: np.random.Generator) -> Iterator[Line]:
    for drift in ("week", "decay"):
        scenario = _at_fixed_size(0.03, uplifts=(0.1,), adaptive=True, profile=drift)
        measure = coverage(scenario, programmes, rng)
        yield Line(
            "T11",
            "bias of the uplift by days",
            str(scenario),
            measure.bias,
            -0.003,
            0.003,
            measure.pooled_bias,
        )
    for uplift in (0.1, 0.15):
        scenario = planned(Scenario(uplifts=(uplift,), profile="week"))
        measure = coverage(scenario, programmes, rng)
        median = Share(measure.median, 1.25 * measure.bias.error / uplift)
        yield Line("T12", "median estimate / truth", str(scenario), median, 0.97, 1.03)
        yield Line("T12", "stagewise coverage", str(scenario), measure.stagewise, 0.94, 0.965)


def _split_checks(programmes: int, rng: np.random.Generator) -> Iterator[Line]:
    for uplifts, floor in (((0.0,), 0.3), ((0.0, 0.0), 0.1)):
        scenario = Scenario(profile="week", adaptive=True, uplifts=uplifts, floor=floor)
        alarms = srm_alarms(scenario, programmes, rng)
        yield Line("T13", "false alarms of the split check", str(scenario), alarms, -math.inf, 0.01)


def _series(programmes: int, rng: np.random.Generator) -> Iterator[Line]:
    scenario = Scenario(uplifts=(0.1,), profile="week")
    for together in (1, 5):
        discoveries = false_discoveries(scenario, max(programmes // 50, 1), rng, together=together)
        name = f"120 experiments, {together} at a time, a fifth with +10%"
        yield Line(
            "T14", "false discovery rate", name, discoveries.rate, -math.inf, 0.10, discoveries.uncorrected
        )
        yield Line("T14", "real effects found", name, discoveries.power, 0.75, math.inf)


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
    "T14": _series,
}
"""Simulations of the promises, each by the key of the first promise that it serves."""

TOGETHER: Mapping[str, str] = {"T3": "T1", "T5": "T4", "T12": "T11"}
"""Keys of promises that another promise's simulation serves -> that promise's key."""
