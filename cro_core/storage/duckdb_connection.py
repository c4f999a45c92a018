"""Starts a DuckDB of our own: in memory, with bounds, and able to read the lake wherever it lies.

A lake in an object store is written by one library (deltalake) and read by another (DuckDB). Where the store is, both
learn here from the same variables of the environment, so that they never speak to two stores.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from cro_core.errors import StoreError

if TYPE_CHECKING:  # slow to import, and the service can do without until somebody asks for numbers
    import duckdb

THREADS = 4
"""Most threads of a query: a look is short, and the machine serves visitors meanwhile."""

EXTENSIONS = ("httpfs", "aws")
"""Extensions that DuckDB needs to read an object store: the second knows the chain of credentials."""

FEW_ROWS = 64
"""Most rows, such as epochs, that DuckDB compares each with each unit: five times as fast as sorting all units."""

ENDPOINTS = ("aws_endpoint_url_s3", "aws_endpoint_url", "aws_endpoint", "endpoint_url", "endpoint")
"""Variables that name the store, the first one counts: deltalake hears each of them, in whatever case."""

YES = frozenset({"1", "true", "on", "yes", "y"})
"""Values of a variable that deltalake takes for yes."""

PATIENCE = {"connect_timeout": "5s", "timeout": "30s", "max_retries": "6", "retry_timeout": "30s"}
"""Time that deltalake may wait for an answer: half a minute when nobody answers, not the three that it would wait."""

HTTP = {"http_timeout": 8, "http_retries": 2}
"""Seconds that DuckDB may wait for an answer of the object store, and how often it tries again."""

COPIED = ("s3_access_key_id", "s3_secret_access_key", "s3_session_token")
"""Settings into which ``httpfs`` copies credentials of the environment, where each query could read them."""


def started(*, memory: str, spill: str, remote: bool) -> duckdb.DuckDBPyConnection:
    """Starts a new DuckDB in memory.

    Args:
        memory: what it holds at most, like ``1GB``; beyond that it uses temporary files.
        spill: folder of these, made only when it is needed.
        remote: whether the lake is in an object store, read with the environment's own credentials.

    Raises:
        StoreError: DuckDB cannot be made to read the object store, see :func:`secret_options`.
    """
    import duckdb

    config: dict[str, str | bool | int | float | list[str]] = {
        "threads": min(THREADS, os.cpu_count() or 1),
        "memory_limit": memory,
        "temp_directory": spill,
    }
    if remote:
        config["allow_persistent_secrets"] = False  # somebody's own on this machine would be another store's
    session = duckdb.connect(config=config)
    session.execute("SET parquet_metadata_cache = true")  # the lake's files never change
    session.execute(f"SET nested_loop_join_threshold = {FEW_ROWS}")
    if remote:
        try:
            _reach_store(session, os.environ)
        except BaseException:
            session.close()
            raise
    return session


def secret_options(environ: Mapping[str, str]) -> dict[str, str]:
    """Makes the options of DuckDB's secret for the object store, beside the credentials; values as SQL writes them.

    Args:
        environ: variables such as AWS_ENDPOINT_URL, AWS_ALLOW_HTTP and AWS_REGION, as deltalake takes them.

    Raises:
        StoreError: the endpoint is no address, or is not encrypted and AWS_ALLOW_HTTP does not allow that.
    """
    variables = _lowered(environ)
    region = variables.get("aws_region") or variables.get("region") or variables.get("aws_default_region")
    options = {"REGION": region} if region else {}
    endpoint = _endpoint(environ)
    if endpoint is None:
        return {name: quoted(value) for name, value in options.items()}
    variable, url = endpoint
    scheme, _, place = url.partition("://")
    if scheme not in {"http", "https"} or not urlsplit(url).hostname:
        raise StoreError(
            f"{variable.upper()} is {url!r}, which is no address: write it like https://s3.example.com:9000"
        )
    if scheme == "http" and not _is_yes(variables, "allow_http"):
        raise StoreError(
            f"{variable.upper()} is {url}, without encryption: set it to an https:// address, or set "
            "AWS_ALLOW_HTTP=true where nobody can listen"
        )
    place = place.rstrip("/")
    virtual = _is_yes(variables, "virtual_hosted_style_request")
    if virtual:  # deltalake wants the bucket's name before the host's, and DuckDB puts it there
        place = place.partition(".")[2] or place
    options |= {"ENDPOINT": place, "URL_STYLE": "vhost" if virtual else "path"}
    return {name: quoted(value) for name, value in options.items()} | {
        "USE_SSL": "true" if scheme == "https" else "false"
    }


def delta_options(environ: Mapping[str, str]) -> dict[str, str]:
    """Makes the options that deltalake is told of an object store; the rest it takes from the environment itself.

    Raises:
        StoreError: as :func:`secret_options` says.
    """
    secret_options(environ)
    endpoint = _endpoint(environ)
    if endpoint is None:
        return dict(PATIENCE)
    variable, url = endpoint
    # Told in any case: of two variables that mean the same, it would take whichever comes first.
    return PATIENCE | {ENDPOINTS[0] if variable == ENDPOINTS[0] else ENDPOINTS[1]: url}


def packaged(name: str, version: str) -> Path | None:
    """Finds the file of a DuckDB extension that pip has installed, if it is for this version, such as ``v1.5.5``."""
    spec = find_spec(f"duckdb_extension_{name}")
    for folder in (spec and spec.submodule_search_locations) or ():
        file = Path(folder, "extensions", version, f"{name}.duckdb_extension")
        if file.is_file():
            return file
    return None


def _reach_store(session: duckdb.DuckDBPyConnection, environ: Mapping[str, str]) -> None:
    import duckdb

    options = secret_options(environ)
    for extension in EXTENSIONS:
        _load(session, extension)
    for name, value in HTTP.items():
        session.execute(f"SET GLOBAL {name} = {value}")
    option_texts = "".join(f", {name} {value}" for name, value in options.items())
    try:
        # Credentials that end after some hours are fetched anew.
        session.execute(f"CREATE SECRET (TYPE s3, PROVIDER credential_chain, REFRESH auto{option_texts})")
    except duckdb.Error as error:
        raise StoreError(
            f"there are no credentials for the object store that storage.lake names ({one_line(error)}): set "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        ) from None
    for name in COPIED:
        session.execute(f"SET GLOBAL {name} = ''")


def _load(session: duckdb.DuckDBPyConnection, name: str) -> None:
    """Loads an extension: that of pip, which needs no network, or DuckDB's own of the network."""
    import duckdb

    version = f"v{duckdb.__version__}"
    file = packaged(name, version)
    try:
        if file is None:
            session.execute(f"INSTALL {name}")
        session.execute(f"LOAD {quoted(str(file)) if file else name}")
    except duckdb.Error as error:
        raise StoreError(
            f"storage.lake names an object store, which DuckDB reads with its extension {name}: pip has not installed it "
            f"for DuckDB {version}, and it cannot be fetched ({one_line(error)}). Run pip install "
            "'cro-intelligence[object-store]', which also takes the version of DuckDB that it is made for"
        ) from None


def quoted(text: str) -> str:
    """Writes a text as SQL does, in quotes."""
    return "'" + text.replace("'", "''") + "'"


def literal(value: float | str | Sequence[str]) -> str:
    """Writes a value as SQL does; it has the type that it would have as an argument."""
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, Sequence):
        return f"[{', '.join(map(quoted, value))}]"
    # In quotes: bare digits are a DECIMAL, which becomes another DOUBLE in the last bit of one value in a hundred.
    return str(value) if isinstance(value, int) else f"CAST('{float(value)!r}' AS DOUBLE)"


def with_values(sql: str, named: Mapping[str, Any]) -> str:
    """Writes arguments into a text where it names them, as in ``$as_of``; its literals and comments stay.

    To arguments given apart, DuckDB puts the question whether they are of pandas, and imports it to ask.

    Raises:
        KeyError: an argument is missing.
    """
    return re.sub(
        r"--[^\n]*|'[^']*'|\$(\w+)",
        lambda found: literal(named[found[1]]) if found[1] else found[0],
        sql,
    )


def one_line(error: BaseException) -> str:
    """Shortens what a library says: without colours and line breaks, and not the whole answer of a server."""
    text = " ".join(re.sub(r"\x1b\[[0-9;]*m|↳|<\?xml.*?\?>", " ", str(error)).split())
    return text if len(text) <= 500 else f"{text[:500]} ..."


def _endpoint(environ: Mapping[str, str]) -> tuple[str, str] | None:
    variables = _lowered(environ)
    return next(((name, variables[name]) for name in ENDPOINTS if name in variables), None)


def _lowered(environ: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in environ.items() if value}


def _is_yes(variables: Mapping[str, str], name: str) -> bool:
    return variables.get(f"aws_{name}", variables.get(name, "")).lower() in YES
