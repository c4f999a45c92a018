"""A scenario, the kind of experiment that the lab simulates: its traffic, its plan, and the truth that a look must find."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

import numpy as np

from cro_core.errors import InvalidInput
from cro_core.statistics.arrays import Floats, Ints
from cro_core.statistics.checks import check_choice
from cro_core.statistics.rules import LookPlan
from cro_core.statistics.sample_size import plan_size


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


def _week(hour: Floats) -> Floats:
    """Swings day and night by 40 %, with weekend 1.5 against weekday 0.8; hour 0 is a Monday's midnight."""
    day = np.where(hour // 24 % 7 >= 5, 1.5, 0.8)
    return np.asarray((1 + 0.4 * np.sin(2 * np.pi * (hour + 0.5) / 24)) * day)


PROFILES: Mapping[str, Callable[[Floats], Floats]] = {
    "const": np.ones_like,
    "week": _week,
    "promo": lambda hour: _week(hour) * np.where(hour < 6 * 24, 1.6, 0.8),
    "decay": lambda hour: _week(hour) * np.linspace(1.7, 0.3, len(hour)),
}
"""Ways in which the rate of every variant moves alike: functions of the hours that give a factor for each."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """A kind of experiment that the lab simulates, with its truth.

    Raises:
        InvalidInput: an unknown profile, or rates that would leave [0, 1].
    """

    base_rate: float = 0.03
    """Mean conversion rate of the control."""
    uplifts: tuple[float, ...] = (0.0,)
    """True relative uplift of each challenger."""
    profile: str = "const"
    """Name of the way in which the common rate moves; one of ``PROFILES``."""
    units: int = 106_422
    """Visitors over all variants within the horizon; the default is twice the fixed-horizon 53,211."""
    days: int = 14
    """Days of mature units until the horizon, 24 looks each."""
    adaptive: bool = False
    """Whether shares move from day to day."""
    floor: float = 0.3
    """Least share of a variant where shares move."""
    control_matched: bool | None = None
    """Whether the control gets the best challenger's share; ``None``: with three variants or more."""
    delay_hours: float = 0.0
    """Mean delay of a conversion, exponential; those later than ``window_hours`` are lost."""
    window_hours: float = 24.0
    """Hours after the exposure in which a conversion counts."""
    cached: float = 0.0
    """Part of the visitors who come with yesterday's shares and convert half as well: to be left out."""
    plan: LookPlan = field(default_factory=LookPlan)
    """Boundaries, gate and futility; its weights are replaced by the schedule's."""
    flaw: Flaw | None = None
    """The mistake that the statistics make on purpose; ``None``: none."""

    def __post_init__(self) -> None:
        check_choice(self.profile, "profile", PROFILES)
        if not 0 < self.rates().min() <= self.rates().max() < 1:
            raise InvalidInput(
                f"rates run from {self.rates().min():.3g} to {self.rates().max():.3g}: choose base rate, "
                "uplifts and profile that stay between 0 and 1",
                field="base_rate",
            )

    @property
    def hours(self) -> int:
        """Hours until the horizon; each ends with a look."""
        return 24 * self.days

    @property
    def variants(self) -> int:
        """How many variants there are, the control included."""
        return len(self.uplifts) + 1

    @property
    def epochs(self) -> int:
        """How many epochs the counts have: the days where shares move, else one."""
        return self.days if self.adaptive and self.flaw is not Flaw.POOLED else 1

    def rates(self) -> Floats:
        """Computes conversion rates, shape ``(hours, variants)``."""
        factor = PROFILES[self.profile](np.arange(self.hours, dtype=float))
        return np.asarray(self.base_rate * factor[:, None] * (1 + np.array([0.0, *self.uplifts])))

    def arrivals(self) -> Ints:
        """Computes visitors per hour, flat, summing to ``units``."""
        return np.diff(np.round(np.linspace(0, self.units, self.hours + 1))).astype(np.int64)

    def look_plan(self) -> LookPlan:
        """Returns the plan with the weights of this scenario's epochs."""
        return replace(self.plan, weights=(1 / self.epochs,) * self.epochs)

    def __str__(self) -> str:
        """Writes the scenario in a few words, for tables."""
        shares = f"floor {self.floor:.0%}" if self.adaptive else "fixed"
        effect = ", ".join(f"{uplift:+.0%}" for uplift in self.uplifts) if any(self.uplifts) else "no effect"
        variants = f"{self.variants} variants, " if self.variants > 2 else ""
        return f"{variants}{shares}, {self.profile}, {self.base_rate:.0%}, {effect}"


@dataclass(frozen=True, slots=True)
class Setup:
    """A scenario in the words of the settings that it comes from."""

    profile: str
    base_rate: float
    uplifts: tuple[float, ...]
    """True relative uplift of each challenger."""
    visitors: int
    """Visitors over all variants until the horizon."""
    planned_visitors: int
    """The sample at which an experiment ends if the horizon does not end it first."""
    days: int
    """Days of new visitors: the horizon less the conversion window, in whole days."""
    looks: int
    """One an hour until the horizon."""
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
    )
    return replace(scenario, units=size.units)
