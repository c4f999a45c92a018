"""The same programmes through our looks and one chi-square at the end; for other engines as a file of counts.

    python benchmarks/engines.py --programmes 10000 --counts counts.npz
    python tools/other_engines.py counts.npz

The second runs where spotify-confidence and gbstats are installed, which this project does not need:
`docs/comparison.md` keeps what it found, with their versions. Visitors come by day and night, conversions late; all
engines see whoever was exposed, with the conversions so far. The sample is the planner's own for an uplift of 10 %, over
two weeks and one window: what the default settings do. Moving shares are part of our rule and have programmes of
their own, of the size that the planner asks for them.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import norm

from cro_core.lab import Scenario, decide, simulate
from cro_core.lab.measures import BATCH
from cro_core.lab.simulated_traffic import Traffic
from cro_core.lab.site import USUAL, later
from cro_core.statistics.arrays import Bools, Floats
from cro_core.statistics.rules import LookPlan
from cro_core.statistics.sample_size import inflation, sample_size

FIXED = 2 * sample_size(0.03, 0.10)
"""Visitors that one chi-square at the end needs for 80 % power."""

AS_SHIPPED = Scenario(
    units=round(FIXED * inflation()),
    profile="week",
    traffic="day",
    delays=(USUAL,),
    whole_weeks=True,
    plan=LookPlan(futility=True),
)
"""Two variants with equal shares under the default settings."""

MOVING = replace(
    AS_SHIPPED, adaptive=True, floor=0.1, units=round(FIXED * inflation(adaptive=True, floor=0.1))
)
"""The same where each day's shares follow what is known of the variants."""

EFFECTS = {"no effect": 0.0, "+10 %": 0.10, "+15 %": 0.15, "+20 %": 0.20}

SCENARIOS: Mapping[str, Scenario] = {
    "no effect": AS_SHIPPED,
    "no effect, the challenger's conversions come 4 hours later": replace(
        AS_SHIPPED, delays=(USUAL, later(USUAL, 4))
    ),
    "+10 %": replace(AS_SHIPPED, uplifts=(0.10,)),
    "+15 %": replace(AS_SHIPPED, uplifts=(0.15,)),
    "+20 %": replace(AS_SHIPPED, uplifts=(0.20,)),
    **{f"moving shares, {name}": replace(MOVING, uplifts=(uplift,)) for name, uplift in EFFECTS.items()},
}
"""What is simulated, by its name."""


ENGINES = ("ours", "ours, without futility", "ours, without futility and whole weeks", "one look at the end")


@dataclass(frozen=True, slots=True)
class Found:
    """What one engine did with all programmes of a scenario; arrays ``(programmes,)``."""

    up: Bools
    """Whether the challenger was declared better."""
    down: Bools
    """Whether it was declared worse."""
    units: Floats
    """Visitors who had come when it stopped."""


def counts(scenario: Scenario, traffic: Traffic) -> tuple[Floats, Floats, Floats]:
    """Visitors by the end of each hour, their conversions by then, and by the end of their windows.

    Each has shape ``(programmes, hours, 2)``. Where shares move only the last are simulated, and stand for both.
    """
    hours = scenario.hours + scenario.window
    n, x, whole = np.zeros((3, len(traffic.n), hours, 2))
    n[:, : scenario.hours], whole[:, : scenario.hours] = traffic.n, traffic.x
    for late, converted in traffic.parts or ((0, traffic.x),):
        x[:, late : late + scenario.hours] += converted
    return n.cumsum(1), x.cumsum(1), whole.cumsum(1)


def ours(scenario: Scenario, traffic: Traffic, rng: np.random.Generator) -> Found:
    """Hourly looks, as live."""
    outcomes = decide(scenario, traffic, rng)
    return Found(outcomes.winner >= 0, outcomes.control_won, outcomes.units)


def at_the_end(n: Floats, x: Floats) -> Found:
    """One chi-square when all is over."""
    z = z_pooled(n[:, -1], x[:, -1])
    line = norm.ppf(0.975)
    return Found(z >= line, z <= -line, n[:, -1].sum(-1))


def z_pooled(n: Floats, x: Floats) -> Floats:
    """Signed root of Pearson's chi-square of each pair, shape ``(programmes,)``."""
    rate = x.sum(-1) / n.sum(-1)
    spread = np.sqrt(rate * (1 - rate) * (1 / n[:, 0] + 1 / n[:, 1]))
    return np.asarray((x[:, 1] / n[:, 1] - x[:, 0] / n[:, 0]) / spread)


def joined(found: Sequence[Found]) -> Found:
    """Puts batches of one engine together."""
    return Found(
        np.concatenate([batch.up for batch in found]),
        np.concatenate([batch.down for batch in found]),
        np.concatenate([batch.units for batch in found]),
    )


def line(engine: str, found: Found) -> str:
    """One row of the table: how often each way, and visitors over those of one look at the end."""
    cells = [engine]
    for values in (found.up | found.down, found.up):
        share = float(values.mean())
        cells.append(f"{share:.4f} ± {np.sqrt(share * (1 - share) / len(values)):.4f}")
    spent = found.units / FIXED
    cells.append(f"{spent.mean():.3f} ± {spent.std() / np.sqrt(len(spent)):.3f}")
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--programmes", type=int, default=1_000, help="of each scenario")
    parser.add_argument("--seed", type=int, default=20261201)
    parser.add_argument("--counts", help="file for the counts of all programmes, for other engines")
    asked = parser.parse_args()
    kept: dict[str, Floats] = {"fixed": np.array(FIXED), "window": np.array(AS_SHIPPED.window)}
    for name, scenario in SCENARIOS.items():
        rng, weeks = np.random.default_rng(asked.seed), np.random.default_rng(asked.seed + 1)
        batches: list[tuple[Found, ...]] = []
        pieces: list[list[Floats]] = []
        for done in range(0, asked.programmes, BATCH):
            traffic = simulate(scenario, min(BATCH, asked.programmes - done), rng)
            n, x, whole = counts(scenario, traffic)
            patient = replace(scenario, plan=LookPlan())
            hasty = replace(patient, whole_weeks=False)
            found = [ours(each, traffic, weeks) for each in (scenario, patient, hasty)]
            batches.append((*found, at_the_end(n, x)))
            pieces.append(
                [each.astype(np.int32) for each in ((n, whole) if scenario.adaptive else (n, whole, x))]
            )
        print(f"\n{name}: {asked.programmes:,} programmes, seed {asked.seed}")
        for engine, found in zip(ENGINES, zip(*batches, strict=True), strict=True):
            print(line(engine, joined(found)))
        named = zip(("n", "whole", "x"), zip(*pieces, strict=True), strict=False)
        kept |= {f"{what} {name}": np.concatenate(part) for what, part in named}
    if asked.counts:
        np.savez(asked.counts, **kept)


if __name__ == "__main__":
    main()
