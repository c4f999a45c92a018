"""The report of an import: what became of every row of a file, and how its experiment would have ended."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from cro_core.clock import iso
from cro_core.domain import to_json
from cro_core.importing.files import Source
from cro_core.importing.ledger import Entry
from cro_core.importing.mapping import ImportMapping
from cro_core.importing.rows import FileEvents


@dataclass(frozen=True, slots=True)
class HourlyReplay:
    """How an imported experiment would have ended, had it been watched hour by hour."""

    hour: int
    """Hour of the experiment in which it ends, the first being hour 0; the look is taken at the hour's end."""
    decided_at: datetime
    verdict: str
    planned_units: int | None
    """Visitors that were planned, over all variants; ``None`` where no number was."""
    variants: tuple[Mapping[str, Any], ...]
    """``variant``, ``units`` and ``conversions`` of each variant, as counted at the look that ends it."""
    text: str


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What became of every row of a file; ``rows`` is the sum of ``left_out``, ``rejected`` and the imported ones."""

    experiment_id: str
    file: str
    mapping: str
    rows: int
    left_out: Mapping[str, int]
    """Rows that belong to something else, by reason."""
    rejected: Mapping[str, int]
    """Rows that broke a rule, by reason; kept in quarantine and counted in the waterfall."""
    first_rejected: Mapping[str, int]
    """The first rejected row by reason, counted from 1 below the header."""
    units: int
    """Distinct units among the exposures that were kept."""
    repeated_exposures: int
    """Exposures of a unit that had one already: the first counts."""
    units_in_several_variants: int
    """Units with rows of more than one variant, among the rows as they came."""
    units_crossing: int
    """Units exposed to more than one variant, among the exposures that the rules left."""
    accepted: int
    """Events stored by this run."""
    duplicates: int
    """Events of the file that were stored before."""
    started_at: datetime
    """Time of the first exposure."""
    ended_at: datetime
    """Time of the last event."""
    unchanged: bool
    """Whether nothing was stored: true where the same file had been imported with the same mapping before."""
    resumed_at: int | None = None
    """Row from which on an import that was cut off was taken up, where that is so."""
    notes: tuple[str, ...] = ()
    replay: HourlyReplay | None = None
    refused: Mapping[str, int] = field(default_factory=dict)
    """Events that the ingestion did not accept, by reason; in quarantine too."""

    def as_dict(self) -> dict[str, Any]:
        """Turns the report into JSON."""
        data: dict[str, Any] = to_json(self)
        return data | {"text": self.text}

    @property
    def text(self) -> str:
        """The report as text for people."""
        return "\n".join(_lines(self))


def _lines(report: ImportReport) -> list[str]:
    lines = [f"{report.file}: {report.rows:,} rows read with the mapping {report.mapping}."]
    lines += [f"  left out  {count:>9,}  {reason}" for reason, count in report.left_out.items()]
    lines += [
        f"  rejected  {count:>9,}  {reason} (first in row {report.first_rejected[reason]:,})"
        for reason, count in report.rejected.items()
    ]
    lines += [f"  rejected  {count:>9,}  {reason}" for reason, count in report.refused.items()]
    lines += [f"  note: {note}" for note in report.notes]
    lines.append(
        f"Units: {report.units:,} distinct, {report.repeated_exposures:,} repeated exposures; in more than one variant "
        f"{report.units_in_several_variants:,} among the rows as they came, {report.units_crossing:,} after the rules."
    )
    if report.unchanged:
        lines.append(
            f"Nothing was changed: this file was imported before as {report.experiment_id} ({report.duplicates:,} events)."
        )
    else:
        resumed = (
            ""
            if report.resumed_at is None
            else f", taking up at row {report.resumed_at + 1:,} an import that was cut off"
        )
        lines.append(
            f"Imported as {report.experiment_id}: {report.accepted:,} events stored, {report.duplicates:,} stored before"
            f"{resumed}; {iso(report.started_at)} to {iso(report.ended_at)}."
        )
    if report.replay is not None:
        lines += _replay_lines(report.replay)
    lines.append(f"Next: `cro evaluate {report.experiment_id}`")
    return lines


def _replay_lines(replay: HourlyReplay) -> list[str]:
    counts = " v ".join(
        f"{variant['variant']} {variant['units']:,}/{variant['conversions']:,}" for variant in replay.variants
    )
    of_planned = "" if replay.planned_units is None else f" of {replay.planned_units:,} planned"
    return [
        f"Replayed as live: ends in hour {replay.hour} (the first is hour 0), at {iso(replay.decided_at)}, as {replay.verdict}.",
        f"  counted {sum(variant['units'] for variant in replay.variants):,} visitors{of_planned}: {counts}",
        f"  {replay.text}",
    ]


@dataclass(frozen=True, slots=True)
class OutcomeReport:
    """What became of every row of a table of outcomes: they add up to ``rows``."""

    goal: str
    file: str
    rows: int
    stored: int
    """Outcomes stored by this run."""
    known: int
    """Outcomes that were stored before, or stand twice in the file."""
    unplaced: Mapping[str, int]
    """Rows in quarantine, by reason: a lead or visitor that is not known here, no time, no number ..."""
    first_unplaced: Mapping[str, int] = field(default_factory=dict)
    """The first row of each of these reasons, counted from 1 below the header."""

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON."""
        data: dict[str, Any] = to_json(self)
        return data | {"text": self.text}

    @property
    def text(self) -> str:
        """The report for people."""
        lines = [f"{self.file}: {self.rows:,} rows read as outcomes, goal {self.goal}."]
        lines += [
            f"  quarantine{n:>9,}  {reason} (first in row {self.first_unplaced[reason]:,})"
            for reason, n in self.unplaced.items()
        ]
        lines.append(f"{self.stored:,} outcomes stored, {self.known:,} stored before.")
        return "\n".join([*lines, "Next: `cro evaluate EXPERIMENT` shows them by variant"])


def report_of(
    source: Source,
    mapping: ImportMapping,
    file_events: FileEvents,
    former: Entry,
    entry: Entry,
    replay: HourlyReplay | None,
) -> ImportReport:
    """The report of a run that brought an import from its ``former`` entry in the ledger to a later one."""
    return ImportReport(
        experiment_id=file_events.experiment_id,
        file=source.name,
        mapping=mapping.source,
        rows=file_events.rows,
        left_out=file_events.left_out,
        rejected=file_events.rejected_by_reason,
        first_rejected=file_events.first_rejected,
        units=file_events.units,
        repeated_exposures=file_events.repeated_exposures,
        units_in_several_variants=file_events.units_in_several_variants,
        units_crossing=file_events.units_crossing,
        accepted=entry.accepted - former.accepted,
        duplicates=entry.duplicates - former.duplicates + former.accepted,
        started_at=file_events.started_at,
        ended_at=file_events.ended_at,
        unchanged=former.done,
        resumed_at=former.next_row if former.next_row and not former.done else None,
        notes=(*source.notes, *_notes(file_events)),
        replay=replay,
        refused=entry.refused,
    )


def _notes(file_events: FileEvents) -> Iterator[str]:
    if file_events.unexposed_goals:
        yield (
            f"{file_events.unexposed_goals:,} of {file_events.goals:,} goals are of units without an exposure, and cannot count: "
            "do exposures and goals name the same units?"
        )
