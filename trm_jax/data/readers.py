"""Files of rows in the formats that data sets come in: JSON lines, JSON, CSV, Parquet, gzipped, or a folder of these."""

import csv
import gzip
import io
import json
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from trm_jax.errors import UserError
from trm_jax.files import parse_object


class DataError(UserError):
    """A data set that cannot be trained or evaluated on; the message says where and what to do."""


NumberedRow = tuple[str, Mapping[str, Any]]  # where the row is, for a message; and its columns


def is_rows(path: pathlib.Path) -> bool:
    """Whether this is a file of rows, by its name, or a folder that has some."""
    return path.is_dir() or _kind(path) in READERS


def read_rows(path: pathlib.Path) -> Iterator[NumberedRow]:
    """The rows of a file, or of all files of a folder in the order of their names. Raises DataError, naming the place."""
    if path.is_dir():
        files = [file for file in sorted(path.rglob("*")) if file.is_file() and _kind(file) in READERS]
        if not files:
            raise DataError(f"{path} holds no file of rows ({', '.join(READERS)}, also with .gz)")
        for file in files:
            yield from read_rows(file)
        return
    reader = READERS.get(_kind(path), _read_lines)
    try:
        yield from reader(path)
    except (EOFError, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is damaged: {error}") from None


def _kind(path: pathlib.Path) -> str:
    name = path.name.lower().removesuffix(".gz")
    return pathlib.PurePath(name).suffix


def _open(path: pathlib.Path) -> io.BufferedIOBase:
    return gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb")


def _text(content: bytes, where: str) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{where} is not UTF-8: {error}") from None


def _read_lines(path: pathlib.Path) -> Iterator[NumberedRow]:
    with _open(path) as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                where = f"{path}, line {number}"
                yield where, parse_object(_text(line, where), where, DataError)


def _read_json(path: pathlib.Path) -> Iterator[NumberedRow]:
    """A list of objects, alone or as the one list in an object; or objects a line, as many files of this name are."""
    with _open(path) as file:
        text = _text(file.read(), str(path))
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        yield from _read_lines(path)
        return
    if isinstance(value, dict) and len(lists := [part for part in value.values() if isinstance(part, list)]) == 1:
        [value] = lists
    for number, row in enumerate(value if isinstance(value, list) else [value], 1):
        if not isinstance(row, dict):
            raise DataError(f"{path}, row {number} is not a JSON object")
        yield f"{path}, row {number}", row


def _read_csv(path: pathlib.Path) -> Iterator[NumberedRow]:
    with _open(path) as file:
        lines = csv.DictReader(io.StringIO(_text(file.read(), str(path)), newline=""), strict=True)
        try:
            for row in lines:
                where = f"{path}, line {lines.line_num}"
                if None in row or None in row.values():
                    raise DataError(f"{where} has another number of columns than the first line")
                yield where, row
        except csv.Error as error:
            raise DataError(f"{path}, line {lines.line_num} is no CSV: {error}") from None


def _read_parquet(path: pathlib.Path) -> Iterator[NumberedRow]:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches():
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}, row {number}", row
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path} is damaged, or no Parquet file: {error}") from None


READERS: dict[str, Callable[[pathlib.Path], Iterator[NumberedRow]]] = {
    ".jsonl": _read_lines,
    ".json": _read_json,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}
