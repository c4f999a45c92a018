"""What spotify-confidence and GrowthBook's gbstats do with the programmes that `engines.py` has written.

    python -m venv other && other/bin/pip install "spotify-confidence==4.1.*" "gbstats==0.8.*"
    other/bin/python tools/other_engines.py counts.npz

Both are used as their documentation says: spotify-confidence's group-sequential z-test with the final sample it expects,
gbstats' sequential t-test with its default tuning parameter of 5,000. Their own functions are called for each look of some
programmes; for all of them one formula is taken, after it has given the same there.
"""

import argparse
import sys

import numpy as np
import pandas as pd
from gbstats.frequentist.tests import SequentialConfig, SequentialTwoSidedTTest
from gbstats.models.statistics import ProportionStatistic
from spotify_confidence import ZTest
from spotify_confidence.analysis.frequentist.confidence_computers.z_test_computer import sequential_bounds

ALPHA, TUNING = 0.05, 5_000


def welch_z(n, x):
    """Difference of the rates over its standard error, each arm with its own variance; shape of ``n[..., 0]``."""
    rate = x / n
    spread = np.sqrt((rate * (1 - rate) / n).sum(-1))
    return (rate[..., 1] - rate[..., 0]) / spread


def spotify_lines(n, total):
    """The |z| from which each look is significant, by the visitors so far and those expected, shape ``(looks,)``."""
    return sequential_bounds(np.minimum(n / total, 1), alpha=ALPHA, sides=2).bounds


def growthbook_lines(n):
    """The |z| whose confidence sequence touches 0, by the visitors so far."""
    rho2 = (-2 * np.log(ALPHA) + np.log(-2 * np.log(ALPHA) + 1)) / TUNING
    return np.sqrt(2 * (n * rho2 + 1) / (n * rho2) * np.log(np.sqrt(n * rho2 + 1) / ALPHA))


def spotify_says(n, x, total):
    """Which looks of one programme the package itself calls significant."""
    rows = [
        {"look": look, "arm": arm, "n": n[look, k], "x": x[look, k], "final": total}
        for look in range(len(n))
        for k, arm in enumerate("ab")
    ]
    test = ZTest(
        pd.DataFrame(rows), numerator_column="x", numerator_sum_squares_column=None, denominator_column="n",
        categorical_group_columns="arm", ordinal_group_column="look", interval_size=1 - ALPHA,
    )  # fmt: skip
    found = test.difference("a", "b", groupby="look", final_expected_sample_size_column="final")
    return found["is_significant"].to_numpy(bool)


def growthbook_says(n, x):
    """Which looks of one programme the package itself calls significant."""
    said = []
    for units, converted in zip(n, x, strict=True):
        arms = [ProportionStatistic(n=int(u), sum=int(c)) for u, c in zip(units, converted, strict=True)]
        config = SequentialConfig(alpha=ALPHA, difference_type="absolute", sequential_tuning_parameter=TUNING)
        low, high = SequentialTwoSidedTTest(*arms, config).compute_result().ci
        said.append(low > 0 or high < 0)
    return np.array(said)


def row(engine, z, lines, units, fixed):
    """One row of the table: how often each way, and visitors over those of one look at the end."""
    over = np.abs(z) >= lines
    ends = over.any(1)
    at = np.where(ends, over.argmax(1), z.shape[1] - 1)
    up = ends & (z[np.arange(len(z)), at] > 0)
    cells = [engine]
    for values in (ends, up):
        share = values.mean()
        cells.append(f"{share:.4f} ± {np.sqrt(share * (1 - share) / len(values)):.4f}")
    spent = units[at] / fixed
    cells.append(f"{spent.mean():.3f} ± {spent.std() / np.sqrt(len(spent)):.3f}")
    return "| " + " | ".join(cells) + " |"


def main():
    """Prints the rows of both engines, hourly and daily, for every scenario of the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("counts", help="what engines.py --counts has written")
    parser.add_argument(
        "--checked", type=int, default=20, help="programmes that the packages' own functions are asked of"
    )
    asked = parser.parse_args()
    kept = np.load(asked.counts)
    fixed, last = float(kept["fixed"]), int(kept["hours"])
    for name in (key[2:] for key in kept.files if key.startswith("n ")):
        n, x = (kept[f"{what} {name}"].astype(float) for what in "nx")
        print(f"\n{name}: {len(n):,} programmes")
        for often, step in (("hourly", 1), ("daily", 24)):
            looks = np.arange(23, n.shape[1], step)
            units = n[0, looks].sum(-1)
            z, total = welch_z(n[:, looks], x[:, looks]), n[0, -1].sum()
            growing = (
                looks < last
            )  # information is counted in visitors: nothing is new after the last has come
            spotify, growthbook = spotify_lines(units[growing], total), growthbook_lines(units)
            if step > 1:
                for k in range(asked.checked):
                    mine = (np.abs(z[k, growing]) >= spotify, np.abs(z[k]) >= growthbook)
                    own = (
                        spotify_says(n[k, looks[growing]], x[k, looks[growing]], total),
                        growthbook_says(n[k, looks], x[k, looks]),
                    )
                    if not all(np.array_equal(a, b) for a, b in zip(mine, own, strict=True)):
                        sys.exit(f"{name}, programme {k}: the formula is not what the package says")
            print(row(f"spotify-confidence, {often}", z[:, growing], spotify, units[growing], fixed))
            print(row(f"gbstats, {often}", z, growthbook, units, fixed))


if __name__ == "__main__":
    main()
