"""Prints docs/architecture.md with its index anew: each package and module by the first lines of its docstring."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- index: `make docs` writes it -->\n", "<!-- end of the index -->\n"


def first_line(file: Path) -> str:
    """The first line of a module's docstring, in Markdown instead of Sphinx's marks."""
    text = (ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "").partition("\n")[0]
    return text.replace(":mod:", "").replace(":func:", "").replace(":class:", "").replace("``", "`")


def index() -> Iterator[str]:
    """A heading for each package, and a row for each of its modules."""
    packages = [
        file.parent for name in ("cro_core", "service") for file in (ROOT / name).rglob("__init__.py")
    ]
    for folder in sorted(packages):
        yield f"\n**`{folder.relative_to(ROOT)}/`** {first_line(folder / '__init__.py')}\n\n"
        modules = [file for file in sorted(folder.glob("*.py")) if not file.stem.startswith("__")]
        yield from (f"* `{file.stem}` {first_line(file)}\n" for file in modules)


def page() -> str:
    """The whole page: what people wrote, with the index between its two marks."""
    head, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    return head + BEGIN + "".join(index()) + "\n" + END + rest.partition(END)[2]


if __name__ == "__main__":
    sys.stdout.write(page())
