"""What a command loads before it answers: help and short answers wait for no library that they do not need."""

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa

from cro_core.home import Home, create_home
from cro_core.workflows.generate import generate
from cro_core.workflows.seal import seal

NOW = datetime(2026, 3, 30, 12, tzinfo=UTC)

OF_NUMBERS = {"numpy", "pandas", "pyarrow", "scipy", "sklearn", "pingouin", "tqdm"}
OF_PAGES = {
    "rich",
    "PIL",
    "jinja2",
    "flask",
    "granian",
    "papermill",
    "nbformat",
    "nbconvert",
    "IPython",
    "voila",
}
OF_SETTINGS = {"pydantic"}
OF_MIGRATIONS = {"alembic", "mako"}
OF_STORES = {"sqlalchemy", "sqlite3", "psycopg"}
OF_THE_LAKE = {"duckdb", "deltalake"}

PROGRAM = """
import sys
from cro_core.cli import main
try:
    main()
finally:
    print("LOADED", *sys.modules)
"""


def loaded(*arguments: str, home: Path | None = None) -> set[str]:
    """The modules that are there when a command has ended well."""
    where = [] if home is None else ["--home", str(home)]
    command = [sys.executable, "-c", PROGRAM, *arguments, *where]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.rpartition("LOADED")[2].split())


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A site with two running experiments, some of whose events are in the lake."""
    made = create_home(tmp_path_factory.mktemp("light") / "site", environ={})
    generate(made, 2, 300, now=NOW, rng=np.random.default_rng(1))
    made.db.close()
    return made


def test_help_loads_no_library() -> None:
    heavy = OF_NUMBERS | OF_PAGES | OF_MIGRATIONS | OF_STORES | OF_THE_LAKE
    assert (heavy | OF_SETTINGS) & loaded("--help") == set()
    for command in (["status"], ["import"], ["lab", "measure"]):  # which typer itself reads with pydantic
        assert heavy & loaded(*command, "--help") == set(), command


def test_settings_are_shown_without_a_store(home: Home) -> None:
    heavy = OF_NUMBERS | OF_PAGES | OF_MIGRATIONS | OF_STORES | OF_THE_LAKE
    assert heavy & loaded("config", home=home.path) == set()


def test_status_loads_what_reads_the_events_and_no_more(home: Home) -> None:
    heavy = OF_NUMBERS | OF_PAGES | OF_MIGRATIONS
    assert heavy & loaded("status", home=home.path) == set()
    assert seal(home, now=NOW, force=True).events > 0
    home.db.close()
    assert heavy & loaded("status", home=home.path) == set()


def test_where_nothing_runs_no_events_are_read(tmp_path: Path) -> None:
    create_home(tmp_path / "site", environ={}).db.close()
    heavy = OF_NUMBERS | OF_PAGES | OF_MIGRATIONS | OF_THE_LAKE
    assert heavy & loaded("status", home=tmp_path / "site") == set()


def test_a_command_leaves_the_store_in_one_file(home: Home) -> None:
    for command in ("status", "orchestrate --in-process", "seal"):
        loaded(*command.split(), home=home.path)
        assert [file.name for file in home.data.glob("cro.sqlite*")] == ["cro.sqlite"], command


def test_status_looks_at_the_revision_of_the_store(tmp_path: Path) -> None:
    made = create_home(tmp_path / "site", environ={})
    with made.db.write() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    made.db.close()
    command = [sys.executable, "-m", "cro_core.cli", "status", "--home", str(made.path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert "the store has schema 9999, newer than" in done.stderr
