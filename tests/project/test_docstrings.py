"""First lines of docstrings stand alone: an editor shows one of them, without its neighbours."""

import ast
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from helpers.places import ROOT

LEANING = re.compile(
    r"(The same|Likewise|See|Ditto|(Lower|Upper) end of (its|the same)"
    r"|Of|Its|Their|Those|That|With|To|In|On|At|By|Over|As)\b|(Raises|Args|Returns):"
)
"""Openers that mean the line above, or the name: of what, whose, in what?"""

FEWEST_WORDS = 3


def _docstrings(body: list[ast.stmt], owner: str) -> Iterator[tuple[str, str]]:
    """Name and text of every docstring, public or not, and of what stands below an assignment."""
    for node in body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            text = ast.get_docstring(node)
            if text is not None:
                yield f"{owner}{node.name}", text
            if isinstance(node, ast.ClassDef):
                yield from _docstrings(node.body, f"{owner}{node.name}.")
    for node, below in pairwise(body):
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and isinstance(below, ast.Expr):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            if isinstance(below.value, ast.Constant) and isinstance(below.value.value, str):
                yield f"{owner}{ast.unparse(target)}", below.value.value


def _fault(text: str) -> str | None:
    first, *_ = text.splitlines() or [""]
    words = re.sub(r"``[^`]*``", "", first).split()
    if LEANING.match(first):
        return f"begins with {LEANING.match(first)[0]!r}"  # type: ignore[index]
    if sum(any(letter.isalpha() for letter in word) for word in words) < FEWEST_WORDS:
        return f"has fewer than {FEWEST_WORDS} words beside literals"
    return None


def _modules() -> Iterator[Path]:
    for package in ("cro_core", "service"):
        yield from (file for file in sorted((ROOT / package).rglob("*.py")) if "migrations" not in file.parts)


def test_first_lines_stand_alone() -> None:
    faults = []
    for file in _modules():
        tree = ast.parse(file.read_text(encoding="utf-8"))
        docstrings = [("the module", ast.get_docstring(tree) or ""), *_docstrings(tree.body, "")]
        faults += [
            f"{file.relative_to(ROOT)}: {name} {fault}: {text}"
            for name, text in docstrings
            if (fault := _fault(text))
        ]
    assert faults == [], "\n".join(faults)


@pytest.mark.parametrize("package", ["statistics", "storage", "workflows"])
def test_tables_of_contents_are_whole(package: str) -> None:
    folder = ROOT / "cro_core" / package
    contents = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))) or ""
    modules = {file.stem for file in folder.glob("*.py")} - {"__init__"}
    assert {name for name in modules if f"``{name}``" not in contents} == set()
