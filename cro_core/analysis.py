"""The one definition of every number: from events to one row per unit, to cells, to the waterfall.

The definitions are SQL that SQLite and PostgreSQL read alike; this module only writes it, the storage runs
it. The unit is the visitor at its first exposure. A goal counts when it happens at or after that exposure
and within the plan's window, each goal once per unit; any primary goal makes the unit converted. A unit is
*mature*, and looked at, once its window has passed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from cro_core.clock import to_micros, zone
from cro_core.domain import EXPOSURE, Cell, Epoch, Experiment
from cro_core.errors import Conflict

FOREVER = 2**62
"""Later than any time in microseconds."""

COUNTED = "counted_exposure"
"""The standing of a unit that counts."""

STANDING = f"""CASE
                WHEN e.number IS NULL OR x.exposed_at >= :enrolment_ends_at THEN 'after_enrolment'
                WHEN x.epoch <> e.number THEN 'wrong_epoch'
                WHEN x.epoch IS NULL AND x.exposed_at >= :shares_move_at THEN 'no_epoch'
                WHEN x.exposed_at + :window >= :as_of THEN 'immature'
                ELSE '{COUNTED}' END"""
"""Whether a unit counts: its first exposure ``x`` lies in epoch ``e``, says so itself, and is mature.

An exposure that does not say its epoch may rest on an assignment of another day. As long as the shares have
never moved that makes no difference; afterwards nobody can tell, and it is left out of every variant alike.
A unit is mature when its whole window, both ends included, lies before ``as_of``.
"""

EVENTS = """
WITH goals(type, weight, is_primary) AS (VALUES {goals}),
relevant AS (       -- this experiment's events, and goals posted for the whole site while it ran
    SELECT id, unit, type, variant, occurred_at, value, bot
    FROM events
    WHERE occurred_at < :as_of
      AND (experiment_id = :experiment
           OR (experiment_id IS NULL AND occurred_at >= :started_at AND occurred_at <= :last_goal_at))
),
unit AS (           -- the first exposure of each unit, and whether it counts yet
    SELECT x.*, e.number AS day,
           {standing} AS standing
    FROM exposures x
    LEFT JOIN epochs e ON e.experiment_id = x.experiment_id AND x.exposed_at >= e.starts_at AND x.exposed_at < e.ends_at
    WHERE x.experiment_id = :experiment AND x.exposed_at < :as_of
),
placed AS (         -- every event beside its unit's first exposure; joined to the table, whose key every planner uses
    SELECT r.*, x.event_id, x.variant AS first_variant, e.number AS day, x.exposed_at, {standing} AS standing
    FROM relevant r
    LEFT JOIN exposures x ON x.unit = r.unit AND x.experiment_id = :experiment AND x.exposed_at < :as_of
    LEFT JOIN epochs e ON e.experiment_id = :experiment AND x.exposed_at >= e.starts_at AND x.exposed_at < e.ends_at
),
step AS (           -- every event in exactly one place
    SELECT p.id, p.unit, p.type, p.occurred_at, p.value, p.first_variant, p.day, k.weight, k.is_primary,
           CASE WHEN p.bot THEN 'bot'
                WHEN p.id = p.event_id THEN p.standing
                WHEN p.type = '{exposure}' AND p.variant <> p.first_variant THEN 'crossover'
                WHEN p.type = '{exposure}' THEN 'repeat_exposure'
                WHEN p.event_id IS NULL THEN 'unexposed'
                WHEN p.standing <> 'counted_exposure' THEN p.standing
                WHEN p.occurred_at < p.exposed_at + :goal_from THEN 'before_exposure'
                WHEN p.occurred_at > p.exposed_at + :window THEN 'out_of_window'
                WHEN k.type IS NULL THEN 'other'
                ELSE 'eligible_goal' END AS step
    FROM placed p
    LEFT JOIN goals k ON k.type = p.type
),
achieved AS (       -- each goal once per unit; amounts add up over every occurrence
    SELECT unit, type, COUNT(*) AS times, MIN(occurred_at) AS first_at, SUM(COALESCE(value, 0)) AS value,
           MAX(weight) AS weight, MAX(is_primary) AS is_primary, MAX(first_variant) AS variant, MAX(day) AS epoch
    FROM step
    WHERE step = 'eligible_goal'
    GROUP BY unit, type
),
unit_table AS (     -- one row per exposed unit; a union and not a join, which no planner gets wrong
    SELECT unit, MAX(variant) AS variant, MAX(epoch) AS epoch, MAX(exposed_at) AS exposed_at, MAX(standing) AS standing,
           MAX(device) AS device, MAX(city) AS city, MAX(country) AS country, MAX(occasion) AS occasion,
           MAX(asset_id) AS asset_id,
           MAX(is_primary) AS converted, MIN(converted_at) AS converted_at, SUM(weight) AS score, SUM(value) AS value
    FROM (
        SELECT unit, variant, day AS epoch, exposed_at, standing, device, city, country, occasion, asset_id,
               0 AS is_primary, NULL AS converted_at, 0 AS weight, 0 AS value
        FROM unit
        UNION ALL
        SELECT unit, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
               is_primary, CASE WHEN is_primary = 1 THEN first_at END, weight, value
        FROM achieved
    ) AS parts
    GROUP BY unit
)
"""

UNIT_TABLE = "SELECT * FROM unit_table ORDER BY exposed_at, unit"

QUARTER = timedelta(minutes=15)
"""The pieces of time in which units are counted: the hours and days of every time zone are made of whole ones."""

QUARTERS = """
SELECT epoch, variant, exposed_at / :quarter AS quarter,
       COUNT(*) AS units, SUM(converted) AS conversions,
       SUM(score) AS score_sum, SUM(score * score) AS score_sumsq,
       SUM(value) AS value_sum, SUM(value * value) AS value_sumsq
FROM unit_table
WHERE standing = 'counted_exposure'
GROUP BY 1, 2, 3
ORDER BY 1, 2, 3
"""
"""The cells cut up by time: added up they are the cells, and cost no more; by day and hour they are the split."""

GOAL_CELLS = """
SELECT type AS goal, epoch, variant, COUNT(*) AS units
FROM achieved
GROUP BY type, epoch, variant
ORDER BY type, epoch, variant
"""

PAIR_CELLS = """,
earlier AS (        -- what a unit did before it met the experiment, whatever that was done for
    SELECT x.unit, k.type, MAX(k.weight) AS weight
    FROM events r CROSS JOIN goals k CROSS JOIN exposures x     -- in this order also for SQLite, along keys
    WHERE k.type = r.type AND x.unit = r.unit AND x.experiment_id = :experiment AND NOT r.bot
          AND r.occurred_at < x.exposed_at AND r.occurred_at >= x.exposed_at - :lookback
    GROUP BY x.unit, k.type
),
pair AS (
    SELECT unit, MAX(variant) AS variant, MAX(epoch) AS epoch, SUM(y) AS y, SUM(x) AS x
    FROM (
        {parts}
    ) AS parts
    GROUP BY unit
)
SELECT epoch, variant, COUNT(*) AS units, SUM(y) AS y_sum, SUM(y * y) AS y_sumsq,
       SUM(x) AS x_sum, SUM(x * x) AS x_sumsq, SUM(x * y) AS xy_sum
FROM pair
WHERE variant IS NOT NULL   -- units that do not count have only parts without a variant
GROUP BY epoch, variant
ORDER BY epoch, variant
"""

UNIT_PART = """SELECT unit, variant, epoch, CAST({y} AS DOUBLE PRECISION) AS y, CAST({x} AS DOUBLE PRECISION) AS x
        FROM unit_table WHERE standing = 'counted_exposure'"""

PART = """
        UNION ALL
        SELECT unit, NULL, NULL, CAST({y} AS DOUBLE PRECISION), CAST({x} AS DOUBLE PRECISION) FROM {source}"""

BY_UNIT: Mapping[str, str] = {"conversions": "converted", "engagement": "score", "revenue": "value"}
"""Measure -> column of the unit table."""

BY_GOAL: Mapping[str, str] = {"goal": "1", "count": "times", "value": "value"}
"""What is measured of a goal -> column of the achieved goals."""

COVARIATES: Mapping[str, tuple[str, str]] = {
    "engagement": ("weight", "earlier"),
    "exposure_value": ("COALESCE(value, 0)", "step WHERE step = 'counted_exposure'"),
}
"""Covariate of a plan -> column and rows it is added up from; a unit without any has 0."""

LOOKBACK = timedelta(days=28)
"""How long before its exposure a unit's engagement is its covariate."""

SLICES = """
SELECT {dimension} AS slice, variant, COUNT(*) AS units, SUM(converted) AS conversions
FROM unit_table
WHERE standing = 'counted_exposure'
GROUP BY {dimension}, variant
ORDER BY {dimension}, variant
"""

SEGMENT = """
SELECT slice, unknown, epoch, variant, SUM(units) AS units
FROM (
    SELECT CASE WHEN place <= :most THEN slice END AS slice, CASE WHEN slice IS NULL THEN 1 ELSE 0 END AS unknown,
           epoch, variant, units
    FROM (
        SELECT slice, epoch, variant, units, DENSE_RANK() OVER (ORDER BY total DESC, slice) AS place
        FROM (
            SELECT slice, epoch, variant, units,
                   CASE WHEN slice IS NULL THEN 0 ELSE SUM(units) OVER (PARTITION BY slice) END AS total
            FROM (
                SELECT NULLIF({column}, '') AS slice, day AS epoch, variant, COUNT(*) AS units
                FROM unit
                WHERE standing = 'counted_exposure'
                GROUP BY 1, 2, 3
            ) AS counted
        ) AS added
    ) AS ranked
) AS named
GROUP BY 1, 2, 3, 4
ORDER BY 1, 2, 3, 4
"""
"""Counted units of the most frequent values of a column; reads the exposures only, not the events."""

SEGMENTS: Mapping[str, str] = {
    "device": "device",
    "country": "country",
    "city": "city",
    "page": "url",
    "asset": "asset_id",
}
"""What the split is checked by beside day and hour, with the column of the exposure."""

MOST_SLICES = 50
"""Values of a dimension that are told apart; the rest is :data:`OTHER`."""

OTHER = "(other)"
UNKNOWN = "(unknown)"

STORED = "stored"
"""The row of :data:`STEPS_TAKEN` that counts the events without classifying them."""

STEPS_TAKEN = """
SELECT 'stored' AS taken, COUNT(*) AS events FROM relevant
UNION ALL
SELECT step, COUNT(*) FROM step WHERE step <> 'eligible_goal' GROUP BY step
UNION ALL
SELECT 'counted_goal', COUNT(*) FROM achieved
UNION ALL
SELECT 'repeat_goal', COALESCE(SUM(times - 1), 0) FROM achieved
"""
"""Counts and classification in one statement, so that both see the same events whatever is posted meanwhile."""

CROSSOVER_UNITS = "SELECT COUNT(DISTINCT unit) FROM step WHERE step = 'crossover'"

DIMENSIONS = ("device", "city", "country", "occasion", "asset_id")

STEPS: Mapping[str, str] = {
    "rejected": "could not be accepted; kept in quarantine with the reason",
    "duplicate": "an id that had been stored before",
    "bot": "posted by a known bot",
    "after_enrolment": "first seen before the start or after enrolment had ended",
    "wrong_epoch": "shown under another day's shares (an expired assignment)",
    "no_epoch": "posted without its epoch after the shares had moved: perhaps an expired assignment",
    "immature": "first seen too recently: the time to convert has not passed",
    "crossover": "an exposure to a second variant; the unit stays with its first",
    "repeat_exposure": "a further exposure to the same variant",
    "unexposed": "a goal of a visitor who never met the experiment",
    "before_exposure": "a goal before the visitor met the experiment",
    "out_of_window": "a goal after the time to convert had passed",
    "repeat_goal": "the same goal again",
    "other": "an event type that is no goal of this experiment",
    "counted_exposure": "units: first exposures that count",
    "counted_goal": "goals that count",
}
"""Every place a posted event can end up in, in the order shown, with what it means."""


@dataclass(frozen=True, slots=True)
class Step:
    """How many posted events ended up in one place."""

    step: str
    count: int
    text: str


@dataclass(frozen=True, slots=True)
class Totals:
    """One variant over all epochs."""

    variant: str
    name: str
    is_control: bool
    units: int
    conversions: int
    score_sum: float
    score_sumsq: float
    value_sum: float
    value_sumsq: float


@dataclass(frozen=True, slots=True)
class Slice:
    """The counted units of one variant in one epoch that share a day, a device, a page ..."""

    dimension: str
    """``day``, ``hour`` or a key of :data:`SEGMENTS`."""
    name: str
    """``2026-03-02``, ``14:00``, ``mobile`` ...; :data:`OTHER` or :data:`UNKNOWN`."""
    epoch: int
    variant: str
    units: int


def query(experiment: Experiment, as_of: datetime, select: str) -> tuple[str, dict[str, Any]]:
    """One of this module's selections as SQL with its parameters.

    Raises:
        Conflict: the experiment has not started.
    """
    plan, started_at = experiment.plan, experiment.started_at
    if started_at is None:
        raise Conflict(f"experiment {experiment.id} has not started: there is nothing to count")
    enrolment_ends_at, horizon_ends_at = experiment.enrolment_ends_at, experiment.horizon_ends_at
    ended_at = experiment.ended_at
    closes = [t for t in (enrolment_ends_at, None if plan.finished else ended_at) if t is not None]
    last_goal = (horizon_ends_at or as_of) + plan.window
    parameters: dict[str, Any] = {
        "experiment": experiment.id,
        "as_of": FOREVER if plan.finished else to_micros(as_of),
        "started_at": to_micros(started_at),
        "last_goal_at": to_micros(last_goal),
        "enrolment_ends_at": FOREVER if plan.finished else min(map(to_micros, closes)),
        "window": plan.window // timedelta(microseconds=1),
        "goal_from": 0 if plan.goal_at_exposure else 1,
        "shares_move_at": _shares_move_at(experiment.epochs),
    }
    rows = []
    for index, goal in enumerate(plan.goals):
        rows.append(
            f"(CAST(:g{index} AS TEXT), CAST(:w{index} AS DOUBLE PRECISION), CAST(:p{index} AS INTEGER))"
        )
        parameters |= {f"g{index}": goal.name, f"w{index}": goal.weight, f"p{index}": int(goal.primary)}
    return EVENTS.format(goals=", ".join(rows), exposure=EXPOSURE, standing=STANDING) + select, parameters


@dataclass(frozen=True, slots=True)
class PairQuery:
    """Two quantities to be added up together."""

    metric: str
    y: str
    """A quantity of :class:`cro_core.domain.Ratio`."""
    x: str
    """Another one, or a covariate of :data:`COVARIATES` with ``before:`` ahead of it."""


def pairs_of(experiment: Experiment, cells: Sequence[Cell]) -> tuple[PairQuery, ...]:
    """The pairs that the secondary metrics need: ratios, and means with their covariate."""
    plan = experiment.plan
    found = [PairQuery(f"ratio:{r.name}", r.numerator, r.denominator) for r in plan.ratios]
    if plan.covariate in COVARIATES:
        found += [PairQuery(m, m, f"before:{plan.covariate}") for m in means_of(experiment, cells)]
    return tuple(found)


def means_of(experiment: Experiment, cells: Sequence[Cell]) -> tuple[str, ...]:
    """The mean metrics of an experiment.

    The score of a single goal is its rate over again, and amounts are a metric only where some were posted.
    """
    engagement = ("engagement",) * (len(experiment.plan.goals) > 1)
    return engagement + ("revenue",) * any(c.value_sumsq for c in cells)


def pair_query(experiment: Experiment, as_of: datetime, pair: PairQuery) -> tuple[str, dict[str, Any]]:
    """The sums of a pair per epoch and variant, as SQL with its parameters.

    Raises:
        Conflict: the experiment has not started.
    """
    parameters: dict[str, Any] = {"lookback": LOOKBACK // timedelta(microseconds=1)}
    units, parts = {"y": "0", "x": "0"}, ""
    for side, quantity in (("y", pair.y), ("x", pair.x)):
        kind, _, name = quantity.partition(":")
        other = {"y": "0", "x": "0"}
        if kind in BY_UNIT:
            units[side] = BY_UNIT[kind]
        elif kind in BY_GOAL:
            parameters[f"{side}_goal"] = name
            source = f"achieved WHERE type = CAST(:{side}_goal AS TEXT)"
            parts += PART.format(**other | {side: BY_GOAL[kind]}, source=source)
        else:
            column, source = COVARIATES[name]
            parts += PART.format(**other | {side: column}, source=source)
    sql, common = query(experiment, as_of, PAIR_CELLS.format(parts=UNIT_PART.format(**units) + parts))
    return sql, common | parameters


def _shares_move_at(epochs: Sequence[Epoch]) -> int:
    """Start of the first epoch whose shares are not those of the first, in microseconds."""
    moved = (to_micros(e.starts_at) for e in epochs if dict(e.shares) != dict(epochs[0].shares))
    return next(moved, FOREVER)


def time_slices(
    experiment: Experiment, counts: Iterable[tuple[int, str, datetime, int]]
) -> tuple[Slice, ...]:
    """Counted units by day and by hour of the day, both on the clocks of the site.

    Args:
        experiment: says which clocks.
        counts: epoch, variant, start of the quarter of an hour (UTC) and units.

    Returns:
        Days in order, then hours in order. The hour that a clock change repeats is one slice.
    """
    site = zone(experiment.plan.zone)
    found: Counter[tuple[str, str, int, str]] = Counter()
    for epoch, variant, quarter, units in counts:
        local = quarter.astimezone(site)
        found["day", f"{local:%Y-%m-%d}", epoch, variant] += units
        found["hour", f"{local:%H}:00", epoch, variant] += units
    return tuple(Slice(*key, units) for key, units in sorted(found.items()))


def totals(experiment: Experiment, cells: Sequence[Cell]) -> list[Totals]:
    """The cells added up per variant, in the experiment's order; variants nobody saw have zeros."""
    return [
        Totals(
            v.key,
            v.name,
            v.is_control,
            *(
                sum(getattr(c, field) for c in cells if c.variant == v.key)
                for field in ("units", "conversions", "score_sum", "score_sumsq", "value_sum", "value_sumsq")
            ),
        )
        for v in experiment.variants
    ]


def waterfall(stored: int, steps: Mapping[str, int], receipts: Mapping[str, int]) -> list[Step]:
    """From received to counted, every posted event in exactly one step.

    Args:
        stored: events in the store, counted without classifying them.
        steps: the same events by step.
        receipts: posted items by outcome; ``rejected`` and ``duplicate`` never reached the event table.

    Returns:
        ``received`` first, then every step; a last step ``unexplained`` appears only if the
        classification lost or doubled an event, which would be a fault of ours.
    """
    found = {**steps, "rejected": receipts.get("rejected", 0), "duplicate": receipts.get("duplicate", 0)}
    received = stored + found["rejected"] + found["duplicate"]
    lines = [Step("received", received, "posted for this experiment, or goals of the site while it ran")]
    lines += [Step(name, found.get(name, 0), text) for name, text in STEPS.items()]
    unexplained = received - sum(line.count for line in lines[1:])
    return lines + [Step("unexplained", unexplained, "not reconciled: please report this")] * bool(
        unexplained
    )
