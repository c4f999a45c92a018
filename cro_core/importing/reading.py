"""Files as tables of text: CSV, Parquet or newline-delimited JSON, several of them and joined ones."""

from __future__ import annotations

import gzip
import hashlib
import json
import warnings
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd

from cro_core.errors import MappingError, NotFound
from cro_core.importing.mapping import ImportMapping, JoinPart, fingerprint_text
from cro_core.importing.refusal import did_you_mean, listing, refuse

FORMATS = {
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".ndjson": "ndjson",
    ".jsonl": "ndjson",
}


@dataclass(frozen=True, slots=True)
class Source:
    """What an import starts from."""

    table: pd.DataFrame
    """Every column the mapping names, as text, with missing values for empty cells; rows in the files' order."""
    name: str
    """Of the file, for messages."""
    fingerprint: str
    """SHA-256 over the files and the mapping."""
    notes: tuple[str, ...] = ()


def read(file: Path, mapping: ImportMapping) -> Source:
    """Reads the file, or the files that the mapping lists in the folder ``file``, with what is joined to them.

    Raises:
        NotFound: a file does not exist.
        MappingError: a file cannot be read as what it should be, or lacks a column that the mapping names.
    """
    folder, parts = _parts(file, mapping)
    table = pd.concat([_part(path, constants, mapping) for path, constants in parts], ignore_index=True)
    if table.empty:
        raise refuse(file.name, "rows", "none", "at least one row below the header")
    used, notes = [path for path, _ in parts], []
    for n, join in enumerate(mapping.join, 1):
        other = folder / join.file
        if other.is_file():
            table = _joined(table, other, join, f"join[{n}]", mapping)
            used.append(other)
        elif join.optional:
            table[join.columns] = None
            notes.append(f"{join.file} is not beside {file.name}: {listing(join.columns)} stays empty")
        else:
            raise NotFound(
                f"{mapping.source}: join[{n}].file: {other} does not exist: put it there, or set optional = true"
            )
    wanted = list(dict.fromkeys(column for _, column in mapping.references()))
    return Source(table[wanted].astype("str"), file.name, _fingerprint(used, mapping), tuple(notes))


def _parts(file: Path, mapping: ImportMapping) -> tuple[Path, list[tuple[Path, dict[str, str]]]]:
    """The folder, and each file to read with the columns that are constant in it."""
    if not file.exists():
        raise NotFound(f"{file} does not exist: check the path")
    if not mapping.files:
        if file.is_dir():
            raise refuse(
                str(file), "FILE", "a folder", "a file", "or list its files as [[files]] in the mapping"
            )
        return file.parent, [(file, {})]
    folder = file if file.is_dir() else file.parent
    for part in mapping.files:
        if not (folder / part.file).is_file():
            raise NotFound(
                f"{mapping.source}: files: {folder / part.file} does not exist: give the folder that holds it"
            )
    return folder, [(folder / part.file, part.set) for part in mapping.files]


def _part(path: Path, constants: dict[str, str], mapping: ImportMapping) -> pd.DataFrame:
    """The columns the mapping wants of one file; those that a join brings come later."""
    from_joins = {column for join in mapping.join for column in join.columns}
    table = _read_text(path, mapping).assign(**constants)
    for column in from_joins & set(table.columns):
        raise refuse(
            mapping.source,
            "join.columns",
            repr(column),
            f"columns that {path.name} does not have itself",
            "remove it",
        )
    wanted = [(key, column) for key, column in mapping.references() if column not in from_joins]
    _check_columns(wanted, list(table.columns), path, mapping)
    return table[list(dict.fromkeys(column for _, column in wanted))]


def _joined(
    table: pd.DataFrame, path: Path, join: JoinPart, key: str, mapping: ImportMapping
) -> pd.DataFrame:
    """The table with the other one's columns; a row without a partner gets empty cells."""
    other, name = _read_text(path, mapping), join.key or join.on
    _check_columns(
        [(f"{key}.key", name), *((f"{key}.columns", c) for c in join.columns)],
        list(other.columns),
        path,
        mapping,
    )
    other = other[[name, *join.columns]].dropna(subset=[name]).drop_duplicates()
    twice = other[name][other[name].duplicated()]
    if len(twice):
        got = f"{len(twice):,} keys more than once, e.g. {twice.iloc[0]!r}"
        raise refuse(path.name, name, got, "each key once", "a row must have one partner at most")
    found = other.set_index(name)
    return table.assign(**{column: table[join.on].map(found[column]) for column in join.columns})


def _check_columns(
    wanted: Sequence[tuple[str, str]], there: list[str], path: Path, mapping: ImportMapping
) -> None:
    for key, column in wanted:
        if column not in there:
            fix = did_you_mean(column, there)
            if len(there) == 1 and any(sign in there[0] for sign in ";\t|"):
                fix = "the header is one single column: set table.delimiter"
            raise refuse(
                mapping.source, key, repr(column), f"a column of {path.name} ({listing(there)})", fix
            )


def _read_text(path: Path, mapping: ImportMapping) -> pd.DataFrame:
    """All columns of a file as text, empty cells missing."""
    kind = mapping.table.format or _format(path, mapping)
    try:
        table = {"csv": _csv, "parquet": _parquet, "ndjson": _ndjson}[kind](path, mapping)
    except UnicodeDecodeError:
        wanted = f"text in {mapping.table.encoding}"
        raise refuse(
            path.name, "encoding", "other bytes", wanted, 'set table.encoding, e.g. "cp1252"'
        ) from None
    except (OSError, EOFError, zlib.error) as error:
        raise refuse(path.name, "file", str(error), f"a readable {kind} file", "is it complete?") from None
    table.columns = table.columns.astype(str)
    return table.mask(table.isin(["", *mapping.table.missing]))


def _format(path: Path, mapping: ImportMapping) -> str:
    suffix = Path(path.name.removesuffix(".gz")).suffix.lower()
    if suffix not in FORMATS:
        known = listing([*FORMATS, ".csv.gz"])
        raise refuse(
            path.name,
            "format",
            repr(suffix or path.name),
            f"one of {known}",
            f"set table.format in {mapping.source}",
        )
    return FORMATS[suffix]


def _csv(path: Path, mapping: ImportMapping) -> pd.DataFrame:
    delimiter = mapping.table.delimiter or ("\t" if ".tsv" in path.suffixes else ",")
    options: dict[str, Any] = {
        "sep": delimiter,
        "encoding": mapping.table.encoding,
        "compression": _compression(path),
    }
    try:
        with warnings.catch_warnings():
            # pandas only warns where every line has a field too many, and drops it
            warnings.simplefilter("error", pd.errors.ParserWarning)
            table: pd.DataFrame = pd.read_csv(
                path, dtype="str", keep_default_na=False, index_col=False, **options
            )
            return table
    except pd.errors.EmptyDataError:
        raise refuse(path.name, "rows", "an empty file", "a header and rows") from None
    except (pd.errors.ParserError, pd.errors.ParserWarning) as error:
        told = str(error).removeprefix("Error tokenizing data. C error: ").strip()
        raise refuse(
            path.name,
            "CSV",
            told,
            "as many fields in every line as in the header",
            "quote fields that hold the delimiter",
        ) from None


def _parquet(path: Path, _mapping: ImportMapping) -> pd.DataFrame:
    if find_spec("pyarrow") is None:
        raise MappingError(
            f"{path.name}: Parquet needs pyarrow: pip install pyarrow, or give CSV", field="format"
        )
    try:
        table = pd.read_parquet(path, dtype_backend="numpy_nullable")
    except ValueError as error:  # pyarrow's errors are ValueErrors
        raise refuse(path.name, "Parquet", str(error), "a Parquet file") from None
    return table.apply(_without_decimals).astype("str")


def _without_decimals(column: pd.Series[Any]) -> pd.Series[Any]:
    """Whole numbers that a gap has turned into decimals (7.0) as a text file would have them (7)."""
    if not pd.api.types.is_float_dtype(column.dtype) or not (column.dropna() % 1 == 0).all():
        return column
    return column.astype("Int64")


def _ndjson(path: Path, mapping: ImportMapping) -> pd.DataFrame:
    rows: list[dict[str, str | None]] = []
    opened: Any = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding=mapping.table.encoding) as stream:
        for number, line in enumerate(stream, 1):
            if line.strip():
                rows.append(dict(_flat(_object(line, number, path))))
    if not rows:
        raise refuse(path.name, "rows", "an empty file", "at least one JSON object")
    return pd.DataFrame(rows).astype("str")


def _object(line: str, number: int, path: Path) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except json.JSONDecodeError as error:
        raise refuse(path.name, f"line {number}", str(error), "one JSON object a line") from None
    if not isinstance(found, dict):
        raise refuse(path.name, f"line {number}", f"a JSON {type(found).__name__}", "one JSON object a line")
    return found


def _flat(data: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str | None]]:
    """``{"a": {"b": 1}}`` as ``a.b``; numbers keep their text, lists stay JSON."""
    for name, value in data.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value if value is None or isinstance(value, str) else json.dumps(value)


def _compression(path: Path) -> str | None:
    return "gzip" if path.suffix == ".gz" else None


def _fingerprint(paths: Sequence[Path], mapping: ImportMapping) -> str:
    digest = hashlib.sha256(fingerprint_text(mapping).encode())
    for path in paths:
        with path.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()
