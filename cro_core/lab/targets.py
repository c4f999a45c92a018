"""The table of promises: what the statistics promise, scenario by scenario, and whether a simulation finds it kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from datetime import date
from functools import partial
from importlib.metadata import version
from itertools import islice, product
from typing import Any

import numpy as np

from cro_core.errors import InvalidInput
from cro_core.lab.discoveries import false_discoveries
from cro_core.lab.measures import Power, Share, coverage, fpr, power
from cro_core.lab.scenario import Scenario, planned
from cro_core.lab.site import AT_ONCE, USUAL, Delay, exponential, later
from cro_core.lab.splits import bot_wave, srm_alarms
from cro_core.statistics.rules import LookPlan
from cro_core.statistics.sample_size import inflation_of_looks, sample_size
from cro_core.statistics.sequential import Spending

RATES = (0.01, 0.03, 0.10)
DRIFTS = ("week", "promo", "decay")
ALLOCATIONS: tuple[dict[str, Any], ...] = (
    {"adaptive": False},
    {"adaptive": True, "floor": 0.3},
    {"adaptive": True, "floor": 0.1},
)

SITE = Scenario(days=13, traffic="day", profile="week", delays=(USUAL,))
"""The site that the promises are worded for: visitors by day and night, 13 days of enrolment, most conversions at once."""

FEWER = 0.4
"""Part of the programmes that the promises with wider bounds are simulated with: 4,000 of 10,000."""


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
    sides: tuple[Share, Share] | None = None
    """False positives by the side on which they fall: a challenger wins, the control does; ``None`` for others."""
    slack: float = 3.0
    """Monte-Carlo errors by which the figure may lie outside its bounds."""

    @property
    def kept(self) -> bool:
        """Whether the promise is kept, as far as the simulation can tell."""
        room = self.slack * self.found.error
        return self.low - room <= self.found.value <= self.high + room


Run = Callable[[int, np.random.Generator], list[Line]]
"""Simulates so many programmes for some lines of the table."""


@dataclass(frozen=True, slots=True)
class Target:
    """How one promise is simulated."""

    runs: Sequence[Run]
    """Each with random numbers of its own."""
    part: float = 1.0
    """Part of the programmes asked for that each is simulated with."""
    pooled: Callable[[Sequence[Line]], Iterable[Line]] = lambda _: ()
    """Lines made of those of all runs."""


def table(programmes: int, seed: int, only: Sequence[str] | None = None, jobs: int = 1) -> Iterator[Line]:
    """Simulates every promise and yields its lines as they are ready.

    Args:
        programmes: simulated per scenario of the promises with the narrowest bounds, a part of it for others;
            10,000 is what the promises are worded for.
        seed: of the random numbers; a line depends neither on which others are asked for nor on ``jobs``.
        only: keys of ``TARGETS``, each simulated once; ``None`` is all.
        jobs: processes that simulate side by side.

    Raises:
        InvalidInput: a key that is none.
    """
    names = list(TARGETS) if only is None else list(dict.fromkeys(only))
    for name in names:
        if name not in TARGETS:
            raise InvalidInput(f"target is {name!r}: choose from {', '.join(TARGETS)}", field="only")
    chosen = {name: TARGETS[name]() for name in names}
    places = [(name, number) for name, target in chosen.items() for number in range(len(target.runs))]
    found = _simulated([_Task(name, number, programmes, seed) for name, number in places], jobs)
    for target in chosen.values():
        lines: list[Line] = []
        for new in islice(found, len(target.runs)):
            lines += new
            yield from new
        yield from target.pooled(lines)


@dataclass(frozen=True, slots=True)
class _Task:
    """One run of one promise, by its place, so that another process can find it."""

    name: str
    number: int
    programmes: int
    seed: int

    def lines(self) -> list[Line]:
        """Simulates the task and returns its lines."""
        target = TARGETS[self.name]()
        rng = np.random.default_rng([self.seed, int(self.name[1:]), self.number])
        return target.runs[self.number](max(round(target.part * self.programmes), 1), rng)


def _simulated(tasks: Sequence[_Task], jobs: int) -> Iterator[list[Line]]:
    """Runs tasks, in their order, here or in so many processes."""
    if jobs == 1:
        yield from (task.lines() for task in tasks)
        return
    with ProcessPoolExecutor(jobs) as pool:
        yield from pool.map(_Task.lines, tasks)


def document(lines: Sequence[Line], programmes: int, seed: int, day: date) -> str:
    """Writes the table of promises as a document that says how it came about."""
    libraries = ", ".join(f"{name} {version(name)}" for name in ("numpy", "scipy"))
    kept = sum(line.kept for line in lines)
    return f"""# What the lab finds

{programmes:,} programmes per scenario of T1 to T3, {round(FEWER * programmes):,} of the others, seed {seed}, on {day:%d %B %Y}
with {libraries}. {kept} of {len(lines)} figures are within their bounds; a figure may be {lines[0].slack:g} Monte-Carlo
errors (after ±) outside. The sides are those on which false positives fall: a challenger wins / the control beats them
all. Visitors are those enrolled when the decision falls, over the number that one look at the end takes. The naive rule
looks at a chi-square at .05 every hour, once each variant has 100 visitors and the observed uplift is 10 %. For T11 its
column shows the pooled uplift's bias instead, for T14 the false discovery rate without correction.
[statistics.md](statistics.md) says what the scenarios are.

{markdown(lines)}"""


def markdown(lines: Sequence[Line]) -> str:
    """Writes the table of promises in Markdown."""
    head = [
        "| target | what | scenario | bound | found | sides | naive rule | kept |",
        "|---|---|---|---|---|---|---|---|",
    ]
    return "\n".join(head + [_row(line) for line in lines]) + "\n"


def _row(line: Line) -> str:
    bounds = [f"at least {line.low:.4g}"] * math.isfinite(line.low)
    bounds += [f"at most {line.high:.4g}"] * math.isfinite(line.high)
    naive = "" if line.naive is None else f"{line.naive.value:.4f}"
    sides = (
        ""
        if line.sides is None
        else " / ".join(f"{side.value:.4f} ± {side.error:.4f}" for side in line.sides)
    )
    figure = f"{line.found.value:.4f} ± {line.found.error:.4f}"
    cells = [line.target, line.what, line.scenario, ", ".join(bounds), figure, sides, naive]
    return f"| {' | '.join(cells)} | {'yes' if line.kept else '**no**'} |"


def _both_ways(scenario: Scenario) -> tuple[Scenario, Scenario]:
    """Makes a scenario of 13 days that of two whole weeks, too."""
    return scenario, in_weeks(scenario)


def in_weeks(scenario: Scenario, weeks: int = 2) -> Scenario:
    """Makes a scenario one of whole weeks, with as many visitors."""
    return replace(scenario, days=7 * weeks, whole_weeks=True)


def _sized(scenario: Scenario, factor: float = 1.0) -> Scenario:
    """Gives a scenario so many times the visitors with which one look at the end has 80 % power for +10 %."""
    alone = sample_size(scenario.base_rate, 0.1)
    return replace(scenario, units=round(factor * scenario.variants * alone))


def _false_positives(
    target: str, scenario: Scenario, words: str, programmes: int, rng: np.random.Generator
) -> list[Line]:
    found = fpr(scenario, programmes, rng)
    sides = (found.challenger, found.control)
    name = f"{scenario}{words}"
    return [Line(target, "false positives", name, found.any, -math.inf, 0.05, found.naive, sides)]


def _false_wins(scenario: Scenario, programmes: int, rng: np.random.Generator) -> list[Line]:
    found = fpr(scenario, programmes, rng)
    sides = (found.challenger, found.control)
    line = Line(
        "T2", "false challenger wins", str(scenario), found.challenger, -math.inf, 0.025, found.naive, sides
    )
    return [line]


Bound = tuple[str, Callable[[Power], Share], float, float]
"""Name of a figure, how it is read off, and its least and largest value."""


def _measured(
    target: str,
    scenario: Scenario,
    words: str,
    bounds: Sequence[Bound],
    programmes: int,
    rng: np.random.Generator,
) -> list[Line]:
    """Lines of several figures of one scenario with an effect."""
    found = power(scenario, programmes, rng)
    return [
        Line(
            target,
            what,
            f"{scenario}{words}",
            read(found),
            low,
            high,
            found.naive if "power" in what else None,
        )
        for what, read, low, high in bounds
    ]


def _power_of(least: float, most: float = math.inf, what: str = "power") -> Bound:
    return what, _read_power, least, most


def _visitors(most: float, what: str = "visitors / fixed-horizon visitors") -> Bound:
    return what, _read_sample, 0.0, most


def _read_power(found: Power) -> Share:
    return found.power


def _read_sample(found: Power) -> Share:
    return found.sample


SHAPES: tuple[dict[str, Any], ...] = (
    {"traffic": "flat"},
    {},
    {"profile": "const"},
    {"profile": "promo"},
    {"profile": "decay"},
    {"traffic": "business"},
    {"traffic": "evening"},
    {"traffic": "morning", "profile": "const"},
    {"traffic": "weekend"},
    {"known": False},
    {"traffic": "evening", "known": False},
    {"traffic": "evening", "profile": "promo", "known": False},
    {"traffic": "campaign"},
    {"traffic": "late campaign"},
    {"traffic": "holidays"},
    {"traffic": "bursts"},
    {"traffic": "growing", "profile": "decay"},
    {"traffic": "shifted"},
    {"starts": 17, "clock_change": 1},
    {"starts": 9, "clock_change": -1, "traffic": "evening"},
    {"starts": 12, "traffic": "evening", "known": False},
    {"cached": 0.3},
    {"cached": 0.3, "traffic": "evening", "known": False},
)
"""Ways in which visitors come to moving shares."""

SMALL = (170, 330, 670, 2_000)
"""Visitors an arm that leave 5, 10, 20 and 60 conversions."""

T7_DELAYS: Mapping[str, tuple[Delay, Delay]] = {
    "both alike": (USUAL, USUAL),
    "an hour later": (USUAL, later(USUAL, 1)),
    "2 h later": (USUAL, later(USUAL, 2)),
    "4 h later": (USUAL, later(USUAL, 4)),
    "2 h sooner": (later(USUAL, 2), USUAL),
    "4 h sooner": (later(USUAL, 4), USUAL),
    "40 % at once": (USUAL, ((0, 0.4), (3, 0.225), (8, 0.225), (20, 0.15))),
    "80 % at once": (USUAL, ((0, 0.8), (3, 0.075), (8, 0.075), (20, 0.05))),
    "half after 12 h": (AT_ONCE, ((0, 0.5), (12, 0.5))),
    "half after 12 h, usual control": (USUAL, ((0, 0.5), (12, 0.5))),
    "control half after 12 h": (((0, 0.5), (12, 0.5)), AT_ONCE),
    "control half after 12 h, usual challenger": (((0, 0.5), (12, 0.5)), USUAL),
    "all after 6 h": (AT_ONCE, ((6, 1.0),)),
    "control after 6 h": (((6, 1.0),), AT_ONCE),
    "a tenth after 24 h": (AT_ONCE, ((0, 0.9), (24, 0.1))),
    "control a tenth after 24 h": (((0, 0.9), (24, 0.1)), AT_ONCE),
    "a twentieth after 20 h": (USUAL, ((0, 0.57), (3, 0.14), (8, 0.14), (20, 0.15))),
}
"""Delays of the control and the challenger, whose final rates are the same."""


def _t1() -> Target:
    scenarios = [
        way
        for shares, drift, rate in product(ALLOCATIONS, DRIFTS, RATES)
        for way in _both_ways(_sized(replace(SITE, base_rate=rate, profile=drift, **shares)))
    ]
    runs = [partial(_false_positives, "T1", scenario, "") for scenario in scenarios]
    few = [in_weeks(replace(SITE, units=2 * units)) for units in SMALL]
    runs += [
        partial(_false_positives, "T1", s, f", {0.03 * s.units / 2:.0f} conversions an arm") for s in few
    ]
    crossing = in_weeks(replace(SITE, crossing=0.1))
    return Target([*runs, partial(_false_positives, "T1", crossing, "")])


def _t2() -> Target:
    scenarios = [
        way
        for variants, shares, drift in product((3, 4), ALLOCATIONS[::2], DRIFTS)
        for way in _both_ways(_sized(replace(SITE, uplifts=(0.0,) * (variants - 1), profile=drift, **shares)))
    ]
    return Target([partial(_false_wins, scenario) for scenario in scenarios])


def _t3() -> Target:
    scenarios = [
        way
        for floor, shape in product((0.3, 0.1), SHAPES)
        for way in _both_ways(replace(SITE, adaptive=True, floor=floor, **shape))
    ]
    return Target([partial(_false_positives, "T3", scenario, "") for scenario in scenarios], pooled=_pooled)


def _pooled(lines: Sequence[Line]) -> Iterator[Line]:
    """Pools lines of false positives, with and without whole weeks."""
    for words, weeks in (("13 days", False), ("whole weeks", True)):
        chosen = [line for line in lines if ("whole weeks" in line.scenario) is weeks]
        if chosen:
            first, high = chosen[0], chosen[0].high
            name = f"all of the above, {words}"
            found = _mean([line.found for line in chosen])
            pairs = [line.sides for line in chosen if line.sides]
            sides = (_mean([pair[0] for pair in pairs]), _mean([pair[1] for pair in pairs]))
            yield Line(first.target, f"{first.what}, pooled", name, found, -math.inf, high, None, sides)


def _mean(shares: Sequence[Share]) -> Share:
    error = math.sqrt(sum(share.error**2 for share in shares)) / len(shares)
    return Share(float(np.mean([share.value for share in shares])), error)


FUTILITY = LookPlan(futility=True)


def _t4() -> Target:
    cases: list[dict[str, Any]] = [{"base_rate": rate} for rate in RATES]
    cases += [{"adaptive": True, "floor": floor} for floor in (0.3, 0.2, 0.1)]
    scenarios = [
        way
        for case in cases
        for way in _both_ways(planned(replace(SITE, uplifts=(0.1,), plan=FUTILITY, **case)))
    ]
    bounds = (_power_of(0.8, what="power at the planner's size"),)
    return Target([partial(_measured, "T4", scenario, "", bounds) for scenario in scenarios], FEWER)


def _t5() -> Target:
    runs = []
    for ways, most in ((0, (0.87, 0.62, 0.46)), (1, (0.90, 0.71, 0.64))):
        for uplift, bound in zip((0.1, 0.15, 0.2), most, strict=True):
            scenario = _both_ways(_sized(replace(SITE, uplifts=(uplift,)), 1.15))[ways]
            runs.append(partial(_measured, "T5", scenario, ", x1.15", (_visitors(bound),)))
    return Target(runs, FEWER)


def _t6() -> Target:
    scenario = planned(replace(SITE, plan=FUTILITY))
    return Target(
        [
            partial(_measured, "T6", replace(scenario, uplifts=(uplift,)), ", futility", (_visitors(most),))
            for uplift, most in ((0.0, 0.74), (0.1, 0.84))
        ],
        FEWER,
    )


def _t7() -> Target:
    return Target(
        [
            partial(_late, in_weeks(replace(SITE, delays=delays)), f", {words}")
            for words, delays in T7_DELAYS.items()
        ],
        FEWER,
        _pooled_late,
    )


def _late(scenario: Scenario, words: str, programmes: int, rng: np.random.Generator) -> list[Line]:
    found = fpr(scenario, programmes, rng)
    sides = (found.challenger, found.control)
    name = f"{scenario}{words}"
    return [
        Line("T7", "false positives", name, found.any, -math.inf, 0.05, found.naive, sides),
        Line("T7", "false challenger wins", name, found.challenger, -math.inf, 0.025),
    ]


def _pooled_late(lines: Sequence[Line]) -> Iterator[Line]:
    return _pooled([line for line in lines if line.what == "false positives"])


def _t8() -> Target:
    runs: list[Run] = []
    for variants, least in ((4, 0.77), (3, 0.75)):
        scenario = _sized(replace(SITE, uplifts=(0.1,) + (0.0,) * (variants - 2)))
        runs += [
            partial(_measured, "T8", way, "", (_power_of(least, what="power, control matched"),))
            for way in _both_ways(replace(scenario, adaptive=True, floor=0.1))
        ]
        runs.append(
            partial(_measured, "T8", scenario, "", (_power_of(0.0, least, "power with equal shares"),))
        )
    return Target(runs, FEWER)


def _t9() -> Target:
    scenario = replace(SITE, uplifts=(0.1,), adaptive=True, floor=0.3)
    runs = [
        partial(_measured, "T9", way, f", x{factor:g}", (_power_of(least),))
        for factor, plan, least in ((1.0, LookPlan(), 0.73), (1.22, FUTILITY, 0.80))
        for way in _both_ways(_sized(replace(scenario, plan=plan), factor))
    ]
    return Target(runs, FEWER)


def _t10() -> Target:
    delays = (exponential(24, 72),)
    scenarios = [
        way
        for drift in DRIFTS
        for way in _both_ways(replace(SITE, adaptive=True, profile=drift, delays=delays, window=72))
    ]
    return Target([partial(_a_day_late, scenario) for scenario in scenarios], FEWER)


def _a_day_late(scenario: Scenario, programmes: int, rng: np.random.Generator) -> list[Line]:
    found = fpr(scenario, programmes, rng)
    name = f"{scenario}, conversions a day late"
    sides = (found.challenger, found.control)
    return [Line("T10", "false positives", name, found.any, -math.inf, 0.057, found.naive, sides)]


def _t11() -> Target:
    scenarios = [
        way
        for drift in ("week", "decay")
        for way in _both_ways(replace(SITE, uplifts=(0.1,), adaptive=True, profile=drift))
    ]
    return Target([partial(_bias, scenario) for scenario in scenarios], FEWER)


def _bias(scenario: Scenario, programmes: int, rng: np.random.Generator) -> list[Line]:
    found = coverage(scenario, programmes, rng)
    line = Line(
        "T11", "bias of the uplift by days", str(scenario), found.bias, -0.003, 0.003, found.pooled_bias
    )
    return [line]


def _t12() -> Target:
    usual = [_both_ways(planned(replace(SITE, uplifts=(uplift,)))) for uplift in (0.1, 0.15)]
    moving = _both_ways(planned(replace(SITE, uplifts=(0.1,), adaptive=True, floor=0.1)))
    gated = [_both_ways(_sized(replace(SITE, uplifts=(uplift,)), 8.0)) for uplift in (0.03, 0.05, 0.07)]
    runs: list[Run] = [partial(_honest, way) for ways in (*usual, moving) for way in ways]
    return Target([*runs, *(partial(_honest_at_the_gate, way) for ways in gated for way in ways)], FEWER)


def _honest(scenario: Scenario, programmes: int, rng: np.random.Generator) -> list[Line]:
    found = coverage(scenario, programmes, rng)
    median = Share(found.median, 1.25 * found.bias.error / scenario.uplifts[0])
    return [
        Line("T12", "median estimate / truth", str(scenario), median, 0.97, 1.03),
        Line("T12", "stagewise coverage", str(scenario), found.stagewise, 0.94, 0.965),
    ]


def _honest_at_the_gate(scenario: Scenario, programmes: int, rng: np.random.Generator) -> list[Line]:
    found, name = coverage(scenario, programmes, rng), f"{scenario}, x8"
    return [
        Line("T12", "estimates below the truth", name, found.below, 0.47, 0.53),
        Line("T12", "stagewise coverage", name, found.stagewise, 0.94, 1.0),
    ]


def _t13() -> Target:
    cases: tuple[dict[str, Any], ...] = (
        {},
        {"units": 4_000},
        {"adaptive": True},
        {"adaptive": True, "floor": 0.1},
        {"adaptive": True, "floor": 0.1, "uplifts": (0.0, 0.0)},
        {"traffic": "bursts"},
    )
    return Target(
        [partial(_sound_split, way) for case in cases for way in _both_ways(replace(SITE, **case))], FEWER
    )


def _sound_split(scenario: Scenario, programmes: int, rng: np.random.Generator) -> list[Line]:
    name = f"{scenario}, {scenario.units:,} visitors"
    return [Line("T13", "false alarms of the split", name, srm_alarms(scenario, programmes, rng), 0.0, 0.01)]


def _t14() -> Target:
    scenarios = _both_ways(replace(SITE, uplifts=(0.1,)))
    return Target([partial(_series, scenario, together) for scenario in scenarios for together in (1, 5)])


def _series(scenario: Scenario, together: int, programmes: int, rng: np.random.Generator) -> list[Line]:
    found = false_discoveries(scenario, max(programmes // 50, 1), rng, together=together)
    weeks = ", whole weeks" * scenario.whole_weeks
    name = f"120 experiments, {together} at a time, a fifth with +10%{weeks}"
    return [
        Line("T14", "false discovery rate", name, found.rate, -math.inf, 0.10, found.uncorrected),
        Line("T14", "real effects found", name, found.power, 0.75, math.inf),
    ]


def _read_gained(found: Power) -> Share:
    return found.gained


def _t15() -> Target:
    scenario = _sized(replace(SITE, uplifts=(0.1,), adaptive=True, floor=0.1))
    bounds = (_power_of(0.70), ("conversions gained in the test", _read_gained, 0.067, math.inf))
    return Target([partial(_measured, "T15", way, ", x1", bounds) for way in _both_ways(scenario)], FEWER)


def _read_lost(found: Power) -> Share:
    return found.lost


def _t16() -> Target:
    plan = LookPlan(spending=Spending("hwang_shih_decani", -8.0))
    scenario = _sized(replace(SITE, uplifts=(0.1,), plan=plan))
    bounds = (("power lost to one look at the end", _read_lost, -math.inf, 0.015),)
    return Target([partial(_measured, "T16", way, ", HSD -8", bounds) for way in _both_ways(scenario)], FEWER)


def _at_traffic(scenario: Scenario, factor: int) -> Scenario:
    """Gives a site more traffic, which fills one whole week where it did two."""
    two_weeks = _sized(scenario, factor)
    if factor == 1:
        return in_weeks(two_weeks)
    return in_weeks(replace(two_weeks, units=two_weeks.units // 2), 1)


def _read_early(found: Power) -> Share:
    return found.early


def _t17() -> Target:
    runs: list[Run] = []
    for factor in (1, 3, 10):
        turned = _at_traffic(replace(SITE, effect="weekend reversal"), factor)
        bounds = (("ships of a net loss", _read_power, 0.0, 0.01),)
        runs.append(partial(_measured, "T17", turned, f", x{factor} traffic", bounds))
    quick = _at_traffic(replace(SITE, uplifts=(0.2,)), 10)
    bounds = (("ships before 7 days", _read_early, 0.0, 0.0),)
    return Target([*runs, partial(_measured, "T17", quick, ", x10 traffic", bounds)], FEWER)


def _read_cautions(found: Power) -> Share:
    return found.cautions


def _read_faded(found: Power) -> Share:
    return found.faded


def _t18() -> Target:
    runs: list[Run] = []
    for factor, most in ((1, 0.26), (3, 0.24), (10, 0.18)):
        words = f", x{factor} traffic"
        bounds = [
            ("cautions of true winners", _read_cautions, 0.0, 0.045),
            ("power lost to the hold", _read_faded, 0.0, 0.007),
        ]
        for uplift in (0.1, 0.15, 0.2):
            lasting = _at_traffic(replace(SITE, uplifts=(uplift,)), factor)
            runs.append(partial(_measured, "T18", lasting, words, bounds))
        novel = _at_traffic(replace(SITE, effect="novelty"), factor)
        runs.append(partial(_measured, "T18", novel, words, [("ships of a novelty", _read_power, 0.0, most)]))
    return Target(runs, FEWER)


def _t19() -> Target:
    return Target([partial(_wave, replace(SITE, units=40_000))], FEWER)


def _wave(scenario: Scenario, programmes: int, rng: np.random.Generator) -> list[Line]:
    found, name = bot_wave(scenario, programmes, rng), "240 bots in 6 hours from 6 o'clock, 40,000 visitors"
    return [
        Line("T19", "waves that alarm", name, found.alarmed, 0.85, 1.0),
        Line("T19", "alarms that veto at the end", name, found.standing, 0.99, 1.0),
    ]


FAMILIES = (
    Spending("pocock"),
    Spending("obrien_fleming"),
    Spending("kim_demets", 3.0),
    Spending("hwang_shih_decani", -4.0),
    Spending("hwang_shih_decani", -6.0),
    Spending("hwang_shih_decani", -8.0),
)


def _t20() -> Target:
    return Target([partial(_as_planned, spending) for spending in FAMILIES], FEWER)


def _as_planned(spending: Spending, programmes: int, rng: np.random.Generator) -> list[Line]:
    """Simulates flat traffic at a constant rate, where hourly looks cost what exact theory says."""
    flat = Scenario(uplifts=(0.1,), plan=LookPlan(spending=spending))
    parameter = "" if math.isnan(spending.shape) else f"({spending.shape:g})"
    scenario, words = (
        replace(flat, units=round(inflation_of_looks(spending) * flat.units)),
        f", {spending.family}{parameter}",
    )
    return _measured("T20", scenario, words, (_power_of(0.785, 0.815, "power as planned"),), programmes, rng)


TARGETS: Mapping[str, Callable[[], Target]] = {
    "T1": _t1,
    "T2": _t2,
    "T3": _t3,
    "T4": _t4,
    "T5": _t5,
    "T6": _t6,
    "T7": _t7,
    "T8": _t8,
    "T9": _t9,
    "T10": _t10,
    "T11": _t11,
    "T12": _t12,
    "T13": _t13,
    "T14": _t14,
    "T15": _t15,
    "T16": _t16,
    "T17": _t17,
    "T18": _t18,
    "T19": _t19,
    "T20": _t20,
}
"""Simulations of the promises, each by the key of its promise."""
