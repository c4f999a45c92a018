"""Turns executed notebooks into pages: one file without network, without script, readable on a phone."""

from __future__ import annotations

import os
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import cro_core
from cro_core.rendering.html import css

OUTCOME = "application/vnd.cro.outcome+json"
PAGE = "report"
"""Value of ``cro.page`` in a notebook's metadata that makes a page for readers: without code, and without cells tagged
``analyst``."""


def export(notebook: Path) -> Path:
    """Writes the page of an executed notebook beside it, and returns it."""
    import nbformat

    node = nbformat.read(notebook, as_version=4)
    return write_whole(notebook.with_suffix(".html"), page(node))


def page(node: Any) -> str:
    """Renders a notebook as a self-contained page."""
    from nbconvert import HTMLExporter

    report = node.metadata.get("cro", {}).get("page") == PAGE
    resources = {
        "cro_report": report,
        "cro_title": _title(node),
        "cro_css": css(),
        "cro_outcome": OUTCOME,
        "cro_footer": f"CRO Intelligence {cro_core.__version__}. This page needs no network and runs no script.",
    }
    with as_file(files("cro_core.jupyter") / "share") as folder:
        exporter = HTMLExporter(
            template_name="cro",
            extra_template_basedirs=[str(folder / "nbconvert" / "templates")],
            exclude_anchor_links=True,
            exclude_input=report,
            exclude_input_prompt=True,
            exclude_output_prompt=True,
        )
        body, _ = exporter.from_notebook_node(node, resources)
    return str(body)


def write_whole(file: Path, text: str) -> Path:
    """Writes a file so that a reader sees the old one or the new one, never half of it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    draft.write_text(text, encoding="utf-8")
    os.replace(draft, file)
    return file


def _title(node: Any) -> str:
    """Finds the notebook's first heading."""
    for cell in node.cells:
        for line in cell.source.splitlines():
            if cell.cell_type == "markdown" and line.startswith("# "):
                return str(line.removeprefix("# ").strip())
    return "Notebook"
