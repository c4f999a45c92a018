"""A scenario, the kind of experiment that the lab simulates: its traffic, its plan, and the truth that a look must find."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum

import numpy as np

from cro_core.errors import InvalidInput
from cro_core.lab.site import AT_ONCE, EFFECTS, PROFILES, TRAFFIC, Delay
from cro_core.statistics.arrays import Bools, Floats, Ints
from cro_core.statistics.checks import check_choice
from cro_core.statistics.rules import LookPlan
from cro_core.statistics.sample_size import plan_size

WEEK = 168
"""Hours of a week."""

CLOCK_CHANGES = 6 * 24 + 2
"""Hour, from a Monday's midnight, at which a clock that changes is set."""


class Flaw(StrEnum):
    """A mistake in the statistics that is made on purpose, so that the lab must find it."""

    ONE_CLOCK = "one_clock"
    """Correlations are counted in visitors although the rate moves."""
    POOLED = "pooled"
    """All days are taken as one table although shares move."""
    EVENT_TIME = "event_time"
    """Conversions are counted in the epoch in which they happen instead of their visitor's."""
    MOVING_SHARES = "moving_shares"
    """Shares are changed every hour inside an epoch."""
    CACHED = "cached"
    """Visitors who come with yesterday's shares are counted in today's epoch."""
    FLAT_CLOCK = "flat_clock"
    """Moving shares are looked at every hour, and the clock inside a day counts hours instead of visitors."""
    NO_GUARDS = "no_guards"
    """Exposed visitors decide at once, whatever the mature ones and the delays say."""
    NO_WEEKS = "no_weeks"
    """The planned sample ends an experiment, and a winner ships before a whole week, whatever its days say."""
    FORGOTTEN_ALARM = "forgotten_alarm"
    """A broken split no longer counts once later visitors have diluted it."""
    WRONG_BOUNDS = "wrong_bounds"
    """Estimates take the boundary for the bound that acted, though the gate held winners back."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """A kind of experiment that the lab simulates, with its truth.

    Raises:
        InvalidInput: an unknown name, a number of delays that fits no variant, whole weeks of other days, or rates
            that would leave [0, 1].
    """

    base_rate: float = 0.03
    """Mean conversion rate of the control, over its visitors."""
    uplifts: tuple[float, ...] = (0.0,)
    """True relative uplift of each challenger."""
    profile: str = "const"
    """Name of the way in which the common rate moves; one of ``PROFILES``."""
    units: int = 106_422
    """Visitors over all variants within the horizon; the default is twice the fixed-horizon 53,211."""
    days: int = 14
    """Days of enrolment, 24 hours each."""
    adaptive: bool = False
    """Whether shares move from day to day."""
    floor: float = 0.3
    """Least share of a variant where shares move."""
    control_matched: bool | None = None
    """Whether the control gets the best challenger's share; ``None``: with three variants or more."""
    traffic: str = "flat"
    """Name of the way in which visitors come; one of ``TRAFFIC``."""
    known: bool = True
    """Whether the plan knows the site's usual week; if not it counts hours."""
    starts: int = 0
    """Hour of the Monday at which it starts."""
    clock_change: int = 0
    """Hours by which the site's clock is set forward on the first Sunday, negative for back."""
    delays: tuple[Delay, ...] = (AT_ONCE,)
    """How late conversions come: of each variant, or one for all."""
    window: int = 24
    """Hours after the exposure in which a conversion counts."""
    cached: float = 0.0
    """Part of the visitors who come with yesterday's shares and convert half as well: to be left out."""
    crossing: float = 0.0
    """Part of the visitors who see other variants too, and convert at the mean of all variants' rates."""
    effect: str = "constant"
    """Name of the way in which the first challenger's effect moves; one of ``EFFECTS``."""
    whole_weeks: bool = False
    """Whether a winner waits for a whole week, and for one more where its effect does not hold over the days."""
    rule: int = 2
    """Which rule decides: 1 looks at mature units every hour, 2 is that of new experiments."""
    plan: LookPlan = field(default_factory=LookPlan)
    """Boundaries, gate and futility; its weights are replaced by the schedule's."""
    flaw: Flaw | None = None
    """The mistake that the statistics make on purpose; ``None``: none."""

    def __post_init__(self) -> None:
        check_choice(self.profile, "profile", PROFILES)
        check_choice(self.traffic, "traffic", TRAFFIC)
        check_choice(self.effect, "effect", EFFECTS)
        if len(self.delays) not in (1, self.variants):
            raise InvalidInput(
                f"delays are {len(self.delays)}: give one for all or one for each of {self.variants} variants",
                field="delays",
            )
        if self.whole_weeks and self.days % 7:
            raise InvalidInput(f"days is {self.days}: whole weeks need a multiple of 7", field="days")
        if not 0 < self.rates().min() <= self.rates().max() < 1:
            raise InvalidInput(
                f"rates run from {self.rates().min():.3g} to {self.rates().max():.3g}: choose base rate, "
                "uplifts and profile that stay between 0 and 1",
                field="base_rate",
            )

    @property
    def hours(self) -> int:
        """Hours of enrolment."""
        return 24 * self.days

    @property
    def looks(self) -> int:
        """How many looks there are at most."""
        if self.rule == 2 and self.epochs > 1:
            return self.epochs
        return self.hours + (self.window if self.rule == 2 else 0)

    @property
    def variants(self) -> int:
        """How many variants there are, the control included."""
        return len(self.uplifts) + 1

    @property
    def lengths(self) -> tuple[int, ...]:
        """Hours of each day on the site's clock within the enrolment; the first and the last may be cut short."""
        return self.lengths_until(self.hours)

    def lengths_until(self, hours: int) -> tuple[int, ...]:
        """Counts the hours of each day on the site's clock within the first so many hours."""
        return tuple(np.unique(self.site_hours(0, hours) // 24, return_counts=True)[1].tolist())

    def midnight_after(self, hours: int) -> int:
        """Finds the next midnight on the site's clock, in hours since the start."""
        day = self.site_hours(0, hours + 2 * 25) // 24
        return hours + int(np.argmax(day[hours:] > day[hours]))

    @property
    def ends(self) -> Ints:
        """Hours from the start to the end of each day."""
        return np.cumsum(self.lengths)

    @property
    def epochs(self) -> int:
        """How many epochs the counts have: the days where shares move, else one."""
        return len(self.lengths) if self.adaptive and self.flaw is not Flaw.POOLED else 1

    @property
    def held(self) -> bool:
        """Whether a winner with a caution waits for one more week."""
        return self.whole_weeks and self.rule == 2 and self.flaw not in (Flaw.NO_WEEKS, Flaw.FLAT_CLOCK)

    def delay(self, variant: int) -> Delay:
        """Returns how late a variant's conversions come."""
        return self.delays[variant if len(self.delays) > 1 else 0]

    def site_hours(self, first: int = 0, last: int | None = None) -> Floats:
        """Computes the site's own hours, from a Monday's midnight, of hours since the start."""
        hour = self.starts + np.arange(first, self.hours if last is None else last, dtype=float)
        return np.where(hour >= CLOCK_CHANGES, hour + self.clock_change, hour)

    def rates(self, first: int = 0, last: int | None = None) -> Floats:
        """Computes conversion rates of hours since the start, shape ``(hours, variants)``."""
        site, since = (
            self.site_hours(first, last),
            np.arange(first, self.hours if last is None else last, dtype=float),
        )
        profile = PROFILES[self.profile]
        mean = np.average(profile(self.site_hours()), weights=self._coming(0, self.hours))
        uplifts = np.tile(np.array([0.0, *self.uplifts]), (len(site), 1))
        uplifts[:, 1] += EFFECTS[self.effect](since, site)
        own = self.base_rate * (profile(site) / mean)[:, None] * (1 + uplifts)
        return np.asarray((1 - self.crossing) * own + self.crossing * own.mean(-1, keepdims=True))

    def arrivals(self, first: int = 0, last: int | None = None) -> Ints:
        """Computes visitors per hour since the start, summing to ``units`` over the enrolment."""
        scale = self.units / self._coming(0, self.hours).sum()
        sums = np.concatenate([[0.0], self._coming(0, self.hours if last is None else last).cumsum()])
        return np.asarray(np.diff(np.round(scale * sums))[first:].astype(np.int64))

    def planned_part(self, last: int | None = None) -> Floats:
        """Computes the planned share of the enrolment's traffic that each hour brings."""
        site = self.site_hours(0, last)
        part = TRAFFIC[self.traffic].usual(site) if self.known else np.ones_like(site)
        return np.asarray(part / part[: self.hours].sum())

    def weights(self) -> Floats:
        """Computes the planned share of traffic of each epoch."""
        if self.epochs == 1:
            return np.ones(1)
        return np.add.reduceat(self.planned_part(), self.ends - self.lengths)

    def weekend_days(self) -> Bools:
        """Finds the days of the enrolment that are at a weekend."""
        return np.unique(self.site_hours() // 24) % 7 >= 5

    def look_plan(self) -> LookPlan:
        """Returns the plan with the weights of this scenario's epochs."""
        plan = replace(self.plan, weights=tuple(self.weights().tolist()))
        return replace(plan, ship_after_hours=float(WEEK), planned_units=None) if self.held else plan

    def _coming(self, first: int, last: int) -> Floats:
        shape, site = TRAFFIC[self.traffic], self.site_hours(first, last)
        return np.asarray(shape.usual(site) * shape.event(site))

    def __str__(self) -> str:
        """Writes the scenario in a few words, for tables."""
        shares = f"floor {self.floor:.0%}" if self.adaptive else "fixed"
        effect = ", ".join(f"{uplift:+.0%}" for uplift in self.uplifts) if any(self.uplifts) else "no effect"
        if self.effect != "constant":
            effect = self.effect
        words = [f"{self.variants} variants"] * (self.variants > 2) + [
            shares,
            self.profile,
            f"{self.base_rate:.0%}",
        ]
        words += [
            effect,
            *self._site_words(),
            *["whole weeks"] * self.whole_weeks,
            *["rule 1"] * (self.rule == 1),
        ]
        return ", ".join(words)

    def _site_words(self) -> list[str]:
        said = {
            f"traffic {self.traffic}": self.traffic != "flat",
            "profile unknown": not self.known,
            f"starts at {self.starts}:00": self.starts,
            f"clock {self.clock_change:+d} h": self.clock_change,
            f"{self.cached:.0%} cached": self.cached,
            f"{self.crossing:.0%} cross over": self.crossing,
        }
        return [words for words, holds in said.items() if holds]


@dataclass(frozen=True, slots=True)
class Setup:
    """A scenario in the words of the settings that it comes from."""

    profile: str
    traffic: str
    """How visitors come."""
    base_rate: float
    uplifts: tuple[float, ...]
    """True relative uplift of each challenger."""
    visitors: int
    """Visitors over all variants until the horizon."""
    planned_visitors: int
    """The sample at which an experiment ends if the horizon does not end it first."""
    days: int
    """Days of new visitors: the horizon less the conversion window, in whole days."""
    whole_weeks: bool
    """Whether a winner waits for a whole week, and one with a caution for one more."""
    looks: int
    """How many there are at most: one an hour, or one a day where shares move."""
    adaptive: bool
    floor: float | None
    """Least share of a variant; ``None``: shares are fixed."""
    alpha: float
    power: float
    """Planned probability of finding the MDE."""
    spending: str
    spending_parameter: float | None
    """Parameter of the spending family in force; ``None``: the family has none."""
    mde: float
    min_uplift: float
    gate: str
    futility: bool
    """Whether futility is in force: plans of less than 50 % power do not use it."""
    min_units: int


def planned(scenario: Scenario) -> Scenario:
    """Gives a scenario as many visitors as its plan needs for its MDE."""
    size = plan_size(
        scenario.base_rate,
        scenario.plan.mde,
        variants=scenario.variants,
        adaptive=scenario.adaptive,
        floor=scenario.floor,
        alpha=scenario.plan.alpha,
        spending=scenario.plan.spending,
        futility=scenario.plan.futility,
        rule=scenario.rule,
    )
    return replace(scenario, units=size.units)
