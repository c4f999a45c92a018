"""How long the lab takes for 10,000 programmes, the looks that decide beside the naive rule's.

Both look at the same simulated traffic every hour; the looks keep boundaries, gate, epochs and Holm besides.
Processor seconds of one process; programmes are simulated in batches, as the lab does.
"""

import argparse
import time
from dataclasses import replace

import numpy as np

from cro_core.lab import Scenario, decide, naive_rule, planned, simulate
from cro_core.lab.measures import BATCH
from cro_core.lab.site import USUAL, exponential
from cro_core.statistics.rules import LookPlan

PER = 10_000
TWO = Scenario(profile="week", traffic="day", delays=(USUAL,))
FOUR = planned(replace(TWO, uplifts=(0.0,) * 3))
SCENARIOS = {
    "fixed": TWO,
    "fixed, first rule": replace(TWO, rule=1),
    "fixed, futility": replace(TWO, plan=LookPlan(futility=True)),
    "floor 30%": replace(TWO, adaptive=True),
    "floor 30%, a day late": replace(TWO, adaptive=True, delays=(exponential(24, 72),), window=72),
    "4 variants, fixed": FOUR,
    "4 variants, floor 10%": replace(FOUR, adaptive=True, floor=0.1),
}


def seconds(scenario: Scenario, programmes: int, rng: np.random.Generator) -> tuple[float, float, float]:
    """Processor seconds for traffic, the looks that decide and the naive rule's."""
    spent = np.zeros(3)
    for done in range(0, programmes, BATCH):
        started = time.process_time()
        traffic = simulate(scenario, min(BATCH, programmes - done), rng)
        arrived = time.process_time()
        decide(scenario, traffic)  # looks at the naive rule too, which is taken off again
        decided = time.process_time()
        naive_rule(traffic, scenario.plan.min_units, scenario.plan.min_uplift)
        naive = time.process_time() - decided
        spent += arrived - started, decided - arrived - naive, naive
    traffic_time, looks, simple = spent.tolist()
    return traffic_time, looks, simple


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--programmes", type=int, default=2 * BATCH, help="simulated for each line")
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    rng = np.random.default_rng(asked.seed)
    decide(TWO, simulate(TWO, 10, rng))  # what is computed once is not timed
    print(f"Seconds for {PER:,} programmes of {TWO.hours} looks, from {asked.programmes:,}")
    print(f"{'':<24}{'traffic':>9}{'looks':>9}{'naive':>9}{'ratio':>8}{'in all':>9}")
    for name, scenario in SCENARIOS.items():
        traffic, looks, naive = (PER / asked.programmes * s for s in seconds(scenario, asked.programmes, rng))
        total = traffic + looks + naive
        print(f"{name:<24}{traffic:>9.2f}{looks:>9.2f}{naive:>9.2f}{looks / naive:>8.1f}{total:>9.2f}")


if __name__ == "__main__":
    main()
