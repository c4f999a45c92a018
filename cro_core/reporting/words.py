"""Numbers, times and verdicts as people say them. Percentages exist only here."""

from __future__ import annotations

import unicodedata
from datetime import datetime
from zoneinfo import ZoneInfo

from cro_core.domain import Verdict

UNKNOWN = "not known"
NBSP = "\u00a0"
"""Keeps a number and its unit on one line."""

VERDICTS: dict[Verdict | None, str] = {
    Verdict.SHIP: "Winner found",
    Verdict.KEEP_CONTROL: "Original kept",
    Verdict.NO_PRACTICAL_GAIN: "Stopped, nothing proven",
    Verdict.GAIN_BELOW_MINIMUM: "Gain too small",
    Verdict.CONTINUE: "Still collecting",
    Verdict.INCONCLUSIVE: "No clear winner",
    Verdict.INVALID: "Not trustworthy",
    None: "Nothing to judge yet",
}

STEPS: dict[str, str] = {
    "received": "Events received",
    "rejected": "not accepted (kept aside with the reason)",
    "duplicate": "sent twice",
    "bot": "from known robots",
    "internal": "from your own people",
    "after_enrolment": "visitor first seen outside the enrolment period",
    "wrong_epoch": "shown under another day's split",
    "no_epoch": "did not say which day's split it was shown under",
    "cut_out": "visitor of a slice that was cut out of every version",
    "immature": "visitor too recent: may still convert",
    "crossover": "visitor had met another variant before",
    "repeat_exposure": "same visitor, same variant again",
    "unexposed": "goal of a visitor who never met the experiment",
    "before_exposure": "goal before the visitor met the experiment",
    "out_of_window": "goal too late to be credited to the version",
    "repeat_goal": "same goal of the same visitor again",
    "other": "not a goal of this experiment",
    "unexplained": "not explained: please report this",
    "counted_exposure": "Visitors counted",
    "counted_goal": "Goals counted",
}
"""Every step of the reconciliation, for a reader who has never seen one."""

DEMO = "These visitors and this calendar are simulated."

GLOSSARY: dict[str, str] = {
    "Control": "the version that was there before; every other version (a challenger) is compared with it.",
    "Visitor": "a person as far as the site can tell, counted once per experiment, at the first version seen.",
    "Conversion": "a counted visitor who did the thing that matters (for example sent the contact form) in time.",
    "Uplift": "how much more often visitors convert with a challenger than with the control, relative to the control.",
    "Interval": "the range that holds the true value in 95 of 100 experiments like this; if it includes 0, "
    "no difference is proven.",
    "Chi-square": "how far the observed rates are apart, measured in chance; the critical value is what it must reach.",
    "Split check": "whether visitors were divided between the versions as planned; if not, nothing else can be trusted.",
    "Stopped, nothing proven": "the planned uplift could hardly have been proven any more, so no more visitors were spent; "
    "no version lost by it.",
    "Unproven pick": "a version that is shown because the settings say so after an undecided test, not because it won.",
}


def sign(step: str) -> str:
    """How a step of the reconciliation enters the sum: ``−`` set aside, ``=`` counted, a space where it begins."""
    return " " if step == "received" else "=" if step.startswith("counted") else "−"


def step(name: str, text: str = "") -> str:
    """A step of the reconciliation in words: those of ``text`` where its name is not known."""
    return STEPS.get(name, text or name)


def count(value: float | None) -> str:
    """Writes a count, such as ``12,345``."""
    return UNKNOWN if value is None else f"{value:,.0f}"


def percent(value: float | None) -> str:
    """A fraction as a percentage of about three digits: ``3.04 %``, ``12.4 %``."""
    if value is None:
        return UNKNOWN
    size = abs(value)
    digits = 2 if size < 0.0995 else 1 if size < 0.9995 else 0
    return f"{value * 100:.{digits}f}{NBSP}%"


def signed(value: float | None) -> str:
    """A relative change: ``+12.4 %``, with a true minus."""
    if value is None:
        return UNKNOWN
    digits = 1 if abs(value) < 0.9995 else 0
    shown = f"{value * 100:+.{digits}f}{NBSP}%"
    return shown.replace("-", "−")


def interval(low: float | None, high: float | None) -> str:
    """Writes an interval, such as ``+4.1 % to +21.0 %``."""
    return UNKNOWN if low is None or high is None else f"{signed(low)} to {signed(high)}"


def share(value: float) -> str:
    """A part of a whole in whole percent: ``62 %``."""
    return f"{value * 100:.0f}{NBSP}%"


def more(value: float | None) -> str:
    """A gain in pieces: ``+4.1``, ``+37``."""
    if value is None:
        return UNKNOWN
    return f"{value:+,.{1 if abs(value) < 9.95 else 0}f}".replace("-", "−")


def p_value(p: float | None) -> str:
    """Writes a p-value, such as ``p = .041`` or ``p < .001``."""
    if p is None:
        return f"p {UNKNOWN}"
    sign, shown = ("<", ".001") if p < 0.001 else ("=", f"{p:.3f}".removeprefix("0"))
    return f"p{NBSP}{sign}{NBSP}{shown}"


def level(confidence: float) -> str:
    """Writes a confidence level, such as ``95 %``."""
    return f"{confidence * 100:g}{NBSP}%"


def day(moment: datetime | None, zone: str) -> str:
    """``Mon 2 Mar 2026`` in the site's zone."""
    if moment is None:
        return UNKNOWN
    local = moment.astimezone(ZoneInfo(zone))
    return f"{local:%a} {local.day} {local:%b %Y}"


def minute(moment: datetime | None, zone: str) -> str:
    """``Mon 2 Mar, 09:00`` in the site's zone."""
    if moment is None:
        return UNKNOWN
    local = moment.astimezone(ZoneInfo(zone))
    return f"{local:%a} {local.day} {local:%b}, {local:%H:%M}"


def period(start: datetime, end: datetime, zone: str) -> str:
    """``Mon 2 Mar 2026 to Mon 9 Mar 2026, 09:00`` in the site's zone."""
    return f"{day(start, zone)} to {day(end, zone)}, {end.astimezone(ZoneInfo(zone)):%H:%M}"


def some(number: int, one: str, many: str = "") -> str:
    """Writes a number of things, such as ``no experiment``, ``1 experiment`` or ``3 experiments``."""
    if number == 1:
        return f"1 {one}"
    return f"{count(number) if number else 'no'} {many or one + 's'}"


def sentence(text: str) -> str:
    """Writes a text with a capital letter in front; names keep theirs."""
    return text[:1].upper() + text[1:]


def clean(text: str) -> str:
    """Foreign text without control and direction characters, which would reorder a line or move a cursor."""
    return "".join(c if unicodedata.category(c) not in {"Cc", "Cf"} or c == "\u200d" else " " for c in text)


def width(text: str) -> int:
    """Columns ``text`` takes in a terminal: wide characters take two, joined marks none."""
    return sum(
        0
        if unicodedata.combining(c) or c in "\u200d\ufe0f"
        else 2
        if unicodedata.east_asian_width(c) in "WF"
        else 1
        for c in text
    )
