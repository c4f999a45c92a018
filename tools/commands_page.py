"""Prints docs/commands.md from the commands in cro_core.cli; `make docs` writes it, a test compares."""

from collections.abc import Iterator
from types import ModuleType

from typer.main import get_group

from cro_core.cli import approvals, data, experiments, jobs, lab, site, split

INTRODUCTION = """# Commands

Every command of `cro`, a file of `cro_core/cli/` for each section; `cro COMMAND --help` lists its options. Nearly all
take `--home` (else `CRO_HOME`, else the current folder) and `--json`, which prints one JSON value in the place of text.

The exit code is 0 when all went well, 1 when a job failed or something is not as promised, 2 when what was asked
cannot be done, said in one line, and 75 when the same job is running in another process.

`cro import FILE --outcomes` and `cro lab fpr` are older spellings of `cro outcomes FILE` and `cro lab measure fpr`.
They work, and say so on the error stream.
"""


def page() -> str:
    """The whole page."""
    sections = [_section(group, "cro") for group in (site, data, experiments, jobs, approvals)]
    named = [_section(split, "cro split"), _section(lab, "cro lab")]
    return INTRODUCTION + "".join([*sections, *named])


def _section(group: ModuleType, before: str) -> str:
    name = group.__name__.rpartition(".")[2]
    head = f"\n## {name}\n\n{group.__doc__}\n\n| command | what it does | example |\n|---|---|---|\n"
    return head + "".join(_rows(group, before))


def _rows(group: ModuleType, before: str) -> Iterator[str]:
    for name, command in get_group(group.app).commands.items():
        example = str(command.epilog).removeprefix("Example: ")
        examples = ", ".join(f"`{part}`" for part in example.split("; "))
        yield f"| `{before} {name}` | {command.help} | {examples} |\n"


if __name__ == "__main__":
    print(page(), end="")
