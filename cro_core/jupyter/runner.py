"""Runs a notebook strictly: parameters checked first, result in one piece, one run of a job at a time.

papermill accepts a misspelt or mistyped parameter without a word, rewrites its output in place after each
cell, and lets two runs overwrite one file. This module refuses the first and prevents the other two.
Importing it is cheap; papermill and nbconvert are loaded when a notebook runs.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import cro_core
from cro_core.domain import Json, to_json
from cro_core.errors import InvalidInput, NotFound, ParameterError, RunFailed
from cro_core.home import Home

OUTCOME = "application/vnd.cro.outcome+json"
"""MIME type of the outcome that a notebook's last cell records."""

RUN_ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,79}")

TYPES: Mapping[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "float": (float, int),
    "bool": (bool,),
    "list": (list,),
    "dict": (dict,),
}
"""Types that a parameter may be given as, by the type that its cell declares."""


@dataclass(frozen=True, slots=True)
class RunResult:
    """The files and the outcome of a notebook's run."""

    notebook: Path
    html: Path
    outcome: Json
    """The value that the notebook's last cell recorded."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """A value that shows itself as a notebook's outcome."""

    value: Json

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        return {OUTCOME: self.value, "text/plain": json.dumps(self.value, indent=2, ensure_ascii=False)}


class _Execute(Protocol):
    """Runs the notebook at the first path into the second; raises where a cell does."""

    def __call__(self, source: Path, output: Path, /) -> Any: ...


def record(outcome: Json) -> Outcome:
    """Records a notebook's outcome, as its last line, for the runner to read back.

    Args:
        outcome: anything ``to_json`` takes; times become ISO text, NaN becomes null.
    """
    return Outcome(to_json(outcome))


def notebook_folder() -> Path:
    """Finds the folder of the notebooks: inside the installed package, else in the repository."""
    package = Path(cro_core.__file__).parent
    inside = package / "_notebooks"
    return inside if inside.is_dir() else package.parent / "notebooks"


def notebook_path(name: str) -> Path:
    """Finds a notebook by its name, without ending.

    Raises:
        NotFound: there is none; the message names those there are.
    """
    notebooks = {file.stem: file for file in sorted(notebook_folder().glob("*.ipynb"))}
    if name not in notebooks:
        raise NotFound(
            f"notebook {name!r} does not exist: choose from {', '.join(notebooks) or '(none are installed)'}"
        )
    return notebooks[name]


def check_parameters(source: Path, parameters: Json) -> None:
    """Refuses parameters that do not fit a notebook's parameters cell.

    Raises:
        ParameterError: a parameter that the cell does not have, or of another type.
    """
    import papermill as pm

    declared = pm.inspect_notebook(str(source))
    for name, value in parameters.items():
        if name not in declared:
            raise ParameterError(
                f"notebook {source.stem} has no parameter {name!r}: it takes {', '.join(declared) or 'none'}",
                field=name,
            )
        type_name = _declared_type(declared[name])
        if not _fits(value, type_name):
            raise ParameterError(
                f"parameter {name} of notebook {source.stem} is {value!r} ({type(value).__name__}): give {type_name}",
                field=name,
            )


def run_notebook(home: Home, name: str, parameters: Json, *, run_id: str, now: datetime) -> RunResult:
    """Runs a notebook and keeps it, executed, with its HTML under ``reports/runs/<name>/``.

    Args:
        name: of the notebook, without ending; also the name of the job's lock.
        parameters: for its parameters cell, checked before anything runs.
        run_id: enters the file name: A-Z a-z 0-9 . _ - only.
        now: enters the file name, in UTC.

    Raises:
        NotFound: no such notebook.
        ParameterError: a parameter that is unknown or mistyped; nothing ran.
        Busy: the job is running in another process; nothing ran.
        RunFailed: a cell raised, the kernel died, or no outcome was recorded. The notebook is kept as
            ``….failed.ipynb`` and the message names the cell.
    """
    source = notebook_path(name)
    check_parameters(source, parameters)
    stem = _stem(run_id, now)
    folder = home.runs / name
    with home.lock(f"job-{name}"), _kernel(home) as kernel:
        folder.mkdir(parents=True, exist_ok=True)
        execute = _papermill(parameters, home.path, kernel)
        notebook, node = run_whole(source, folder / f"{stem}.ipynb", execute)
        outcome = _outcome(node, notebook)
        from cro_core.jupyter.export import export

        return RunResult(notebook, export(notebook), outcome)


def _stem(run_id: str, now: datetime) -> str:
    if not RUN_ID.fullmatch(run_id):
        raise InvalidInput(
            f"run id {run_id[:100]!r} cannot be a file name: use A-Z a-z 0-9 . _ -", field="run_id"
        )
    return f"{now.astimezone(UTC):%Y%m%dT%H%M%SZ}-{run_id}"


@contextmanager
def _kernel(home: Home) -> Iterator[type[Any]]:
    """Makes the kernel's class, with a private folder for as long as the run lasts."""
    from cro_core.jupyter.kernel import own_kernel

    with tempfile.TemporaryDirectory(prefix="cro-", ignore_cleanup_errors=True) as folder:
        yield own_kernel(Path(folder), home.data / "cache")


def _papermill(parameters: Json, folder: Path, kernel: type[Any]) -> _Execute:
    import papermill as pm

    def execute(source: Path, output: Path) -> Any:
        return pm.execute_notebook(
            str(source),
            str(output),
            parameters=dict(parameters),
            cwd=str(folder),
            kernel_name="python3",
            kernel_manager_class=kernel,
            progress_bar=False,
            start_timeout=120,
        )

    return execute


def run_whole(source: Path, target: Path, execute: _Execute) -> tuple[Path, Any]:
    """Executes a notebook into a temporary name, which becomes its own only when it is whole.

    Args:
        source: the notebook.
        target: what the executed one is called; one that failed or was interrupted ends in ``.failed.ipynb``.
        execute: given the source and the temporary name.

    Returns:
        The target, and the executed notebook's content.

    Raises:
        RunFailed: it failed; the error names the cell, where it was one, and the notebook that was kept.
    """
    draft = target.with_name(f".{target.stem}.tmp.ipynb")
    try:
        node = execute(source, draft)
        _name(node, source, target)
        _write(node, draft)
    except BaseException as error:
        failed_notebook = _keep_failed(source, draft, target)
        if not isinstance(error, Exception):
            raise
        raise _failure(error, source, failed_notebook) from None
    os.replace(draft, target)
    return target, node


def _name(node: Any, source: Path, target: Path) -> None:
    """Says in the notebook what it is called, not where it was made."""
    node.metadata.papermill.update({"input_path": source.name, "output_path": target.name})


def _write(node: Any, file: Path) -> None:
    import nbformat

    file.write_text(nbformat.writes(node), encoding="utf-8")


def _keep_failed(source: Path, draft: Path, target: Path) -> Path:
    failed_notebook = target.with_suffix(".failed.ipynb")
    if not draft.exists():
        shutil.copyfile(source, draft)  # the kernel did not even start
    os.replace(draft, failed_notebook)
    return failed_notebook


def _failure(error: Exception, source: Path, failed_notebook: Path) -> RunFailed:
    """Makes the error that names the cell it came from, in words."""
    from papermill.exceptions import PapermillExecutionError

    problem = f"{type(error).__name__}: {error}"
    if isinstance(error, PapermillExecutionError):
        problem = f"{error.ename}: {error.evalue}"
    number, line = _failed_cell(failed_notebook)
    where = f" in cell {number} ({_first_line(line)})" if number is not None else ""
    return RunFailed(
        f"{source.name} failed{where}: {problem.strip()}. It is kept as {failed_notebook}",
        notebook=failed_notebook,
        cell=number,
    )


def _failed_cell(notebook: Path) -> tuple[int | None, str]:
    """Finds number and code of the cell that raised, else of the last one begun: there the kernel went away."""
    last: tuple[int | None, str] = None, ""
    for number, cell in _code_cells(json.loads(notebook.read_text(encoding="utf-8"))):
        status = cell["metadata"].get("papermill", {}).get("status", "pending")
        if status != "pending":
            last = number, "".join(cell["source"])
        if status == "failed":
            break
    return last


def _code_cells(node: Mapping[str, Any]) -> Iterator[tuple[int, Any]]:
    """Yields the cells with code, numbered as Jupyter does beside them."""
    code = (cell for cell in node["cells"] if cell["cell_type"] == "code" and "".join(cell["source"]).strip())
    return enumerate(code, 1)


def _first_line(source: str) -> str:
    """Finds the first line of code that is neither empty nor a comment, shortened."""
    lines = [
        line.strip() for line in source.splitlines() if line.strip() and not line.strip().startswith("#")
    ]
    first = lines[0] if lines else "empty"
    return first if len(first) <= 60 else first[:59] + "…"


def _outcome(node: Any, notebook: Path) -> Json:
    """Reads the outcome that the last code cell recorded.

    Raises:
        RunFailed: the cell recorded nothing.
    """
    number, last = list(_code_cells(node))[-1]
    outcomes = [output["data"][OUTCOME] for output in last["outputs"] if OUTCOME in output.get("data", {})]
    if outcomes:
        outcome: Json = outcomes[-1]
        return outcome
    failed_notebook = notebook.with_suffix(".failed.ipynb")
    os.replace(notebook, failed_notebook)
    raise RunFailed(
        f"{notebook.name} recorded no outcome in cell {number} ({_first_line(last['source'])}): end it with "
        f"record(...). It is kept as {failed_notebook}",
        notebook=failed_notebook,
        cell=number,
    )


def _declared_type(parameter: Mapping[str, Any]) -> str:
    """Finds the type that a parameters cell declares, else that of the default value."""
    declared = str(parameter["inferred_type_name"]).strip("'\"")
    if declared in TYPES:
        return declared
    try:
        default = ast.literal_eval(parameter["default"])
    except (ValueError, SyntaxError):
        return "anything"
    return type(default).__name__ if type(default).__name__ in TYPES else "anything"


def _fits(value: Any, type_name: str) -> bool:
    if type_name not in TYPES:
        return True
    if isinstance(value, bool):  # a bool is an int to Python, not to a person
        return type_name == "bool"
    return isinstance(value, TYPES[type_name])
