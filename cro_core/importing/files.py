"""Files as tables of text, a chunk at a time: CSV, Parquet or newline-delimited JSON, several and joined ones."""

from __future__ import annotations

import gzip
import hashlib
import json
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pandas as pd

from cro_core.errors import NotFound
from cro_core.importing.mapping import AnyMapping, JoinPart, fingerprint_text
from cro_core.importing.refusal import did_you_mean, listing, refuse

FORMATS = {
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".ndjson": "ndjson",
    ".jsonl": "ndjson",
}


CHUNK = 50_000
"""Rows that are in memory at a time, as text."""


@dataclass(frozen=True, slots=True)
class Source:
    """What an import starts from: files that are read a chunk at a time, as often as is asked."""

    name: str
    """Of the file, for messages."""
    fingerprint: str
    """SHA-256 over the files and the mapping."""
    notes: tuple[str, ...]
    mapping: AnyMapping
    parts: Sequence[tuple[Path, Mapping[str, str]]]
    """Each file with the columns that are constant in it."""
    joined: Sequence[tuple[str, pd.DataFrame]]
    """Each other table by its key, with the column that holds the key here."""

    def chunks(self) -> Iterator[pd.DataFrame]:
        """Every column the mapping names, as text with missing values for empty cells; rows in the files' order.

        The index numbers the rows through all files, from 0.

        Raises:
            MappingError: a file cannot be read as what it should be, or lacks a column that the mapping names;
                where only its end tells, after its chunks.
        """
        wanted = list(dict.fromkeys(column for _, column in self.mapping.references()))
        start = 0
        for path, constants in self.parts:
            for part in _part(path, constants, self.mapping):
                table = part
                for key, other in self.joined:
                    table = table.assign(
                        **{column: table[key].map(other[column]) for column in other.columns}
                    )
                table.index = pd.RangeIndex(start, start := start + len(table))
                yield table[wanted].astype("str")
        if not start:
            raise refuse(self.name, "rows", "none", "at least one row below the header")


def read(file: Path, mapping: AnyMapping) -> Source:
    """Finds the file, or the files that the mapping lists in the folder ``file``, and reads what is joined to them.

    Raises:
        NotFound: a file does not exist.
        MappingError: a table to be joined cannot be read as what it should be.
    """
    folder, parts = _parts(file, mapping)
    used, notes, joined = [path for path, _ in parts], list[str](), []
    for n, join in enumerate(mapping.join, 1):
        other = folder / join.file
        if other.is_file():
            joined.append((join.on, _other(other, join, f"join[{n}]", mapping)))
            used.append(other)
        elif join.optional:
            joined.append(
                (join.on, pd.DataFrame(columns=join.columns, index=pd.Index([], dtype="str"), dtype="str"))
            )
            notes.append(f"{join.file} is not beside {file.name}: {listing(join.columns)} stays empty")
        else:
            raise NotFound(
                f"{mapping.source}: join[{n}].file: {other} does not exist: put it there, or set optional = true"
            )
    return Source(file.name, _fingerprint(used, mapping), tuple(notes), mapping, parts, joined)


def _parts(file: Path, mapping: AnyMapping) -> tuple[Path, list[tuple[Path, dict[str, str]]]]:
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


def _part(path: Path, constants: Mapping[str, str], mapping: AnyMapping) -> Iterator[pd.DataFrame]:
    """The columns the mapping wants of one file; those that a join brings come later."""
    from_joins = {column for join in mapping.join for column in join.columns}
    wanted = [(key, column) for key, column in mapping.references() if column not in from_joins]
    columns, there = list(dict.fromkeys(column for _, column in wanted)), dict[str, None]()
    open_ended = _format(path, mapping) == "ndjson"  # whose last line may have a column more
    for text in _read_text(path, mapping):
        table = text.assign(**constants)
        there |= dict.fromkeys(table.columns)
        for column in from_joins & there.keys():
            raise refuse(
                mapping.source,
                "join.columns",
                repr(column),
                f"columns that {path.name} does not have itself",
                "remove it",
            )
        if not open_ended:
            _check_columns(wanted, list(there), path, mapping)
        if len(table):
            yield table.reindex(columns=columns)
    _check_columns(wanted, list(there), path, mapping)


def _other(path: Path, join: JoinPart, key: str, mapping: AnyMapping) -> pd.DataFrame:
    """The columns of another table, by its key; a row without a partner gets empty cells."""
    name = join.key or join.on
    other = pd.concat(list(_read_text(path, mapping)))
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
    return other.set_index(name)


def _check_columns(
    wanted: Sequence[tuple[str, str]], there: list[str], path: Path, mapping: AnyMapping
) -> None:
    for key, column in wanted:
        if column not in there:
            fix = did_you_mean(column, there)
            if len(there) == 1 and any(sign in there[0] for sign in ";\t|"):
                fix = "the header is one single column: set table.delimiter"
            raise refuse(
                mapping.source, key, repr(column), f"a column of {path.name} ({listing(there)})", fix
            )


def _read_text(path: Path, mapping: AnyMapping) -> Iterator[pd.DataFrame]:
    """All columns of a file as text, empty cells missing, a chunk of rows at a time; at least one chunk."""
    kind = _format(path, mapping)
    try:
        for table in {"csv": _csv, "parquet": _parquet, "ndjson": _ndjson}[kind](path, mapping):
            table.columns = table.columns.astype(str)
            yield table.mask(table.isin(["", *mapping.table.missing]))
    except UnicodeDecodeError:
        wanted = f"text in {mapping.table.encoding}"
        raise refuse(
            path.name, "encoding", "other bytes", wanted, 'set table.encoding, e.g. "cp1252"'
        ) from None
    except (OSError, EOFError, zlib.error) as error:
        raise refuse(path.name, "file", str(error), f"a readable {kind} file", "is it complete?") from None


def _format(path: Path, mapping: AnyMapping) -> str:
    if mapping.table.format is not None:
        return mapping.table.format
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


def _csv(path: Path, mapping: AnyMapping) -> Iterator[pd.DataFrame]:
    delimiter = mapping.table.delimiter or ("\t" if ".tsv" in path.suffixes else ",")
    options: dict[str, Any] = {
        "sep": delimiter,
        "encoding": mapping.table.encoding,
        "compression": _compression(path),
        "chunksize": CHUNK,
        "dtype": "str",
        "keep_default_na": False,
        "index_col": False,
    }
    try:
        with _strictly(partial(pd.read_csv, path, **options)) as reader:
            while (table := _strictly(partial(next, reader, None))) is not None:
                yield table
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


def _strictly(step: Callable[[], Any]) -> Any:
    """What the step returns; pandas only warns where every line has a field too many, and drops it."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)
        return step()


def _parquet(path: Path, _mapping: AnyMapping) -> Iterator[pd.DataFrame]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            whole = _whole_numbers(file)
            chunks = file.iter_batches(CHUNK)
            for batch in chain(chunks, [pa.RecordBatch.from_pylist([], schema=file.schema_arrow)]):
                table = batch.to_pandas(types_mapper=_nullable().get)
                yield table.astype(dict.fromkeys(whole, "Int64")).astype("str")
    except pa.ArrowException as error:
        raise refuse(path.name, "Parquet", str(error), "a Parquet file") from None


@cache
def _nullable() -> dict[Any, Any]:
    """Arrow's types as those of pandas that know missing values: a gap does not make 7 a 7.0."""
    import pyarrow as pa

    whole = {f"{sign}int{bits}": f"{sign.upper()}Int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
    names = whole | {"float": "Float32", "double": "Float64", "bool": "boolean", "string": "str"}
    return {pa.type_for_alias(ours): pd.api.types.pandas_dtype(theirs) for ours, theirs in names.items()}


def _whole_numbers(file: Any) -> list[str]:
    """Columns of decimals that hold whole numbers only: a gap made them so (7.0), in a text file they are 7."""
    import pyarrow as pa
    import pyarrow.compute as pc

    names = [field.name for field in file.schema_arrow if pa.types.is_floating(field.type)]
    for batch in file.iter_batches(CHUNK, columns=names) if names else ():
        for name in list(names):
            numbers = batch.column(name)
            whole = pc.and_(pc.equal(pc.floor(numbers), numbers), pc.less(pc.abs(numbers), 2**53))
            if pc.all(whole).as_py() is False:
                names.remove(name)
    return names


def _ndjson(path: Path, mapping: AnyMapping) -> Iterator[pd.DataFrame]:
    opened: Any = gzip.open if path.suffix == ".gz" else open
    empty = True
    with opened(path, "rt", encoding=mapping.table.encoding) as stream:
        lines = ((number, line) for number, line in enumerate(stream, 1) if line.strip())
        while rows := [dict(_flat(_object(line, number, path))) for number, line in islice(lines, CHUNK)]:
            yield pd.DataFrame(rows).astype("str")
            empty = False
    if empty:
        raise refuse(path.name, "rows", "an empty file", "at least one JSON object")


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


def _fingerprint(paths: Sequence[Path], mapping: AnyMapping) -> str:
    digest = hashlib.sha256(fingerprint_text(mapping).encode())
    for path in paths:
        with path.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()
