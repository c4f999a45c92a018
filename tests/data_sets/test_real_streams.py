"""Real experiments replayed look by look.

The data are not part of this repository: CRO_TEST_DATA says where they are, else `../shared/data` beside it.
"""

import numpy as np
import pandas as pd
import pytest
from helpers.real_data import DATA, REAL

from cro_core.domain import Verdict
from cro_core.statistics.looks import Aggregates, LookPlan, take_look
from cro_core.statistics.proportions import difference
from cro_core.statistics.rules import compare
from cro_core.statistics.sequential import LEAST_STEP, boundaries

pytestmark = REAL


# -- 381 experiments of a large shop as cumulative snapshots (Liu et al. 2021) ------------------------------


@pytest.fixture(scope="module")
def snapshots():
    """By metric, the snapshots of each stream in order."""
    rows = pd.read_csv(DATA / "asos" / "asos_digital_experiments_dataset.csv.gz").dropna()
    keys = ["experiment_id", "variant_id", "metric_id"]
    found = {}
    for (*_, metric), stream in rows.groupby(keys):
        if len(stream) > 1:
            found.setdefault(metric, []).append(stream.sort_values("time_since_start"))
    return found


@pytest.fixture(scope="module")
def streams(snapshots):
    """By metric, what :func:`replay` says of each stream."""
    return {metric: np.array([replay(stream) for stream in found]) for metric, found in snapshots.items()}


def moments(stream):
    """Units, sums and sums of squares of both variants, shape (looks, 1, 2) each."""
    n, mean, variance = (
        stream[[f"{c}_c", f"{c}_t"]].to_numpy(float)[:, None] for c in ("count", "mean", "variance")
    )
    return n, n * mean, n * (variance + mean**2)


def replay(stream):
    """Whether the stream ends significant, whether it ever was, and 1 or -1 where it crossed the boundary."""
    looks = compare(Aggregates.of(*moments(stream)), np.ones(1))
    z, time = looks.z[:, 0], stream["time_since_start"].to_numpy() / stream["time_since_start"].max()
    best = np.maximum.accumulate(looks.information)
    new = looks.information > np.concatenate([[0], best[:-1]]) * (1 + LEAST_STEP)
    critical = boundaries(looks.information[new], spending_time=time[new])
    crossed = np.flatnonzero(abs(z[new]) >= critical)
    return abs(z[-1]) > 1.96, (abs(z) > 1.96).any(), np.sign(z[new][crossed[0]]) if len(crossed) else 0


@pytest.mark.slow
def test_naive_looking_is_taken_in(streams):
    for metric, (ends, looks, back) in {
        1: (26, 46, 20),
        2: (27, 64, 37),
        3: (25, 57, 32),
        4: (27, 58, 31),
    }.items():
        end, ever = streams[metric].T[:2].astype(bool)
        assert len(end) == (99 if metric == 1 else 94)
        assert (end.sum(), (ever & ~end).sum()) == (ends, back)
        assert ever.sum() == looks


@pytest.mark.slow
def test_the_boundary_hardly_ever_is(streams):
    """Upward crossings that the end of the stream does not bear out, where naive looking has 20 to 37 of any kind.

    On the second metric effects come and go: one stream has z = 6 at a fifteenth of its time and 0 at its end.
    """
    for metric, most in {1: 5, 2: 6, 3: 5, 4: 5}.items():
        end, ever, crossed = streams[metric].T
        wins = crossed > 0
        assert (wins & (end == 0)).sum() <= most
        assert (crossed != 0).sum() < ever.sum()
        assert (crossed[end == 1] != 0).mean() > 0.85


def verdict(plan, stream):
    """Snapshot by snapshot, until a look ends the experiment."""
    time, state = stream["time_since_start"].to_numpy(), None
    for day, *sums in zip(time, *moments(stream), strict=True):
        look = take_look(plan, Aggregates.of(*sums), elapsed=day / time[-1], hours=24 * day, state=state)
        state = look.state
        if look.final:
            return look.verdict
    raise AssertionError("the last snapshot is the last look")


@pytest.mark.slow
def test_the_product_ships_none_of_them(snapshots, streams):
    """Of the metric with most of them, the upward crossings that the end does not bear out, by the verdict.

    The gate asks for +10 %, and no stream ends above +4 %. Without it every crossing is a verdict.
    """
    outcomes = zip(snapshots[2], streams[2], strict=True)
    transient = [stream for stream, (end, _, crossed) in outcomes if crossed > end]
    shipped = [
        sum(verdict(plan, stream) is Verdict.SHIP for stream in transient)
        for plan in (LookPlan(), LookPlan(min_uplift=0.0))
    ]
    assert shipped == [0, len(transient)]


# -- one experiment without effect, hour by hour ------------------------------------------------------------


@pytest.fixture(scope="module")
def hours():
    """Cumulative visitors and conversions of both variants after each hour, cleaned."""
    rows = pd.read_csv(next((DATA / "ab_data").glob("ab_data.csv*")))
    rows = rows[(rows["group"] == "treatment") == (rows["landing_page"] == "new_page")]
    rows = rows.sort_values("timestamp").drop_duplicates("user_id")
    time = pd.to_datetime(rows["timestamp"])
    hour = ((time - time.min()) // pd.Timedelta(hours=1)).to_numpy() + 1
    mine = (rows["group"] == "treatment").to_numpy()
    n, x = np.zeros((2, hour.max() + 1, 2))
    np.add.at(n, (hour, mine.astype(int)), 1)
    np.add.at(x, (hour, mine.astype(int)), rows["converted"].to_numpy())
    return n.cumsum(0), x.cumsum(0)


def run(plan, n, x, horizon):
    """Hourly looks until one ends the experiment."""
    state, hour = None, 0
    while True:
        hour += 1
        result = take_look(
            plan, Aggregates.of(n[[hour]], x[[hour]]), elapsed=hour / horizon, hours=hour, state=state
        )
        state = result.state
        if result.final:
            return hour, result


@pytest.mark.slow
def test_an_experiment_without_effect_never_stops(hours):
    """With the whole file as its horizon no hourly look ends it before the last."""
    n, x = hours
    last = len(n) - 1
    hour, result = run(LookPlan(), n, x, last)
    assert (hour, result.verdict) == (last, Verdict.INCONCLUSIVE)
    assert (n[-1].tolist(), x[-1].tolist()) == ([145_274, 145_310], [17_489, 17_264])
    uplift = result.challengers[0].relative
    assert uplift.estimate == pytest.approx(-0.0131, abs=6e-5)
    assert uplift.low < difference(145_274, 17_489, 145_310, 17_264).relative_low


def test_as_if_live_it_ends_at_its_planned_sample(hours):
    """Planned for 13,204 visitors per variant: they are in when hour 48, counted from 0, is over."""
    n, x = hours
    hour, result = run(LookPlan(planned_units=2 * 13_204), n, x, 336)
    assert (hour, result.verdict) == (49, Verdict.INCONCLUSIVE)
    assert (n[49].tolist(), x[49].tolist()) == ([13_458, 13_453], [1_586, 1_543])
