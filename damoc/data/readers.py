"""Reads raw rows from files of every kind that damoc knows; each row keeps the place it came from."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from damoc.data.problems import Problems
from damoc.errors import DamocError

_LONGEST_CELL = 2**31 - 1


@dataclass(frozen=True)
class Record:
    """A raw row.

    Args:
        where: file and line, for messages.
        values: its columns.
    """

    where: str
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Table:
    """The raw rows of one file, or of whatever else stands for one.

    Args:
        where: path or URI, for messages.
        name: what the rows' ``meta["source"]`` says, without folders.
        records: its rows.
    """

    where: str
    name: str
    records: list[Record]


def suffix_of(name: str) -> str | None:
    """The ending by which a file is read, or None when damoc does not read such files."""
    return next((ending for ending in sorted(_READERS, key=len, reverse=True) if name.lower().endswith(ending)), None)


def read_table(path: Path, where: str, problems: Problems) -> Table:
    """Reads a file by its ending; rows that cannot be read are noted and left out.

    Args:
        path: the file.
        where: its name in messages.
        problems: gets what is wrong, with the line (from 1).

    Raises:
        DamocError: files of this kind are not read, or the disk refuses.
    """
    suffix = suffix_of(path.name)
    if suffix is None:
        raise DamocError("damoc does not read files of this kind", where, f"use one of {', '.join(sorted(_READERS))}")
    try:
        records = list(_READERS[suffix](path, where, problems))
    except OSError as error:
        raise DamocError(f"cannot be read ({error.strerror or error})", where, "check the file's rights") from error
    return Table(where, path.name, records)


def _read_jsonl(path: Path, where: str, problems: Problems) -> Iterator[Record]:
    with path.open("rb") as handle:
        yield from _json_lines(handle, where, problems)


def _read_jsonl_gz(path: Path, where: str, problems: Problems) -> Iterator[Record]:
    try:
        with gzip.open(path, "rb") as handle:
            yield from _json_lines(handle, where, problems)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        problems.add(f"not a whole gzip file ({error})", where, "copy or compress the file again")


def _json_lines(handle: BinaryIO | gzip.GzipFile, where: str, problems: Problems) -> Iterator[Record]:
    for number, line in enumerate(handle, 1):
        place = f"{where}:{number}"
        text = _decode(line, place, problems, first=number == 1)
        if text is None or not text.strip():
            continue
        try:
            value = json.loads(text)
        except json.JSONDecodeError as error:
            problems.add(f"not valid JSON: {error.msg} (column {error.colno})", place, "write one JSON object a line")
            continue
        except (ValueError, RecursionError) as error:
            problems.add(f"not readable as JSON: {error}", place, "write one plain JSON object a line")
            continue
        if isinstance(value, dict):
            yield Record(place, value)
        else:
            problems.add(f"a {type(value).__name__}, not an object", place, "write one JSON object a line")


def _read_json(path: Path, where: str, problems: Problems) -> Iterator[Record]:
    text = _decode_lines(path.read_bytes(), where, problems)
    if text is None:
        return
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        place = f"{where}:{error.lineno}"
        problems.add(f"not valid JSON: {error.msg} (column {error.colno})", place, "mend it, or name JSON lines .jsonl")
        return
    except (ValueError, RecursionError) as error:
        problems.add(f"not readable as JSON: {error}", where, "write a list of plain objects")
        return
    if not isinstance(value, list):
        problems.add("not a list of objects", where, "put the rows in one list, or write one a line in a .jsonl file")
        return
    for number, item in enumerate(value, 1):
        if isinstance(item, dict):
            yield Record(f"{where} item {number}", item)
        else:
            problems.add(f"a {type(item).__name__}, not an object", f"{where} item {number}", "make it an object")


def _read_csv(path: Path, where: str, problems: Problems) -> Iterator[Record]:
    text = _decode_lines(path.read_bytes(), where, problems)
    if text is None:
        return
    csv.field_size_limit(_LONGEST_CELL)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = next(reader, None)
        if not header:
            problems.add("has no header line", where, "name the columns in the first line")
            return
        if repeated := sorted({name for name in header if header.count(name) > 1}):
            problems.add(f"names columns twice: {', '.join(repeated)}", f"{where}:1", "rename them")
            return
        start = reader.line_num + 1
        for cells in reader:
            place, start = f"{where}:{start}", reader.line_num + 1
            if cells and len(cells) != len(header):
                what = f"has {len(cells)} cells, the header {len(header)}"
                problems.add(what, place, "put quotation marks around cells that hold commas or line breaks")
            elif cells:
                yield Record(place, dict(zip(header, cells, strict=True)))
    except csv.Error as error:
        problems.add(f"not valid CSV: {error}", f"{where}:{reader.line_num}", "mend the quotation marks")


def _read_parquet(path: Path, where: str, problems: Problems) -> Iterator[Record]:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches():
                for row in batch.to_pylist():
                    number += 1
                    yield Record(f"{where} row {number}", row)
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        problems.add(f"not a whole Parquet file ({_first_line(error)})", where, "copy or write the file again")


def _decode(line: bytes, where: str, problems: Problems, first: bool) -> str | None:
    try:
        return line.decode("utf-8-sig" if first else "utf-8")
    except UnicodeDecodeError as error:
        problems.add(f"not UTF-8 (byte {error.start + 1} of the line)", where, "save the file as UTF-8")
        return None


def _decode_lines(data: bytes, where: str, problems: Problems) -> str | None:
    """The text of a file, or None after noting each line that is not UTF-8."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        for number, line in enumerate(data.split(b"\n"), 1):
            _decode(line, f"{where}:{number}", problems, first=number == 1)
        return None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


_READERS: dict[str, Callable[[Path, str, Problems], Iterator[Record]]] = {
    ".jsonl": _read_jsonl,
    ".jsonl.gz": _read_jsonl_gz,
    ".json": _read_json,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}
