"""From the counts of an experiment to a decision: pure, and the same for cycle, API and replay."""

from cro_core.decision.decide import Judgement, decide
from cro_core.decision.inputs import aggregates, fingerprint, look_plan, state_of

__all__ = ["Judgement", "aggregates", "decide", "fingerprint", "look_plan", "state_of"]
