"""The widgets of the dashboard: a choice of experiments above the report."""

from __future__ import annotations

from typing import Any

from ipywidgets import HTML, Dropdown, Layout, VBox  # type: ignore[import-untyped]

from cro_core.rendering.sections import choices, chosen
from cro_core.reporting.values import Report


def tests(report: Report) -> VBox:
    """Makes a choice of one experiment, or all, above what the report says of it.

    ``ipywidgets.interact`` is not used on purpose: it shows its result through an Output widget, which makes
    the client that runs the notebook answer the kernel in the middle of a cell; one page in ten hung there.
    """
    choice = Dropdown(
        options=choices(report), description="Show", layout=Layout(width="auto", max_width="30rem")
    )
    view = HTML(value=_html(report, choice.value))

    def update(change: Any) -> None:
        view.value = _html(report, change["new"])

    choice.observe(update, names="value")
    return VBox([choice, view])


def _html(report: Report, test: str) -> str:
    return f'<div class="cro">{chosen(report, test).html}</div>'
