"""The one definition of every number: from events to one row per unit, to cells, to the waterfall.

The definitions are SQL for DuckDB, as plain as they can be, so that another engine can be given the same text;
this module only writes it, :mod:`cro_core.analytics.reader` runs it. The unit is the visitor at its first
exposure. A goal counts when it happens at or after that exposure and within the plan's window, each goal once
per unit; any primary goal makes the unit converted. A unit is *mature*, and looked at, once its window has
passed.

The text reads the stored events under the names of :data:`SOURCES`, and the experiment's ``epochs`` (number,
starts_at, ends_at) and ``goals`` (type, weight, is_primary). It makes :data:`TABLES`, one from the other, which
say nothing about the moment of the look: a unit that is mature has all its goals, whatever comes later. So they
are made once, and every number at every moment is a selection from them. Sums of amounts are taken in the order of
the amounts, so that they are the same to the last bit however the events were stored.
"""

# ruff: noqa: S608  these texts are put together from words of this module; what comes from outside is a parameter

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from cro_core.clock import to_micros
from cro_core.domain import EXPOSURE, Epoch, Experiment, Quantity, QuantityPair
from cro_core.errors import Conflict

FOREVER = 2**62
"""Later than any time in microseconds."""

COUNTED = "counted_exposure"
"""The standing of a unit that counts."""

IMMATURE = "immature"
"""The standing of a unit that will count once its window has passed."""

CUT_OUT = "cut_out"
"""The standing of a unit in a slice that was cut out of every variant alike."""

TAKES_PART = f"standing IN ('{COUNTED}', '{IMMATURE}')"
"""Whose units count, now or later."""

HUMAN = "NOT bot AND NOT internal"
"""Whose events count: neither known robots nor the site's own people."""

TOO_EARLY = "r.occurred_at < u.exposed_at + $goal_from"
TOO_LATE = "r.occurred_at > u.exposed_at + $window"
"""Where a goal ``r`` does not count for its unit ``u``; the window's both ends belong to it."""

SOURCES: Mapping[str, str] = {
    "events": "exposures and goals of the experiment, and goals posted for the whole site while it ran",
    "shown": "its exposures, with what they say of their unit",
    "posted": "every event of the experiment or, while it ran, of the whole site",
    "past": "goals of every experiment, from before its start",
}
"""Names of the stored events. A source may hold more than is said here, which changes nothing but the time it takes."""

OWN = "experiment_id = $experiment"
OF_SITE = "experiment_id IS NULL AND occurred_at >= $started_at AND occurred_at <= $last_goal_at"
RELEVANT = f"""({OWN}
       OR ({OF_SITE}))"""
"""This experiment's events, and goals posted for the whole site while it ran."""

CONTEXT = ("device", "city", "country", "occasion", "asset_id", "url")
"""Columns of an exposure that say more of its unit than the variant."""

TABLES: Mapping[str, str] = {
    # the first exposure of each unit
    "met": f"""
SELECT unit, first.id AS event_id, first.variant AS variant, first.epoch AS said, exposed_at
FROM (
    SELECT unit, MIN(occurred_at) AS exposed_at,
           ARG_MIN(STRUCT_PACK(id := id, variant := variant, epoch := epoch), STRUCT_PACK(at := occurred_at, id := id)) AS first
    FROM events
    WHERE experiment_id = $experiment AND type = '{EXPOSURE}' AND {HUMAN}
    GROUP BY unit
) AS exposed
""",
    # each goal once per unit; amounts add up over every occurrence
    "achieved": f"""
SELECT r.unit, r.type, COUNT(*) AS times, MIN(r.occurred_at) AS first_at,
       COALESCE(SUM(r.value ORDER BY r.value) FILTER (WHERE r.value <> 0), 0) AS value,
       MAX(k.weight) AS weight, MAX(k.is_primary) AS is_primary
FROM events r
JOIN goals k ON k.type = r.type
JOIN met u ON u.unit = r.unit
WHERE {RELEVANT} AND {HUMAN} AND r.type <> '{EXPOSURE}' AND NOT ({TOO_EARLY}) AND NOT ({TOO_LATE})
GROUP BY r.unit, r.type
""",
    # units that met a second variant, with the first exposure to it
    "crossed": f"""
SELECT unit, other.id AS event_id, other.variant AS variant, crossed_at
FROM (
    SELECT r.unit, MIN(r.occurred_at) AS crossed_at,
           ARG_MIN(STRUCT_PACK(id := r.id, variant := r.variant), STRUCT_PACK(at := r.occurred_at, id := r.id)) AS other
    FROM events r
    JOIN met u ON u.unit = r.unit
    WHERE r.experiment_id = $experiment AND r.type = '{EXPOSURE}' AND {HUMAN} AND r.variant <> u.variant
    GROUP BY r.unit
) AS shown_again
""",
    # one row per unit: what it did
    "done": """
SELECT u.unit, u.variant, u.said, u.exposed_at, COALESCE(a.converted, 0) AS converted, a.converted_at,
       COALESCE(a.score, 0.0) AS score, COALESCE(a.value, 0.0) AS value
FROM met u
LEFT JOIN (
    SELECT unit, MAX(is_primary) AS converted, MIN(CASE WHEN is_primary = 1 THEN first_at END) AS converted_at,
           SUM(weight ORDER BY weight) AS score, SUM(value ORDER BY value) AS value
    FROM achieved
    GROUP BY unit
) AS a ON a.unit = u.unit
""",
    # what the first exposure says of its unit beside the variant
    "contexts": f"""
SELECT u.unit, u.event_id, {", ".join(f"r.{name}" for name in CONTEXT)}, r.value AS exposure_value
FROM shown r
JOIN met u ON u.event_id = r.id
WHERE r.experiment_id = $experiment AND r.type = '{EXPOSURE}'
""",
    # both: one row per unit
    "profiles": f"""
SELECT d.unit, c.event_id, d.variant, d.said, d.exposed_at, d.converted, d.converted_at, d.score, d.value,
       {", ".join(f"c.{name}" for name in CONTEXT)}, c.exposure_value
FROM done d
JOIN contexts c ON c.unit = d.unit
""",
    # what a unit did before it met the experiment, whatever that was done for
    "earlier": f"""
SELECT u.unit, k.type, MAX(k.weight) AS weight
FROM past r
JOIN goals k ON k.type = r.type
JOIN met u ON u.unit = r.unit
WHERE {HUMAN} AND r.occurred_at < u.exposed_at AND r.occurred_at >= u.exposed_at - $lookback
GROUP BY u.unit, k.type
""",
}
"""What is made once, where a selection reads it: each from the sources and those before it."""


OPEN = "u.exposed_at + $window >= $as_of"
"""Where a unit ``u`` may still convert."""

EPOCH_OF_UNIT = "LEFT JOIN epochs e ON u.exposed_at >= e.starts_at AND u.exposed_at < e.ends_at"
"""Finds the epoch ``e`` of a unit ``u``."""


def _unit_table(source: str, *said: str) -> str:
    """The beginning of a selection: ``unit_table``, and ``counted``, those of it that count.

    Args:
        source: one of :data:`TABLES`, with a row per unit.
        said: columns of it that the selection reads beside what units did.
    """
    more = "".join(f", {name}" for name in said)
    return f"""
WITH placed AS (        -- the units that had met the experiment, and whether they count yet
    SELECT u.*, e.number AS epoch,
           CASE WHEN e.number IS NULL OR u.exposed_at >= $enrolment_ends_at THEN 'after_enrolment'
                WHEN u.said <> e.number THEN 'wrong_epoch'
                WHEN u.said IS NULL AND u.exposed_at >= $shares_move_at THEN 'no_epoch'
                WHEN {OPEN} THEN '{IMMATURE}'
                ELSE '{COUNTED}' END AS standing
    FROM {source} u
    {EPOCH_OF_UNIT}
    WHERE u.exposed_at < $as_of
),
unit_table AS (         -- one row per exposed unit
    SELECT unit, variant, epoch, exposed_at, standing{more},
           CASE WHEN standing = '{COUNTED}' THEN converted ELSE 0 END AS converted,
           CASE WHEN standing = '{COUNTED}' THEN converted_at END AS converted_at,
           CASE WHEN standing = '{COUNTED}' THEN score ELSE 0 END AS score,
           CASE WHEN standing = '{COUNTED}' THEN value ELSE 0 END AS value
    FROM placed
),
counted AS (
    SELECT * FROM unit_table WHERE standing = '{COUNTED}'
)
"""


UNIT_TABLE = _unit_table("done")
"""Whether a unit counts: its first exposure lies in an epoch, says so itself, and is mature.

An exposure that does not say its epoch may rest on an assignment of another day. As long as the shares have
never moved that makes no difference; afterwards nobody can tell, and it is left out of every variant alike.
A unit is mature when its whole window, both ends included, lies before ``as_of``.
"""

PROFILE_TABLE = _unit_table("profiles", *CONTEXT)
"""Whether a unit counts, and what its first exposure says of it."""

UNITS = f"""{PROFILE_TABLE}
SELECT u.unit, variant, exposed_at, epoch, device, city, country, occasion, asset_id, standing,
       COALESCE(s.converted, u.converted) AS converted, COALESCE(s.converted_at, u.converted_at) AS converted_at,
       score, value
FROM unit_table u
LEFT JOIN (             -- who may still convert, and has
    SELECT unit, converted, converted_at
    FROM placed
    WHERE standing = '{IMMATURE}' AND converted_at < $as_of
) s ON s.unit = u.unit
ORDER BY exposed_at, u.unit
"""

QUARTER = timedelta(minutes=15)
"""The pieces of time in which units are counted: the hours and days of every time zone are made of whole ones."""


def _sum(of: str, name: str) -> str:
    """A sum of floating-point numbers that does not depend on the order of the rows."""
    return f"COALESCE(SUM({of} ORDER BY {of}) FILTER (WHERE {of} <> 0), 0) AS {name}"


CELLS = f"""{UNIT_TABLE}
SELECT epoch, variant, COUNT(*) AS units, CAST(SUM(converted) AS BIGINT) AS conversions,
       {_sum("score", "score_sum")},
       {_sum("score * score", "score_sumsq")},
       {_sum("value", "value_sum")},
       {_sum("value * value", "value_sumsq")}
FROM counted
GROUP BY 1, 2
ORDER BY 1, 2
"""

TIMES = f"""{UNIT_TABLE},
part AS (               -- those who may still convert too, with what they have done so far
    SELECT epoch, variant, exposed_at // $piece AS piece, converted_at < $as_of AS has_converted,
           standing = '{COUNTED}' AS mature,
           CASE WHEN standing = '{COUNTED}' THEN (converted_at - exposed_at) // 1000000 END AS delay
    FROM placed
    WHERE {TAKES_PART}
)
SELECT epoch, variant, piece, COUNT(*) FILTER (WHERE mature) AS units,
       COUNT(*) FILTER (WHERE mature AND has_converted) AS conversions,
       COUNT(*) AS exposed, COUNT(*) FILTER (WHERE has_converted) AS converted,
       CAST(COALESCE(SUM(delay), 0) AS BIGINT) AS delay_sum,
       CAST(COALESCE(SUM(delay * delay), 0) AS BIGINT) AS delay_sumsq
FROM part
GROUP BY 1, 2, 3
ORDER BY 1, 2, 3
"""
"""The units cut up by time, in pieces that make up the hours of the site: the split by day and hour, and the days.

Beside the mature units stand all that take part, with conversions before the moment of the look. Delays are whole
seconds from the exposure to the conversion, of mature units.
"""

QUARTER_SUMS = f"""{UNIT_TABLE}
SELECT variant, exposed_at // $quarter AS quarter, COUNT(*) AS units, CAST(SUM(converted) AS BIGINT) AS conversions,
       {_sum("score", "score_sum")},
       {_sum("value", "value_sum")}
FROM counted
GROUP BY 1, 2
ORDER BY 2, 1
"""
"""What the units of each piece of time did."""

GOAL_CELLS = f"""{UNIT_TABLE}
SELECT a.type AS goal, c.epoch, c.variant, COUNT(*) AS units
FROM achieved a
JOIN counted c ON c.unit = a.unit
GROUP BY 1, 2, 3
ORDER BY 1, 2, 3
"""

PAIR_CELLS = f"""{UNIT_TABLE},
pair AS (
    SELECT c.epoch, c.variant, CAST({{y}} AS DOUBLE) AS y, CAST({{x}} AS DOUBLE) AS x
    FROM counted c
    {{joins}}
)
SELECT epoch, variant, COUNT(*) AS units,
       {_sum("y", "y_sum")},
       {_sum("y * y", "y_sumsq")},
       {_sum("x", "x_sum")},
       {_sum("x * x", "x_sumsq")},
       {_sum("x * y", "xy_sum")}
FROM pair
GROUP BY epoch, variant
ORDER BY epoch, variant
"""

BY_UNIT: Mapping[str, str] = {"conversions": "converted", "engagement": "score", "revenue": "value"}
"""Kind of a :class:`cro_core.domain.Quantity` of every unit -> column of the unit table."""

BY_GOAL: Mapping[str, str] = {"goal": "1", "count": "times", "value": "value"}
"""Kind of a quantity of a goal -> column of the achieved goals."""

COVARIATES: Mapping[str, str] = {
    "engagement": "SELECT unit, SUM(weight ORDER BY weight) AS amount FROM earlier GROUP BY unit",
    "exposure_value": "SELECT unit, exposure_value AS amount FROM contexts",
}
"""Covariate of a plan -> its amount by unit; a unit without any has 0."""

LOOKBACK = timedelta(days=28)
"""How long before its exposure a unit's engagement is its covariate."""

SLICES = (
    PROFILE_TABLE
    + """
SELECT {dimension} AS slice, variant, COUNT(*) AS units, SUM(converted) AS conversions
FROM counted
GROUP BY {dimension}, variant
ORDER BY {dimension}, variant
"""
)

SEGMENT = (
    PROFILE_TABLE
    + """,
sliced AS (
    SELECT NULLIF({column}, '') AS slice, epoch, variant, COUNT(*) AS units
    FROM counted
    GROUP BY 1, 2, 3
),
added AS (
    SELECT *, CASE WHEN slice IS NULL THEN 0 ELSE SUM(units) OVER (PARTITION BY slice) END AS total
    FROM sliced
),
ranked AS (
    SELECT *, DENSE_RANK() OVER (ORDER BY total DESC, slice) AS place
    FROM added
)
SELECT CASE WHEN place <= $most THEN slice END AS slice, CASE WHEN slice IS NULL THEN 1 ELSE 0 END AS unknown,
       epoch, variant, SUM(units) AS units
FROM ranked
GROUP BY 1, 2, 3, 4
ORDER BY 1, 2, 3, 4
"""
)
"""Counted units of the most frequent values of a column."""

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

SEEN = f"""
SELECT e.unit, d.day, MIN(e.occurred_at) AS first_at
FROM events e
JOIN days d ON e.occurred_at >= d.starts_at AND e.occurred_at < d.ends_at
WHERE e.experiment_id IN (SELECT UNNEST($experiments)) AND e.type = '{EXPOSURE}' AND {HUMAN}
GROUP BY 1, 2
"""
"""The table ``seen``: who met any of some experiments on which of the ``days`` (day, starts_at, ends_at)."""

ARRIVALS = "SELECT first_at // $quarter AS quarter, COUNT(*) AS visitors FROM seen GROUP BY 1 ORDER BY 1"
"""When they came, each once a day."""

STORED = "stored"
"""The row of :data:`STEPS_TAKEN` that counts the events without classifying them."""

STEP = f"""{UNIT_TABLE},
relevant AS (
    SELECT id, unit, type, variant, occurred_at, bot, internal
    FROM posted
    WHERE {RELEVANT} AND occurred_at < $as_of
),
step AS (               -- every event in exactly one place
    SELECT r.id, r.unit, r.type,
           CASE WHEN r.bot THEN 'bot'
                WHEN r.internal THEN 'internal'
                WHEN r.id = m.event_id THEN u.standing
                WHEN r.type = '{EXPOSURE}' AND r.variant <> u.variant THEN 'crossover'
                WHEN r.type = '{EXPOSURE}' THEN 'repeat_exposure'
                WHEN u.unit IS NULL THEN 'unexposed'
                WHEN u.standing <> '{COUNTED}' THEN u.standing
                WHEN {TOO_EARLY} THEN 'before_exposure'
                WHEN {TOO_LATE} THEN 'out_of_window'
                WHEN k.type IS NULL THEN 'other'
                ELSE 'counted_goal' END AS step
    FROM relevant r
    LEFT JOIN met m ON m.unit = r.unit
    LEFT JOIN unit_table u ON u.unit = r.unit
    LEFT JOIN goals k ON k.type = r.type
)
"""

STEPS_TAKEN = f"""{STEP},
by_unit AS (            -- goals by unit, so that a second one shows as a repetition
    SELECT step, CASE WHEN step = 'counted_goal' THEN unit END AS unit, CASE WHEN step = 'counted_goal' THEN type END AS goal,
           COUNT(*) AS events
    FROM step
    GROUP BY 1, 2, 3
)
SELECT '{STORED}' AS taken, COUNT(*) AS events FROM relevant
UNION ALL
SELECT step, SUM(CASE WHEN step = 'counted_goal' THEN 1 ELSE events END) FROM by_unit GROUP BY step
UNION ALL
SELECT 'repeat_goal', SUM(events - 1) FROM by_unit WHERE step = 'counted_goal'
"""

CROSSOVER_UNITS = f"""{UNIT_TABLE}
SELECT p.variant AS variant, COUNT(*) AS units
FROM crossed c
JOIN placed p ON p.unit = c.unit
WHERE crossed_at < $as_of AND {TAKES_PART}
GROUP BY 1
ORDER BY 1
"""
"""How many units that take part have an exposure in the step ``crossover``, by the variant they met first.

It does not classify every event.
"""

OUTCOMES = f"""{UNIT_TABLE},
reached AS (            -- what became of counted units at or after their exposure, whenever
    SELECT c.unit, COUNT(*) FILTER (WHERE o.occurred_at >= c.exposed_at) AS times,
           COUNT(*) FILTER (WHERE o.occurred_at < c.exposed_at) AS before,
           COALESCE(SUM(o.value ORDER BY o.value) FILTER (WHERE o.occurred_at >= c.exposed_at), 0) AS amount
    FROM outcome o
    JOIN counted c ON c.unit = o.unit
    WHERE {HUMAN} AND o.type = $goal
    GROUP BY c.unit
),
told AS (
    SELECT c.variant, c.converted, COALESCE(r.times, 0) AS times, COALESCE(r.before, 0) AS before,
           COALESCE(r.amount, 0.0) AS amount
    FROM counted c
    LEFT JOIN reached r ON r.unit = c.unit
)
SELECT variant, COUNT(*) AS units, SUM(converted) AS leads,
       SUM(times) AS outcomes, SUM(times * converted) AS lead_outcomes,
       COUNT(*) FILTER (WHERE times > 0) AS units_reached,
       COUNT(*) FILTER (WHERE times > 0 AND converted = 1) AS leads_reached,
       SUM(amount ORDER BY amount) AS value, SUM(amount * amount ORDER BY amount) AS value_sumsq,
       SUM(amount * converted ORDER BY amount) AS lead_value,
       SUM(amount * amount * converted ORDER BY amount) AS lead_value_sumsq,
       SUM(before) AS before
FROM told
GROUP BY variant
ORDER BY variant
"""
"""What became of the counted units later: events of one type, in the view ``outcome``."""

EXPOSED = "SELECT COUNT(*) AS units FROM met WHERE exposed_at < $before"
"""How many units met the experiment before a moment, mature or not."""

DIMENSIONS = ("device", "city", "country", "occasion", "asset_id")

STEPS: Mapping[str, str] = {
    "rejected": "could not be accepted; kept in quarantine with the reason",
    "duplicate": "an id that had been stored before",
    "bot": "posted by a known bot",
    "internal": "posted by the site's own people",
    "after_enrolment": "first seen before the start or after enrolment had ended",
    "wrong_epoch": "shown under another day's shares (an expired assignment)",
    "no_epoch": "posted without its epoch after the shares had moved: perhaps an expired assignment",
    "cut_out": "first seen in a slice that a person cut out of every variant alike",
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


def parameters(experiment: Experiment, as_of: datetime) -> dict[str, int | str]:
    """What the texts of this module are run with, by name; times in microseconds.

    Raises:
        Conflict: the experiment has not started.
    """
    plan, started_at = experiment.plan, experiment.started_at
    if started_at is None:
        raise Conflict(f"experiment {experiment.id} has not started: there is nothing to count")
    closes = [moment for moment in (experiment.enrolment_ends_at, experiment.ended_at) if moment is not None]
    return {
        "experiment": experiment.id,
        "as_of": FOREVER if plan.finished else to_micros(as_of),
        "started_at": to_micros(started_at),
        "last_goal_at": to_micros(started_at + plan.horizon + plan.window),
        "enrolment_ends_at": FOREVER if plan.finished else min(map(to_micros, closes)),
        "window": plan.window // timedelta(microseconds=1),
        "goal_from": 0 if plan.goal_at_exposure else 1,
        "shares_move_at": _shares_move_at(experiment.epochs),
        "lookback": LOOKBACK // timedelta(microseconds=1),
        "quarter": QUARTER // timedelta(microseconds=1),
        "most": MOST_SLICES,
    }


def arguments(values: Mapping[str, Any], *texts: str) -> dict[str, Any]:
    """Selects those parameters that texts are run with."""
    return {name: values[name] for text in texts for name in re.findall(r"\$(\w+)", text)}


def needed(sql: str, tables: Mapping[str, str] = TABLES) -> list[str]:
    """Finds the :data:`SOURCES` and tables that a text reads, directly or through others, in order.

    Args:
        sql: a selection, or a table's text.
        tables: :data:`TABLES`, or those of a reading that cuts slices out.
    """
    words = set(re.findall(r"\w+", sql))
    names = {name for name in SOURCES if name in words}
    for name in words & set(tables):
        names |= {name, *needed(tables[name], tables)}
    return [name for name in (*SOURCES, *tables) if name in names]


def pair_query(pair: QuantityPair) -> tuple[str, dict[str, str]]:
    """The sums of a pair per epoch and variant, as SQL with what it is run with beside :func:`parameters`."""
    columns, joins, parameters = {}, "", {}
    for side, quantity in (("y", pair.y), ("x", pair.x)):
        if quantity.kind in BY_UNIT:
            columns[side] = f"c.{BY_UNIT[quantity.kind]}"
            continue
        columns[side] = f"COALESCE({side}.amount, 0)"
        joins += f"LEFT JOIN ({_amounts(quantity, side)}) AS {side} ON {side}.unit = c.unit\n    "
        if quantity.kind in BY_GOAL:
            parameters[f"{side}_goal"] = str(quantity.of)
    return PAIR_CELLS.format(**columns, joins=joins), parameters


def _amounts(quantity: Quantity, side: str) -> str:
    """A quantity by unit, where the unit table does not hold it; a goal is named by the parameter ``SIDE_goal``."""
    if quantity.kind in BY_GOAL:
        return f"SELECT unit, {BY_GOAL[quantity.kind]} AS amount FROM achieved WHERE type = ${side}_goal"
    return COVARIATES[quantity.of or ""]


def _shares_move_at(epochs: Sequence[Epoch]) -> int:
    """Start of the first epoch whose shares are not those of the first, in microseconds."""
    moved = (to_micros(epoch.starts_at) for epoch in epochs if dict(epoch.shares) != dict(epochs[0].shares))
    return next(moved, FOREVER)
