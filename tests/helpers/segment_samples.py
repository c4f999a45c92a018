"""Who came: the visitors of the real sessions, or made-up ones, and outcomes that the tests plant on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from helpers.real_data import DATA
from helpers.store_samples import running
from numpy.typing import NDArray

from cro_core.analytics.counts import Facet
from cro_core.analytics.definitions import OTHER
from cro_core.analytics.segment_definitions import TIMES_OF_DAY, WEEKDAYS
from cro_core.assignment.buckets import assign
from cro_core.domain import Cell, Experiment
from cro_core.segments import analysis
from cro_core.segments.findings import SegmentAnalysis
from cro_core.statistics.arrays import Floats

DIMENSIONS = ("device", "city", "hour")
SESSION_DIMENSIONS = ("device", "city", "country", "hour", "weekday")
MOST = 50


def real_visitors() -> pd.DataFrame:
    """The first session of each visitor of one day: device, city and hour are real; the variant is ours."""
    sessions = pd.read_csv(DATA / "ga_sessions" / "ga_sessions_2022-01-02_rehashed.csv.gz", dtype=str)
    first = sessions.sort_values(["ts_local", "session_id"]).drop_duplicates("visitor_id")
    hours = pd.to_datetime(first["ts_local"]).dt.hour
    return _visitors(
        first["device_category"], first["city"], hours, [_variant(v) for v in first["visitor_id"]]
    )


def made_up_visitors(number: int, rng: np.random.Generator) -> pd.DataFrame:
    """Visitors of a small site: few devices, many cities of which most are small, all hours."""
    cities = [f"city {i}" for i in range(40)]
    shares = 1 / np.arange(1, 41) ** 1.1
    return _visitors(
        pd.Series(rng.choice(["mobile", "desktop", "tablet"], number, p=[0.7, 0.27, 0.03])),
        pd.Series(rng.choice(cities, number, p=shares / shares.sum())),
        pd.Series(rng.integers(0, 24, number)),
        rng.choice(["a", "b"], number).tolist(),
    )


def session_like_visitors(number: int, rng: np.random.Generator) -> pd.DataFrame:
    """Visitors of the real sessions' shape, over a week: nearly all mobile, one large city, many small ones."""
    cities = ["Moscow", "Saint Petersburg", *(f"city {i}" for i in range(48))]
    shares = np.array([0.265, 0.1, *(0.635 * np.arange(1, 49) ** -0.7 / (np.arange(1, 49) ** -0.7).sum())])
    hours = np.repeat([0.115, 0.252, 0.308, 0.325], 6) / 6
    visitors = _visitors(
        pd.Series(rng.choice(["mobile", "desktop", "tablet"], number, p=[0.7, 0.25, 0.05])),
        pd.Series(rng.choice(cities, number, p=shares)),
        pd.Series(rng.choice(24, number, p=hours)),
        rng.choice(["a", "b"], number).tolist(),
    )
    countries = rng.choice(["RU", "BY", "KZ", "DE"], number, p=[0.7, 0.15, 0.1, 0.05])
    return visitors.assign(country=countries, weekday=rng.choice(WEEKDAYS, number))


def _variant(visitor: str) -> str:
    return "ab"[assign(visitor, "ga", (0.5, 0.5))]


def _visitors(device: pd.Series, city: pd.Series, hour: pd.Series, variant: Sequence[str]) -> pd.DataFrame:
    frequent = city.value_counts().index[:MOST]
    return pd.DataFrame(
        {
            "device": device.to_numpy(),
            "city": city.where(city.isin(frequent), OTHER).to_numpy(),
            "hour": [f"{h:02}:00" for h in hour],
            "time of day": [TIMES_OF_DAY[h // 6] for h in hour],
            "variant": variant,
        }
    )


@dataclass
class Planted:
    """Visitors with the chance to convert that a test gives each; outcomes are drawn from it."""

    visitors: pd.DataFrame
    chance: Callable[[pd.DataFrame], Floats]
    experiment: Experiment = field(default_factory=running)
    dimensions: tuple[str, ...] = DIMENSIONS

    def __post_init__(self) -> None:
        keys = [*self.dimensions, "time of day", "variant"]
        self.cells = self.visitors.groupby(keys, observed=True).size().rename("units").reset_index()
        self.p = self.chance(self.cells)
        asked = [(name,) for name in self.dimensions] + list(analysis.pairs_of(self.dimensions))
        self.sides = [
            (
                by,
                self.cells.groupby([*by, "variant"], observed=True)["units"].agg("sum"),
                self._codes([*by, "variant"]),
            )
            for by in asked
        ]

    def _codes(self, by: Sequence[str]) -> NDArray[np.int64]:
        codes: NDArray[np.int64] = self.cells.groupby(list(by), observed=True).ngroup().to_numpy()
        return codes

    def drawn(self, rng: np.random.Generator) -> SegmentAnalysis:
        """The analysis of one draw."""
        x = rng.binomial(self.cells["units"].to_numpy(), self.p)
        facets = list(self._facets(x))
        cells = [
            Cell(
                0,
                v,
                int(self.cells["units"][self.cells["variant"] == v].sum()),
                int(x[self.cells["variant"] == v].sum()),
            )
            for v in ("a", "b")
        ]
        as_of = self.experiment.epochs[-1].ends_at
        return analysis.analyse(self.experiment, facets, as_of=as_of, cells=cells, dimensions=self.dimensions)

    def _facets(self, x: NDArray[np.int64]) -> Iterator[Facet]:
        for by, units, codes in self.sides:
            converted = np.bincount(codes, x, len(units))
            for (*values, variant), n, k in zip(units.index, units, converted, strict=True):
                yield Facet(by, tuple(values), 0, variant, int(n), int(k))
