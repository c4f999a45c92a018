"""The audit trail as sentences: what was changed, why, and how to take it back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cro_core.domain import Experiment, Verdict
from cro_core.evidence import Decision
from cro_core.reporting import summaries, words
from cro_core.reporting.values import Change

AUTOPILOT = "autopilot"

Entry = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Storyteller:
    """Tells entries of the audit trail to a reader who knows experiments by name.

    ``times`` counts entries by (action, subject); those of :data:`FOLDED` actions are told once. ``undoable`` are
    the numbers of those that can be undone, of which only what settled alarms of a split is asked.
    """

    experiments: Mapping[str, Experiment]
    decisions: Mapping[str, Decision]
    times: Mapping[tuple[str, str], int]
    undoable: Collection[int] = ()

    def tell(self, entry: Entry) -> Change | None:
        """One entry in words; ``None`` for those that are no news to a reader."""
        teller = TELLERS.get(entry["action"])
        if teller is None:
            return None
        text, why = teller(self, entry)
        if entry["undone_by"] is not None:
            return Change(entry["id"], entry["at"], entry["actor"], f"{text} Taken back since.", why, "")
        automatic = entry["actor"] == AUTOPILOT and entry["action"] in UNDOABLE
        offered = automatic or (entry["action"] in SETTLING and entry["id"] in self.undoable)
        return Change(
            entry["id"],
            entry["at"],
            entry["actor"],
            text,
            why,
            f"cro rollback {entry['id']}" if offered else "",
        )

    def started(self, entry: Entry) -> tuple[str, str]:
        """A test was started."""
        experiment = self.experiments.get(entry["subject"])
        why = (experiment.reasoning or experiment.hypothesis) if experiment else ""
        return f"Started the test {self.name(entry['subject'])}.", why

    def concluded(self, entry: Entry) -> tuple[str, str]:
        """A test ended with a decision."""
        after = entry["after"]
        decision = self.decisions.get(after["decision"])
        experiment = self.experiments.get(entry["subject"])
        verdict = words.VERDICTS[Verdict(after["verdict"])].lower()
        why = summaries.summary(experiment, decision) if experiment and decision else ""
        return f"Ended the test {self.name(entry['subject'])}: {verdict}.", why

    def produced(self, entry: Entry) -> tuple[str, str]:
        """The site shows something else."""
        after = entry["after"]
        proof = "picked by the settings or by hand, without proof" if after["unproven"] else "it won"
        return (
            f"Put {self.variant(after['experiment_id'], after['variant'])} on the site for everyone.",
            f"Result of {self.name(after['experiment_id'])}: {proof}.",
        )

    def shared(self, entry: Entry) -> tuple[str, str]:
        """Visitors are divided differently from tomorrow."""
        subject = entry["subject"]
        shares = ", ".join(
            f"{self.variant(subject, key)} {words.share(part)}"
            for key, part in entry["after"]["shares"].items()
        )
        times = self.times[entry["action"], subject]
        moved = f"{times} times, last to {shares}" if times > 1 else f"now {shares}"
        return (
            f"Moved visitors between the versions of {self.name(subject)} ({moved}).",
            "More visitors see what does better so far. Shares change only at midnight, which keeps the result valid.",
        )

    def ended(self, entry: Entry) -> tuple[str, str]:
        """A person ended a test."""
        return f"Ended the test {self.name(entry['subject'])} by hand.", entry["after"].get("reason") or ""

    def alarmed(self, entry: Entry) -> tuple[str, str]:
        """A look found visitors who were not divided as planned."""
        times = self.times[entry["action"], entry["subject"]]
        where = f"{times} parts of them" if times > 1 else _part(entry)
        text = (
            f"Found that the visitors of {self.name(entry['subject'])} were not divided as planned ({where})."
        )
        return text, "It stays until somebody explains it or leaves that part out."

    def explained(self, entry: Entry) -> tuple[str, str]:
        """A person explained why visitors were not divided as planned."""
        text = f"Explained why the visitors of {self.name(entry['subject'])} were not divided as planned ({_part(entry)})."
        return text, entry["after"]["reason"]

    def cut_out(self, entry: Entry) -> tuple[str, str]:
        """A person left a part of the visitors out."""
        text = f"Left a part of the visitors out of every version of {self.name(entry['subject'])} ({_part(entry)})."
        return text, entry["after"]["reason"]

    def took_back(self, entry: Entry) -> tuple[str, str]:
        """A person undid a change."""
        return f"Took back change {entry['after']['change']}, on {self.name(entry['subject'])}.", ""

    def failed(self, entry: Entry) -> tuple[str, str]:
        """The cycle could not handle something."""
        times = self.times[entry["action"], entry["subject"]]
        often = f" ({times} times)" if times > 1 else ""
        return f"Could not handle {self.name(entry['subject'])}{often}; it was left as it is.", entry[
            "after"
        ].get("error", "")

    def name(self, experiment_id: str) -> str:
        """The experiment's name in quotes, else what was given."""
        experiment = self.experiments.get(experiment_id)
        return f"“{(experiment.name if experiment else '') or experiment_id}”"

    def variant(self, experiment_id: str, key: str) -> str:
        """The variant's name in quotes, else its key."""
        experiment = self.experiments.get(experiment_id)
        variant = experiment.variant(key) if experiment else None
        return f"“{(variant.name if variant else '') or key}”"


def _part(entry: Entry) -> str:
    dimension, name = entry["after"]["dimension"], entry["after"]["name"]
    return "all of them" if dimension == "total" else f"{dimension} {name}"


TELLERS: Mapping[str, Callable[[Storyteller, Entry], tuple[str, str]]] = {
    "experiment.start": Storyteller.started,
    "experiment.conclude": Storyteller.concluded,
    "experiment.end": Storyteller.ended,
    "production.set": Storyteller.produced,
    "allocation.set": Storyteller.shared,
    "split.alarm": Storyteller.alarmed,
    "split.explain": Storyteller.explained,
    "split.cut": Storyteller.cut_out,
    "rollback": Storyteller.took_back,
    "cycle.failure": Storyteller.failed,
}
UNDOABLE = {"experiment.start", "experiment.conclude", "production.set", "allocation.set"}
SETTLING = {"split.explain", "split.cut"}
FOLDED = {"allocation.set", "split.alarm", "cycle.failure"}


def changes(
    trail: Sequence[Entry],
    experiments: Mapping[str, Experiment],
    decisions: Mapping[str, Decision],
    undoable: Collection[int] = (),
) -> tuple[Change, ...]:
    """What was changed, oldest first.

    Args:
        trail: entries of the audit trail, newest first; the newest of a folded action stands for all.
        experiments: by id.
        decisions: by id.
        undoable: numbers of the entries that can be undone; asked of what settled alarms of a split.
    """
    times = Counter((entry["action"], entry["subject"]) for entry in trail)
    teller = Storyteller(experiments, decisions, times, undoable)
    newest_first: list[Change] = []
    seen: set[tuple[str, str]] = set()
    for entry in trail:
        key = (entry["action"], entry["subject"])
        if key in seen and entry["action"] in FOLDED:
            continue
        seen.add(key)
        change = teller.tell(entry)
        if change is not None:
            newest_first.append(change)
    return tuple(reversed(newest_first))
