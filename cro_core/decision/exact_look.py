"""The exact test at one look: whether it decides, what it says, and the look's verdict where it does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from cro_core.domain import Cell, Epoch, Experiment, Reason, Variant, Verdict
from cro_core.evidence import ExactComparison, ExactTest
from cro_core.planning.plans import HOUR
from cro_core.statistics import exact
from cro_core.statistics.looks import ChallengerLook, Effect, LookPlan, LookResult, LookState

SHUT = {"veto", "too_few"}
"""Reasons of a look at which nothing may win or be dropped."""


def pair_share(experiment: Experiment, epoch: Epoch, challenger: Variant) -> float:
    """The challenger's planned share of its pair with the control; 0 where neither has one."""
    mine, control = (epoch.shares.get(v.key, 0.0) for v in (challenger, experiment.control))
    return mine / (mine + control) if mine + control else 0.0


def applies(experiment: Experiment) -> bool:
    """Whether the exact test means anything: fixed, known shares, under the second decision rule."""
    plan, epochs = experiment.plan, experiment.epochs
    frozen = not plan.adaptive and all(one.shares == other.shares for one, other in pairwise(epochs))
    if plan.rule < 2 or not plan.shares_known or not epochs or not frozen:
        return False
    return all(0 < pair_share(experiment, epochs[0], challenger) < 1 for challenger in experiment.challengers)


def expected_conversions(experiment: Experiment, cells: Sequence[Cell]) -> float | None:
    """Conversions that the smallest arm expects by its planned share; ``None`` where nobody planned any.

    Of a finished file they follow from all its conversions, which tell nothing of a difference.
    """
    plan = experiment.plan
    smallest = min(experiment.epochs[0].shares[v.key] for v in experiment.variants)
    if plan.finished:
        return smallest * sum(cell.conversions for cell in cells)
    if plan.conversions is not None:
        return smallest * plan.conversions
    return None if plan.base_rate is None or plan.units is None else smallest * plan.base_rate * plan.units


def exact_decides(experiment: Experiment, cells: Sequence[Cell]) -> bool:
    """Whether the exact test decides on every challenger: planned shares of a pair differ, and few are to convert."""
    if not applies(experiment):
        return False
    expected = expected_conversions(experiment, cells)
    shares = (pair_share(experiment, experiment.epochs[0], v) for v in experiment.challengers)
    return any(exact.decides(share, expected) for share in shares)


def exact_look(
    experiment: Experiment,
    cells: Sequence[Cell],
    plan: LookPlan,
    before: LookState | None,
    result: LookResult,
) -> tuple[LookResult, ExactTest | None]:
    """The look as the exact test sees it, and the evidence.

    Where it decides, its bounds take the place of the chi-square's: each challenger is tested at alpha shared evenly
    over all of them, and z is shown without a line. Elsewhere the result stays, and the test stands beside it while an
    arm has few conversions. Never the better of the two.

    Args:
        experiment: a started experiment.
        cells: its mature units.
        plan: as the look took it.
        before: the state that the look started from.
        result: the look, by the chi-square.
    """
    if not applies(experiment):
        return result, None
    counts = {v.key: sum(c.conversions for c in cells if c.variant == v.key) for v in experiment.variants}
    if exact_decides(experiment, cells):
        return _deciding(experiment, cells, counts, plan, before, result)
    if all(count >= exact.TOLD_BELOW for count in counts.values()):
        return result, None
    why = f"An arm has fewer than {exact.TOLD_BELOW} conversions: the exact test stands beside the chi-square, which decides."
    rows = tuple(_comparison(experiment, v, counts) for v in experiment.challengers)
    return result, ExactTest(False, why, expected_conversions(experiment, cells), rows)


def exact_reasons(test: ExactTest | None, *, final: bool) -> list[Reason]:
    """What the exact test says, in words; beside the chi-square only in a final decision."""
    if test is None or not (test.decides or final):
        return []
    said = " ".join(_sentence(row) for row in test.comparisons)
    return [Reason("exact" if test.decides else "exact_beside", f"{test.why} {said}")]


def _sentence(row: ExactComparison) -> str:
    p = row.p_value if row.p_adjusted is None else row.p_adjusted
    chance = f"{p:.1%}" if p >= 0.001 else "less than 0.1%"
    looks = " at one look" if row.p_adjusted is None else ""
    return (
        f"Of {row.of:,} conversions {row.conversions:,} are of {row.name}, which was to get {row.share:.0%} of the "
        f"visitors: chance alone is as far off in {chance} of experiments{looks}."
    )


def _comparison(experiment: Experiment, challenger: Variant, counts: dict[str, int]) -> ExactComparison:
    """One challenger at one look, without bounds."""
    conversions = counts[challenger.key]
    total = conversions + counts[experiment.control.key]
    share = pair_share(experiment, experiment.epochs[0], challenger)
    p_value = exact.exact_p(conversions, total, share)
    return ExactComparison(challenger.key, challenger.name, conversions, total, share, p_value)


def _deciding(
    experiment: Experiment,
    cells: Sequence[Cell],
    counts: dict[str, int],
    plan: LookPlan,
    before: LookState | None,
    result: LookResult,
) -> tuple[LookResult, ExactTest]:
    """The look by the exact bounds; where none was taken, only what is known."""
    rows = tuple(_comparison(experiment, v, counts) for v in experiment.challengers)
    expected = expected_conversions(experiment, cells)
    known = "nobody planned how many convert"
    if expected is not None:
        known = f"the smallest arm expects {expected:,.0f} conversions"
    why = f"The planned shares are unequal and {known}: the exact test decides."
    starts = _starts(before, rows)
    if result.status == "look":
        moment = _Moment.taken(experiment, plan, result, starts, rows)
        return moment.result(), ExactTest(True, why, expected, moment.rows)
    untouched = replace(result, state=replace(result.state, exact=starts))
    return untouched, ExactTest(True, why, expected, rows)


def _starts(before: LookState | None, rows: Sequence[ExactComparison]) -> tuple[exact.State, ...]:
    """The exact tests before this look; looks that were taken without them spent nothing."""
    if before is not None and len(before.exact) == len(rows):
        return before.exact
    looks = 0 if before is None else len(before.hours)
    return tuple(exact.State.after(row.share, [(0, -1, 1)] * looks) for row in rows)


@dataclass(frozen=True, slots=True)
class _Moment:
    """One look by the exact bounds."""

    experiment: Experiment
    plan: LookPlan
    look: LookResult
    """The look by the chi-square."""
    starts: tuple[exact.State, ...]
    """The test of each challenger before this look."""
    tests: tuple[exact.State, ...]
    """The test of each challenger after it."""
    rows: tuple[ExactComparison, ...]

    @classmethod
    def taken(
        cls,
        experiment: Experiment,
        plan: LookPlan,
        look: LookResult,
        starts: tuple[exact.State, ...],
        rows: Sequence[ExactComparison],
    ) -> _Moment:
        """The look with its bounds: alpha is shared evenly over the challengers."""
        count = len(rows)
        allowed = float(plan.spending.spent(look.spending_time, plan.alpha / 2 / count))
        tests, tested = [], []
        for start, row in zip(starts, rows, strict=True):
            # conversions that were taken back, as by an erasure, are no look: nothing crosses until more are there
            total = max(row.of, start.now)
            test = exact.step(start, total, allowed)
            crossed = test.crossed(row.conversions) if row.of >= start.now else None
            p = min(1.0, count * exact.adjusted_p(start, row.conversions, total))
            tests.append(test)
            tested.append(replace(row, p_adjusted=p, crossed=crossed, low=test.low[-1], high=test.high[-1]))
        return cls(experiment, plan, look, starts, tuple(tests), tuple(tested))

    @property
    def hours(self) -> float:
        """Hours of data at this look."""
        return self.look.state.hours[-1]

    @property
    def final(self) -> bool:
        """Whether this is the last look."""
        return self.look.spending_time >= 1

    @property
    def were_in(self) -> list[bool]:
        """Which challengers were in before this look; the chi-square may have dropped some at it."""
        return [at is None or at == self.hours for at in self.look.state.dropped]

    @property
    def shut(self) -> bool:
        """Whether nothing may win or be dropped now."""
        return any(reason.code in SHUT for reason in self.look.reasons)

    @property
    def up(self) -> list[int]:
        """Challengers beyond their upper bound."""
        return [k for k, row in enumerate(self.rows) if self.were_in[k] and row.crossed == "up"]

    @property
    def early(self) -> bool:
        """Whether no challenger may win yet: the units, all mature, have not come over the whole first week."""
        shut_for = self.plan.ship_after_hours
        return shut_for > 0 and self.hours - self.experiment.plan.window / HOUR < shut_for

    @property
    def winner(self) -> int | None:
        """The challenger that would win: beyond the bound, past the gate; of several the one least like chance."""
        passing = [k for k in self.up if not self.early and self._passes(k)]
        return min(passing, key=lambda k: self.rows[k].p_value) if passing else None

    @property
    def dropped(self) -> list[bool]:
        """Which challengers the control beats at this look."""
        decided = self.shut or self.winner is not None
        return [
            in_before and row.crossed == "down" and not decided
            for in_before, row in zip(self.were_in, self.rows, strict=True)
        ]

    def result(self) -> LookResult:
        """The look with the exact verdict in the place of the chi-square's."""
        verdict, winner, reasons = self._verdict()
        ended = verdict is not Verdict.CONTINUE
        state = replace(
            self.look.state,
            dropped=tuple(
                (self.hours if out else None) if in_before else at
                for at, in_before, out in zip(
                    self.look.state.dropped, self.were_in, self.dropped, strict=True
                )
            ),
            ended=ended,
            exact=self.tests,
        )
        return replace(
            self.look,
            verdict=verdict,
            winner=winner,
            reasons=tuple(reasons),
            final=ended,
            critical=None,
            critical_chi_square=None,
            challengers=tuple(self._row(k, ended=ended) for k in range(len(self.rows))),
            state=state,
        )

    def _row(self, k: int, *, ended: bool) -> ChallengerLook:
        out = self.dropped[k]
        up = k == self.winner and not self.shut
        changed = replace(
            self.look.challengers[k],
            active=self.were_in[k] and not out,
            crossed="up" if up else "down" if out else None,
            critical=None,
            p_value=None,
            stopped=None,
        )
        if not ended or not self.were_in[k]:
            return changed
        row, start = self.rows[k], self.starts[k]
        total = max(row.of, start.now)
        found = exact.uplift(start, row.conversions, total, self.plan.alpha / len(self.rows))
        effect = Effect(found.estimate, found.low, found.high)
        return replace(changed, stopped=effect, p_value=row.p_adjusted)

    def _passes(self, k: int) -> bool:
        """Whether the gain may be what is worth shipping, by the end of its interval that the gate names."""
        relative = self.look.challengers[k].relative
        end = {"not_excluded": relative.high, "point": relative.estimate, "proven": relative.low}[
            self.plan.gate
        ]
        return self.plan.gate == "not_excluded" if end is None else end >= self.plan.min_uplift

    def _verdict(self) -> tuple[Verdict, int | None, list[Reason]]:
        """Verdict, winner and the argument, in the words of any look."""
        reasons = [reason for reason in self.look.reasons if reason.code in SHUT]
        if any(reason.code == "veto" for reason in reasons):
            invalid = self.final or (self.winner is not None and self.plan.veto_ends)
            return (Verdict.INVALID if invalid else Verdict.CONTINUE), None, reasons
        if self.shut:
            return (Verdict.INCONCLUSIVE if self.final else Verdict.CONTINUE), None, reasons
        names = [v.name for v in self.experiment.ordered]
        reasons += [
            Reason("dropped", f"Out, because the control beats it: {names[k + 1]}.")
            for k, out in enumerate(self.dropped)
            if out
        ]
        if self.winner is not None:
            text = f"Beyond the boundary, better than {names[0]}: {names[self.winner + 1]}."
            return Verdict.SHIP, self.winner + 1, [*reasons, Reason("crossed", text)]
        if not any(in_before and not out for in_before, out in zip(self.were_in, self.dropped, strict=True)):
            text = f"Every challenger is beaten by {names[0]}."
            return Verdict.KEEP_CONTROL, 0, [*reasons, Reason("control_wins", text)]
        return self._undecided(reasons)

    def _undecided(self, reasons: list[Reason]) -> tuple[Verdict, int | None, list[Reason]]:
        if self.up and self.early:
            days = self.plan.ship_after_hours / 24
            text = (
                f"Beyond the boundary, but nothing is shipped before {days:.0f} days: every weekday counts."
            )
            reasons.append(Reason("week_not_over", text))
        small = bool(self.up) and not self.early
        if small:
            text = f"Better than the control, but the gain is below {self.plan.min_uplift:.0%}."
            reasons.append(Reason("gain_too_small", text))
        if self.final:
            verdict = Verdict.GAIN_BELOW_MINIMUM if small else Verdict.INCONCLUSIVE
            return verdict, None, [*reasons, Reason("horizon", "The last look is taken.")]
        futile = [reason for reason in self.look.reasons if reason.code == "futile"]
        if futile:
            return self.look.verdict, None, [*reasons, *futile]
        return Verdict.CONTINUE, None, [*reasons, Reason("inside", "No boundary is crossed.")]
