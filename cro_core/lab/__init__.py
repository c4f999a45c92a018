"""The lab proves the statistics by simulation: experiments of known truth, through the functions that decide live ones.

A programme is one experiment from its first visitor to its last look, with a known truth. Thousands run at
once: visitors arrive hour by hour, are split by the epoch's shares, convert at a rate that swings with hour,
day and season, and every hour is a look. Statistic, boundary, Holm, gate, futility and allocation are those
of :mod:`cro_core.statistics.rules`, :mod:`cro_core.statistics.combination` and :mod:`cro_core.assignment.allocation`.
One thing is common to all programmes of a scenario: the information clock is the mean over programmes, so
that one recursion serves them all.

Beside the product's own rule stands the naive rule of simpler tools: a chi-square at .05 looked at every hour, once each
variant has 100 visitors and the observed uplift is 10 %. ``Flaw`` plants rules that are known to be wrong,
to show that the lab catches them.
"""

from cro_core.lab.discoveries import Discoveries, false_discoveries
from cro_core.lab.measures import (
    Coverage,
    FalsePositives,
    Power,
    Share,
    coverage,
    fpr,
    power,
    run,
    share,
)
from cro_core.lab.scenario import Flaw, Scenario, planned
from cro_core.lab.simulated_looks import SimulatedOutcomes, decide, naive_rule
from cro_core.lab.simulated_traffic import Traffic, simulate, simulate_together
from cro_core.lab.site import PROFILES, TRAFFIC
from cro_core.lab.splits import Wave, bot_wave, srm_alarms

__all__ = [
    "PROFILES",
    "TRAFFIC",
    "Coverage",
    "Discoveries",
    "FalsePositives",
    "Flaw",
    "Power",
    "Scenario",
    "Share",
    "SimulatedOutcomes",
    "Traffic",
    "Wave",
    "bot_wave",
    "coverage",
    "decide",
    "false_discoveries",
    "fpr",
    "naive_rule",
    "planned",
    "power",
    "run",
    "share",
    "simulate",
    "simulate_together",
    "srm_alarms",
]
