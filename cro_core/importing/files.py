"""Reads files as tables of text, a chunk at a time: CSV, Parquet or newline-delimited JSON, several and joined ones."""

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
"""How many rows are in memory at a time, as text."""


@dataclass(frozen=True, slots=True)
class Source:
    """The files that an import starts from; they are read a chunk at a time, as often as is asked."""

    name: str
    """Name of the file, for messages."""
    fingerprint: str
    """SHA-256 over the files and the mapping."""
    notes: tuple[str, ...]
    mapping: AnyMapping
    parts: Sequence[tuple[Path, Mapping[str, str]]]
    """The files that are read one after the other, each with the columns that are constant in it."""
    joined: Sequence[tuple[str, pd.DataFrame]]
    """The tables that are joined: the column here that holds a table's key, and the table by its key."""

    def chunks(self) -> Iterator[pd.DataFrame]:
        """Yields every column the mapping names, as text with missing values for empty cells; rows in the files' order.

        The index numbers the rows through all files, from 0.

        Raises:
            MappingError: a file cannot be read as what it should be, or lacks a column that the mapping names;
                where only its end tells, after its chunks.
        """
        columns = list(dict.fromkeys(column for _, column in self.mapping.references()))
        start = 0
        for path, constants in self.parts:
            for part in _part(path, constants, self.mapping):
                table = part
                for key, joined_table in self.joined:
                    table = table.assign(
                        **{column: table[key].map(joined_table[column]) for column in joined_table.columns}
                    )
                table.index = pd.RangeIndex(start, start := start + len(table))
                yield table[columns].astype("str")
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
    for number, join in enumerate(mapping.join, 1):
        path = folder / join.file
        if path.is_file():
            joined.append((join.on, _joined_table(path, join, f"join[{number}]", mapping)))
            used.append(path)
        elif join.optional:
            joined.append(
                (join.on, pd.DataFrame(columns=join.columns, index=pd.Index([], dtype="str"), dtype="str"))
            )
            notes.append(f"{join.file} is not beside {file.name}: {listing(join.columns)} stays empty")
        else:
            raise NotFound(
                f"{mapping.source}: join[{number}].file: {path} does not exist: put it there, or set optional = true"
            )
    return Source(file.name, _fingerprint(used, mapping), tuple(notes), mapping, parts, joined)


def _parts(file: Path, mapping: AnyMapping) -> tuple[Path, list[tuple[Path, dict[str, str]]]]:
    """Finds the folder, and each file to read with the columns that are constant in it."""
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
    """Yields the columns the mapping wants of one file; those that a join brings come later."""
    from_joins = {column for join in mapping.join for column in join.columns}
    references = [(key, column) for key, column in mapping.references() if column not in from_joins]
    columns, present = list(dict.fromkeys(column for _, column in references)), dict[str, None]()
    open_ended = _format(path, mapping) == "ndjson"  # whose last line may have a column more
    for text in _read_text(path, mapping):
        table = text.assign(**constants)
        present |= dict.fromkeys(table.columns)
        for column in from_joins & present.keys():
            raise refuse(
                mapping.source,
                "join.columns",
                repr(column),
                f"columns that {path.name} does not have itself",
                "remove it",
            )
        if not open_ended:
            _check_columns(references, list(present), path, mapping)
        if len(table):
            yield table.reindex(columns=columns)
    _check_columns(references, list(present), path, mapping)


def _joined_table(path: Path, join: JoinPart, key: str, mapping: AnyMapping) -> pd.DataFrame:
    """Reads the columns of a table to be joined, by its key; a row without a partner gets empty cells."""
    name = join.key or join.on
    table = pd.concat(list(_read_text(path, mapping)))
    _check_columns(
        [(f"{key}.key", name), *((f"{key}.columns", column) for column in join.columns)],
        list(table.columns),
        path,
        mapping,
    )
    table = table[[name, *join.columns]].dropna(subset=[name]).drop_duplicates()
    repeated = table[name][table[name].duplicated()]
    if len(repeated):
        got = f"{len(repeated):,} keys more than once, e.g. {repeated.iloc[0]!r}"
        raise refuse(path.name, name, got, "each key once", "a row must have one partner at most")
    return table.set_index(name)


def _check_columns(
    references: Sequence[tuple[str, str]], present: list[str], path: Path, mapping: AnyMapping
) -> None:
    for key, column in references:
        if column not in present:
            fix = did_you_mean(column, present)
            if len(present) == 1 and any(sign in present[0] for sign in ";\t|"):
                fix = "the header is one single column: set table.delimiter"
            raise refuse(
                mapping.source, key, repr(column), f"a column of {path.name} ({listing(present)})", fix
            )


def _read_text(path: Path, mapping: AnyMapping) -> Iterator[pd.DataFrame]:
    """Yields all columns of a file as text, empty cells missing, a chunk of rows at a time; at least one chunk."""
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
        choices = listing([*FORMATS, ".csv.gz"])
        raise refuse(
            path.name,
            "format",
            repr(suffix or path.name),
            f"one of {choices}",
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
        problem = str(error).removeprefix("Error tokenizing data. C error: ").strip()
        raise refuse(
            path.name,
            "CSV",
            problem,
            "as many fields in every line as in the header",
            "quote fields that hold the delimiter",
        ) from None


def _strictly(step: Callable[[], Any]) -> Any:
    """Returns what the step does; pandas only warns where every line has a field too many, and drops it."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)
        return step()


def _parquet(path: Path, _mapping: AnyMapping) -> Iterator[pd.DataFrame]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            whole_numbers = _whole_numbers(file)
            chunks = file.iter_batches(CHUNK)
            for batch in chain(chunks, [pa.RecordBatch.from_pylist([], schema=file.schema_arrow)]):
                table = batch.to_pandas(types_mapper=_nullable().get)
                yield table.astype(dict.fromkeys(whole_numbers, "Int64")).astype("str")
    except pa.ArrowException as error:
        raise refuse(path.name, "Parquet", str(error), "a Parquet file") from None


@cache
def _nullable() -> dict[Any, Any]:
    """Maps Arrow's types to those of pandas that know missing values: a gap does not make 7 a 7.0."""
    import pyarrow as pa

    integers = {
        f"{sign}int{bits}": f"{sign.upper()}Int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)
    }
    names = integers | {"float": "Float32", "double": "Float64", "bool": "boolean", "string": "str"}
    return {pa.type_for_alias(ours): pd.api.types.pandas_dtype(theirs) for ours, theirs in names.items()}


def _whole_numbers(file: Any) -> list[str]:
    """Finds columns of decimals that hold whole numbers only: a gap made them so (7.0), in a text file they are 7."""
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
        data = json.loads(line)
    except json.JSONDecodeError as error:
        raise refuse(path.name, f"line {number}", str(error), "one JSON object a line") from None
    if not isinstance(data, dict):
        raise refuse(path.name, f"line {number}", f"a JSON {type(data).__name__}", "one JSON object a line")
    return data


def _flat(data: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str | None]]:
    """Yields the fields of nested JSON: ``{"a": {"b": 1}}`` as ``a.b``; numbers keep their text, lists stay JSON."""
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
