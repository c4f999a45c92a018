"""The definitions of segment analysis: counted units by facet, what they did, and how long until they converted.

They are texts like those of :mod:`cro_core.analytics.definitions`, made of its tables and run with its parameters.
"""

# ruff: noqa: S608  these texts are put together from words of these modules; what comes from outside is a parameter

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta

from cro_core.analytics.definitions import OTHER, PROFILE_TABLE, QUARTER, TAKES_PART, UNIT_TABLE, UNKNOWN
from cro_core.clock import from_micros, to_micros, zone
from cro_core.domain import Experiment

LOCAL_HOUR = "((c.exposed_at + k.shift) // 3600000000 % 24)"
LOCAL_WEEKDAY = "(((c.exposed_at + k.shift) // 86400000000 + 3) % 7)"
"""Weekday on the clocks of the site, Monday being 0: 1970 began on a Thursday."""

FACETS: Mapping[str, str] = {
    "device": "c.device",
    "city": "c.city",
    "country": "c.country",
    "occasion": "c.occasion",
    "hour": f"CAST({LOCAL_HOUR} AS VARCHAR)",
    "weekday": f"CAST({LOCAL_WEEKDAY} AS VARCHAR)",
    "time of day": f"CAST({LOCAL_HOUR} // 6 AS VARCHAR)",
    "asset": "c.asset_id",
    "referrer": "f.host",
    "page": "c.url",
}
"""What a segment analysis looks at units by, with where a counted unit ``c`` has it.

``k`` is the clock of the site at its exposure, ``f`` the page that it came from.
"""

TIMED = ("hour", "weekday", "time of day")
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
TIMES_OF_DAY = ("night (0-6)", "morning (6-12)", "afternoon (12-18)", "evening (18-24)")

REFERRER_HOST = r"""CASE WHEN r.said = '' THEN '(direct)'
            ELSE NULLIF(REGEXP_EXTRACT(LOWER(r.said), '^[a-z][a-z0-9+.-]*://(?:[^/@]*@)?(?:www[.])?([^/:?#]+)', 1), '') END"""

REFERRERS = f"""LEFT JOIN (
        SELECT u.unit, {REFERRER_HOST} AS host
        FROM (SELECT id, json_extract_string(properties, '$.referrer') AS said FROM tagged) AS r
        JOIN met u ON u.event_id = r.id
    ) AS f ON f.unit = c.unit"""
"""Host of the page that a unit came from, of which no more is read: ``properties.referrer`` of its exposure."""

CLOCKS = "JOIN clocks k ON c.exposed_at >= k.starts_at AND c.exposed_at < k.ends_at"

FACET_CELLS = f"""{{units}},
told AS (
    SELECT c.epoch, c.variant, c.converted, NULLIF({{first}}, '') AS a, NULLIF({{second}}, '') AS b
    FROM counted c
    {{joins}}
),
added AS (
    SELECT a, b, epoch, variant, COUNT(*) AS units, CAST(SUM(converted) AS BIGINT) AS conversions
    FROM told
    GROUP BY 1, 2, 3, 4
),
weighed AS (
    SELECT *, SUM(units) OVER (PARTITION BY a) AS a_units, SUM(units) OVER (PARTITION BY b) AS b_units
    FROM added
),
ranked AS (
    SELECT *,
           DENSE_RANK() OVER (ORDER BY CASE WHEN a IS NULL THEN 1 ELSE 0 END, a_units DESC, a) AS a_place,
           DENSE_RANK() OVER (ORDER BY CASE WHEN b IS NULL THEN 1 ELSE 0 END, b_units DESC, b) AS b_place
    FROM weighed
)
SELECT CASE WHEN a IS NULL THEN '{UNKNOWN}' WHEN a_place <= $most THEN a ELSE '{OTHER}' END AS a,
       CASE WHEN b IS NULL THEN '{UNKNOWN}' WHEN b_place <= $most THEN b ELSE '{OTHER}' END AS b,
       epoch, variant, CAST(SUM(units) AS BIGINT) AS units, CAST(SUM(conversions) AS BIGINT) AS conversions
FROM ranked
GROUP BY 1, 2, 3, 4
ORDER BY 1, 2, 3, 4
"""
"""Counted units and conversions of the most frequent values of one or two dimensions."""

GOAL_TIMES = f"""{UNIT_TABLE}
SELECT a.type AS goal, c.variant, COUNT(*) AS reached, CAST(SUM(a.times) AS BIGINT) AS times,
       CAST(SUM(a.times * a.times) AS BIGINT) AS times_sumsq
FROM achieved a
JOIN counted c ON c.unit = a.unit
GROUP BY 1, 2
ORDER BY 1, 2
"""
"""How many counted units reached each goal, and how often."""

DURATIONS = f"""{UNIT_TABLE},
followed AS (           -- those too who may still convert: for as long as they were seen
    SELECT variant, exposed_at, LEAST($window, $as_of - exposed_at) AS seen,
           CASE WHEN converted_at < $as_of THEN converted_at END AS converted_at
    FROM placed
    WHERE {TAKES_PART}
)
SELECT variant, COALESCE(converted_at - exposed_at, seen) // 1000000 AS seconds,
       CASE WHEN converted_at IS NULL THEN 0 ELSE 1 END AS converted, COUNT(*) AS units
FROM followed
GROUP BY 1, 2, 3
ORDER BY 1, 2, 3
"""
"""After how many whole seconds units converted, or how long they were seen without it."""


def facet_query(by: Sequence[str]) -> str:
    """The selection of the cells of one or two dimensions of :data:`FACETS`.

    It reads the table ``clocks`` (starts_at, ends_at, shift) where it asks for time, and the view ``tagged`` (id,
    properties) where it asks for the referrer.
    """
    says = any(FACETS[name].startswith("c.") for name in by)
    joins = [
        CLOCKS if any(name in TIMED for name in by) else "",
        REFERRERS if "referrer" in by else "",
    ]
    first, second = (FACETS[by[0]], FACETS[by[1]] if len(by) > 1 else "'all'")
    return FACET_CELLS.format(
        units=PROFILE_TABLE if says else UNIT_TABLE,
        first=first,
        second=second,
        joins="\n    ".join(filter(None, joins)),
    )


def clocks(experiment: Experiment) -> dict[str, list[int]]:
    """When the site's clocks were how far from UTC while the experiment enrolled, in microseconds.

    Clocks change at a full quarter of an hour UTC.
    """
    site = zone(experiment.plan.zone)
    starts = [epoch.starts_at for epoch in experiment.epochs]
    ends = [epoch.ends_at for epoch in experiment.epochs]
    first, last = to_micros(min(starts)), to_micros(max(ends))

    def shift(at: int) -> int:
        offset = from_micros(at).astimezone(site).utcoffset()
        return 0 if offset is None else offset // timedelta(microseconds=1)

    day, quarter = timedelta(days=1) // timedelta(microseconds=1), QUARTER // timedelta(microseconds=1)
    offsets = {"starts_at": [first], "ends_at": [], "shift": [shift(first)]}
    for at in range(first // day * day, last, day):
        if shift(at + day) != offsets["shift"][-1]:
            change = next(
                moment
                for moment in range(at // quarter * quarter, at + day + 1, quarter)
                if shift(moment) == shift(at + day)
            )
            offsets["ends_at"].append(change)
            offsets["starts_at"].append(change)
            offsets["shift"].append(shift(change))
    offsets["ends_at"].append(last)
    return offsets


def piece(experiment: Experiment) -> int:
    """The longest piece of time, in microseconds, of which hours on the clocks of the site are made.

    An hour where the clocks differ from UTC by whole hours, as in most zones; else a quarter of one.
    """
    hour, offsets = timedelta(hours=1) // timedelta(microseconds=1), clocks(experiment)
    whole = all(at % hour == 0 for at in (*offsets["shift"], *offsets["starts_at"][1:]))
    return hour if whole else QUARTER // timedelta(microseconds=1)
