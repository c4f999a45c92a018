"""The text of a plan's outlook, for the terminal: what it needs, what it can tell, and the choices as tables."""

from __future__ import annotations

import calendar
from collections.abc import Iterable, Iterator

from cro_core.planning.outlook import (
    CANNOT_TELL,
    ENOUGH,
    UNKNOWN,
    Outlook,
    Row,
    SampleForUplift,
    SourcedNumber,
)
from cro_core.reporting import words

LABEL = 22


def outlook_text(answer: Outlook, zone: str = "UTC") -> str:
    """Writes the outlook of a plan: the verdict in a paragraph, then every number it rests on.

    Args:
        answer: the outlook.
        zone: the site's time zone, for dates.
    """
    return "\n".join(_lines(answer, zone)).replace(words.NBSP, " ")


def verdict_text(answer: Outlook) -> str:
    """Writes the verdict on a plan for people without statistics: a heading, what it means, what to do."""
    sentences = {ENOUGH: _enough, CANNOT_TELL: _cannot_tell, UNKNOWN: _unknown}[answer.verdict](answer)
    return " ".join((*sentences, *_error_rate(answer))).replace(words.NBSP, " ")


def _lines(answer: Outlook, zone: str) -> Iterator[str]:
    yield verdict_text(answer)
    yield ""
    yield "What this rests on"
    yield from _sources(answer)
    yield ""
    yield from _plan(answer)
    yield from _week(answer)
    yield from _running(answer, zone)
    yield from _choices(answer)
    yield from _contrasts(answer)
    if answer.notes:
        yield ""
    yield from (f"Note: {note}" for note in answer.notes)


def _enough(answer: Outlook) -> Iterator[str]:
    subject = f"Experiment {words.clean(answer.experiment)} has" if answer.experiment else "There are"
    yield f"{subject} visitors enough."
    yield (
        f"A true {_uplift(answer)} is found {_chances(answer.found)} within {_horizon(answer)}: "
        f"{words.count(answer.units)} visitors are needed"
        + (f", which takes {_days(answer.days_needed)}." if answer.days_needed is not None else ".")
    )


def _cannot_tell(answer: Outlook) -> Iterator[str]:
    traffic = answer.question.traffic.value
    yield "Cannot tell at this traffic."
    yield (
        f"With {words.count(traffic)} visitors a day, {_horizon(answer)} can show {_size(answer.attainable_uplift)}; "
        f"a true {_uplift(answer)} would be found {_chances(answer.found)}, and takes {_days(answer.days_needed)}."
    )
    yield "A result of 'no difference proven' would then say nothing about the change."
    yield _way_out(answer)


def _way_out(answer: Outlook) -> str:
    if answer.running:
        return "Let it end as planned, and plan the next one by the tables below."
    if answer.within_reach:
        row = answer.within_reach[0]
        return f"This would do: {_name(row)} ({_days(row.days_needed)} of them are needed)."
    strongest = min(
        (choice for choice in answer.choices if choice.attainable_uplift is not None),
        key=lambda choice: choice.attainable_uplift or 0.0,
        default=None,
    )
    if strongest is None:
        return "No choice below can show anything: more visitors have to come first."
    return (
        f"No choice below finds {_uplift(answer)} either; the most that can be had is {_name(strongest)}: "
        f"{_size(strongest.attainable_uplift)}. Test changes that may be as strong as that."
    )


def _unknown(answer: Outlook) -> Iterator[str]:
    if answer.running:
        yield "Nobody has met the experiment yet, and none is expected: there is no forecast."
        return
    yield (
        f"{words.count(answer.units)} visitors are needed to find {_uplift(answer)}, "
        f"{words.count(answer.units_per_variant)} for each of {answer.question.variants} variants."
    )
    yield "How many days that takes is not known: give --visitors-per-day."


def _error_rate(answer: Outlook) -> Iterator[str]:
    """Says which error rate the stream of experiments grants, where there is one."""
    question = answer.question
    if question.asked_alpha is None:
        return
    granted_rate, asked_rate = (f"{rate * 100:.2g} %" for rate in (question.alpha, question.asked_alpha))
    if question.alpha < question.asked_alpha:
        yield (
            f"The stream of experiments grants the next one an error rate of {granted_rate} instead of {asked_rate}: "
            "every number here is for that."
        )
    else:
        yield f"The stream of experiments grants the next one the whole error rate of {asked_rate}."


def _sources(answer: Outlook) -> Iterator[str]:
    question = answer.question
    yield _source("conversion rate", words.percent(question.base_rate.value), question.base_rate)
    yield _source("visitors a day", _number(question.traffic.value), question.traffic)
    yield _source("days at most", _number(question.days.value), question.days)
    yield _source("uplift to find", words.signed(question.uplift.value), question.uplift)
    if question.wider and answer.choices:
        rate = question.wider.rate
        yield _source("leads", words.percent(rate.value), rate)
        yield f"  {'':<{LABEL}}{'':>10}   ({', '.join(question.wider.goals)})"
    shares = (
        f"shares move daily (floor {words.share(question.floor)})" if question.adaptive else "equal shares"
    )
    yield (
        f"  {'design':<{LABEL}}{question.variants} variants, {shares}, {words.share(question.power)} power, "
        f"{(1 - question.alpha) * 100:.4g} % confidence"
    )


def _source(label: str, value: str, number: SourcedNumber) -> str:
    return f"  {label:<{LABEL}}{value:>10}   {number.text}"


def _plan(answer: Outlook) -> Iterator[str]:
    yield "The plan"
    yield (
        f"  {'visitors per variant':<{LABEL}}{words.count(answer.units_per_variant):>10}   "
        f"{words.count(answer.one_look_units_per_variant)} for one look at the end x {answer.inflation:.2f} for "
        + _prices(answer)
    )
    yield f"  {'visitors in total':<{LABEL}}{words.count(answer.units):>10}"
    if answer.days_needed is not None:
        yield f"  {'days until then':<{LABEL}}{_number(answer.days_needed):>10}"
        yield (
            f"  {'can be shown':<{LABEL}}{words.signed(answer.attainable_uplift):>10}   "
            f"{'by the end of enrolment' if answer.running else f'in {_horizon(answer)}'}"
        )
    if answer.running:
        return
    if answer.question.rule == 2:
        yield (
            f"  {'new visitors for':<{LABEL}}{_weeks(answer.enrolment_days):>10}   the last look comes "
            f"{answer.question.window_days * 24:g} hours later; an effect that fades may add a week"
        )
    if answer.admitted < 1:
        yield f"  {'take part':<{LABEL}}{words.share(answer.admitted):>10}   of the visitors: they fill the week"


def _running(answer: Outlook, zone: str) -> Iterator[str]:
    running = answer.running
    if running is None:
        return
    of_planned = "" if running.planned_units is None else f" of {words.count(running.planned_units)} planned"
    why = "the planned visitors have come" if running.decided_by == "sample" else "its time is up"
    yield ""
    yield "This experiment"
    yield f"  {'running since':<{LABEL}}{words.minute(running.started_at, zone)}"
    yield f"  {'visitors so far':<{LABEL}}{words.count(running.enrolled)}{of_planned}; {words.count(running.counted)} counted"
    yield f"  {'visitors expected':<{LABEL}}{words.count(running.expected_units)}"
    yield f"  {'new visitors until':<{LABEL}}{words.minute(running.enrolment_ends_at, zone)}"
    yield (
        f"  {'last look':<{LABEL}}{words.minute(running.decided_at, zone)}, in {_days(running.days_left)}: {why} "
        "(a clear result ends it sooner)"
    )


def _week(answer: Outlook) -> Iterator[str]:
    if not answer.question.profile.measured or answer.running:
        return
    days = zip(calendar.day_abbr, answer.question.profile.weekdays, strict=True)
    yield (
        f"  {'the week here':<{LABEL}}{', '.join(f'{day} {share * 100:.0f}' for day, share in days)} "
        "(100 is the average day; new visitors count for whole weeks, so the day of the start makes no difference)"
    )


def _choices(answer: Outlook) -> Iterator[str]:
    if not answer.choices:
        return
    aim = _uplift(answer)
    heads = ("choice", "visitors", "can show", f"finds {aim}", f"days for {aim}", "tests a year")
    yield ""
    yield "What each choice would detect, and cost (one experiment at a time)"
    yield from _table(heads, (_choice(row) for row in answer.choices))
    if any(row.needs_approval for row in answer.choices):
        yield "  * longer than the planned days: for a person to approve, in the settings."
    yield f"  can show: the least uplift found in {words.share(answer.question.power)} of such experiments."


def _contrasts(answer: Outlook) -> Iterator[str]:
    if not answer.contrasts:
        return
    yield ""
    yield "Bolder contrasts: what a stronger change takes (two variants, equal shares)"
    heads = ("true uplift", "per variant", "visitors", "days")
    yield from _table(heads, (_contrast(contrast) for contrast in answer.contrasts))


def _choice(row: Row) -> tuple[str, ...]:
    return (
        _name(row) + (" *" if row.needs_approval else ""),
        words.count(row.visitors),
        words.signed(row.attainable_uplift) if row.attainable_uplift is not None else "nothing",
        words.share(row.power),
        _number(row.days_needed),
        str(row.tests_per_year),
    )


def _contrast(contrast: SampleForUplift) -> tuple[str, ...]:
    return (
        words.signed(contrast.uplift),
        words.count(contrast.units_per_variant),
        words.count(contrast.units),
        _number(contrast.days_needed),
    )


def _table(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    texts = [[cell.replace(words.NBSP, " ") for cell in row] for row in (heads, *rows)]
    widths = [max(words.width(row[column]) for row in texts) for column in range(len(texts[0]))]
    for row in texts:
        first = f"  {row[0]:<{widths[0]}}"
        yield first + "".join(f"  {cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True))


def _name(row: Row) -> str:
    shares = "moving" if row.adaptive else "equal"
    if row.name == "as configured":
        return f"as planned ({row.variants} variants, {shares} shares, {_time(row.days)})"
    return row.name.replace("wider goal leads", "the same, any lead counts").replace(
        "fixed shares", "equal shares"
    )


def _moving(answer: Outlook) -> bool:
    return answer.question.adaptive and answer.question.variants == 2


def _uplift(answer: Outlook) -> str:
    return words.signed(answer.question.uplift.value)


def _size(uplift: float | None) -> str:
    return "no change of any size" if uplift is None else f"only changes of {words.signed(uplift)} or more"


def _horizon(answer: Outlook) -> str:
    """The time in which new visitors count: whole weeks, but for an experiment of the first rule."""
    return _time(answer.enrolment_days)


def _time(days: float) -> str:
    return _weeks(days) if days % 7 == 0 else _days(days)


def _weeks(days: float) -> str:
    weeks = round(days / 7)
    return f"{weeks} week{'s' * (weeks > 1)}"


def _prices(answer: Outlook) -> str:
    """What the factor pays for."""
    question = answer.question
    prices = ["hourly looks"]
    prices += ["futility"] * (question.futility and question.rule == 2) + ["moving shares"] * _moving(answer)
    return prices[0] if len(prices) == 1 else f"{', '.join(prices[:-1])} and {prices[-1]}"


def _days(days: float | None) -> str:
    if days is None:
        return words.UNKNOWN
    if days > 2 * 365:
        return f"about {words.count(days / 365)} years"
    number = _number(days)
    return f"{number} day" if number == "1" else f"{number} days"


def _number(value: float | None) -> str:
    """Writes a number whole from 10 on, with a digit below where there is one."""
    if value is None:
        return words.UNKNOWN
    return words.count(value) if value >= 9.95 or value == round(value) else f"{value:.1f}"


def _chances(power: float | None) -> str:
    return words.UNKNOWN if power is None else f"in {round(power * 100)} of 100 such experiments"
