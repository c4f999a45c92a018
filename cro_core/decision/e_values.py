"""The e-values of one look: evidence on every challenger that adds up over experiments with different visitors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cro_core.decision.exact_look import pair_share
from cro_core.decision.inputs import aggregates
from cro_core.domain import Cell, Experiment, Variant
from cro_core.evidence import EValue
from cro_core.statistics.arrays import Floats
from cro_core.statistics.evalue import e_value


def e_values(experiment: Experiment, cells: Sequence[Cell]) -> tuple[EValue, ...] | None:
    """The e-value of every challenger from the mature units; ``None`` under the first decision rule.

    Where nobody recorded the planned shares, those of the counted units of each epoch take their place.
    """
    if experiment.plan.rule < 2:
        return None
    counts = aggregates(experiment, cells)
    return tuple(
        _e_value(experiment, challenger, counts.units[:, [0, k]], counts.total[:, [0, k]])
        for k, challenger in enumerate(experiment.challengers, start=1)
    )


def _e_value(experiment: Experiment, challenger: Variant, units: Floats, conversions: Floats) -> EValue:
    planned = [pair_share(experiment, epoch, challenger) for epoch in experiment.epochs]
    seen = units[:, 1] / np.maximum(units.sum(-1), 1)
    shares = np.array(planned) if experiment.plan.shares_known else seen
    split = (shares > 0) & (shares < 1)  # an epoch in which only one of the two was shown compares nothing
    fixed = experiment.plan.shares_known and len(set(planned)) == 1
    return EValue(
        variant=challenger.key,
        name=challenger.name,
        control=int(conversions[:, 0].sum()),
        conversions=int(conversions[:, 1].sum()),
        share=planned[0] if fixed else None,
        e_value=e_value(conversions[split], shares[split]),
    )
