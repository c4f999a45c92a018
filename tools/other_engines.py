"""What spotify-confidence and GrowthBook's gbstats do with the programmes that `engines.py` has written.

    python -m venv other && other/bin/pip install "spotify-confidence==4.1.*" "gbstats==0.8.*"
    other/bin/python tools/other_engines.py counts.npz

Both are used as their documentation says: spotify-confidence's group-sequential z-test with the final sample it expects,
gbstats' sequential t-test with its default tuning parameter of 5,000, and with the final sample for it. Each is given
everyone exposed with the conversions so far, and only those whose window is over. All begin after 24 hours of data, and
take the last look when the last window is over. Their own functions are called for each look of some programmes; for
all of them one formula is taken, after it has given the same there.
"""

import argparse
import sys
from functools import cache

import numpy as np
import pandas as pd
from gbstats.frequentist.tests import SequentialConfig, SequentialTwoSidedTTest
from gbstats.models.statistics import ProportionStatistic
from spotify_confidence import ZTest
from spotify_confidence.analysis.frequentist.confidence_computers.z_test_computer import sequential_bounds

ALPHA, TUNING = 0.05, 5_000
DAY = 24


def welch_z(n, x):
    """Difference of the rates over its standard error, each arm with its own variance; shape of ``n[..., 0]``."""
    rate = x / n
    spread = np.sqrt((rate * (1 - rate) / n).sum(-1))
    return (rate[..., 1] - rate[..., 0]) / spread


@cache
def spotify_lines(parts):
    """The |z| from which each look is significant, by the parts of the final sample that it has, shape ``(looks,)``."""
    return sequential_bounds(np.array(parts), alpha=ALPHA, sides=2).bounds


def growthbook_lines(n, tuning):
    """The |z| whose confidence sequence touches 0, by the visitors so far."""
    rho2 = (-2 * np.log(ALPHA) + np.log(-2 * np.log(ALPHA) + 1)) / tuning
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


def growthbook_says(n, x, tuning):
    """Which looks of one programme the package itself calls significant."""
    said = []
    for units, converted in zip(n, x, strict=True):
        arms = [ProportionStatistic(n=int(u), sum=int(c)) for u, c in zip(units, converted, strict=True)]
        config = SequentialConfig(alpha=ALPHA, difference_type="absolute", sequential_tuning_parameter=tuning)
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


def feeds(kept, name):
    """What each look is given: name, indices of its hours, visitors and conversions by then, ``(programmes, looks, 2)``.

    Yields the hourly looks and the daily ones among them.
    """
    window = int(kept["window"])
    n, whole = kept[f"n {name}"], kept[f"whole {name}"]
    last = n.shape[1] - 1
    for often, step in (("hourly", 1), ("daily", DAY)):
        if f"x {name}" in kept.files:
            looks = np.append(np.arange(DAY - 1, last - window, step), last)
            yield often, looks, n[:, looks].astype(float), kept[f"x {name}"][:, looks].astype(float)
        looks = np.arange(DAY - 1 + window, last + 1, step)
        mature = [counts[:, looks - window].astype(float) for counts in (n, whole)]
        yield f"{often}, mature visitors", looks, *mature


def agree(says, z, lines):
    """Whether the formula finds of the first programmes what the package says of each."""
    return all(np.array_equal(np.abs(mine) >= lines, own) for mine, own in zip(z, says, strict=False))


def main():
    """Prints the rows of both engines, hourly and daily, for every scenario of the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("counts", help="what engines.py --counts has written")
    parser.add_argument(
        "--checked", type=int, default=20, help="programmes that the packages' own functions are asked of"
    )
    asked = parser.parse_args()
    kept = np.load(asked.counts)
    for name in (key[2:] for key in kept.files if key.startswith("n ")):
        exposed = kept[f"n {name}"][0].sum(-1)
        total = int(exposed[-1])
        print(f"\n{name}: {len(kept[f'n {name}']):,} programmes")
        for how, looks, n, x in feeds(kept, name):
            units, z = n[0].sum(-1), welch_z(n, x)
            checked = range(asked.checked if "daily" in how else min(asked.checked, 1))
            spotify = spotify_lines(tuple(units / total))
            tunings = {"": TUNING, ", tuned": total}
            lines = {engine: growthbook_lines(units, tuning) for engine, tuning in tunings.items()}
            agreed = agree((spotify_says(n[k], x[k], total) for k in checked), z, spotify)
            for engine, tuning in tunings.items():
                own = (growthbook_says(n[k], x[k], tuning) for k in checked)
                agreed = agreed and agree(own, z, lines[engine])
            if not agreed:
                sys.exit(f"{name}, {how}: the formula is not what the package says")
            print(row(f"spotify-confidence, {how}", z, spotify, exposed[looks], float(kept["fixed"])))
            for engine, line in lines.items():
                print(row(f"gbstats{engine}, {how}", z, line, exposed[looks], float(kept["fixed"])))


if __name__ == "__main__":
    main()
