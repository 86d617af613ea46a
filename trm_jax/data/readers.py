"""Files of rows in the formats that data sets come in: JSON lines, JSON, CSV, Parquet, gzipped, or a folder of these."""

import csv
import gzip
import io
import json
import logging
import pathlib
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from trm_jax.data.columns import DataError, is_row
from trm_jax.errors import listing
from trm_jax.files import parse_object

SPLITS = {"train": "train", "training": "train", "test": "test", "tests": "test", "testing": "test"} | dict.fromkeys(
    ("held", "validation", "valid", "val", "dev", "eval", "heldout"), "validation"
)
DESCRIPTIONS = (  # files that stand beside rows and hold none, as datasets and the hub write them
    *("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"),
    *("metadata.json", "config.json"),
)
WRONG = "incorrect_solutions"  # the folder of OpenMathInstruct that nobody should learn from
LONGEST_FIELD = 2**31 - 1  # characters in a field of a CSV file; Python's own limit is 131,072
_log = logging.getLogger(__name__)

NumberedRow = tuple[str, Mapping[str, Any]]  # where the row is, for a message; and its columns


def is_rows(path: pathlib.Path) -> bool:
    """Whether this is a file of rows, by its name, or a folder that has some."""
    return path.is_dir() or _kind(path) in READERS


def read_rows(path: pathlib.Path, split: str) -> Iterator[NumberedRow]:
    """The rows of a file, or of a folder's files of this split in the order of their names.

    A file in a folder is of the split that its path names, as in `data/train-00000.parquet`, or of every split if it names
    none. Raises DataError, naming the place.
    """
    if path.is_dir():
        for file in _files_of(path, split):
            yield from read_rows(file, split)
        return
    reader = READERS.get(_kind(path), _read_lines)
    try:
        yield from reader(path, split)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path} is damaged: {error}") from None


def _files_of(folder: pathlib.Path, split: str) -> list[pathlib.Path]:
    found = [file for file in sorted(folder.rglob("*")) if _kind(file) in READERS and file.name not in DESCRIPTIONS]
    found = [file for file in found if file.is_file() and not any(map(_is_hidden, file.relative_to(folder).parts))]
    if not found:
        raise DataError(f"{folder} holds no file of rows ({', '.join(READERS)}, also with .gz)")
    right = [file for file in found if WRONG not in file.relative_to(folder).parts]
    if len(right) < len(found):
        _log.warning("%s: the %d files in %s are left out", folder, len(found) - len(right), WRONG)
    places = {file: _place(file.relative_to(folder)) for file in right}
    chosen = [file for file, (named, _) in places.items() if named in (split, None)]
    if not chosen:
        raise DataError(f"{folder} holds no file for the split {split!r}, only {listing(file.name for file in found)}")
    sets = sorted({str(place) for named, place in places.values() if named == split})
    if len(sets) > 1:
        raise DataError(
            f"{folder} holds several sets with a split {split!r}, in {listing(sets)}: they may be the same rows in several "
            f"forms, so give the folder of one, as {folder / sets[-1]}"
        )
    if len(chosen) < len(right):
        _log.info("%s: the split %r is %s", folder, split, listing(file.name for file in chosen))
    return chosen


def _place(path: pathlib.Path) -> tuple[str | None, pathlib.PurePath]:
    """The split that the path of a file in a folder names, and the folder above the name that says it, where the set is.

    The file's own name counts before those of its folders. A count ends a word: `gsm8ktest` is a test split, `latest` none.
    """
    for name in (path, *path.parents):
        for word in re.findall(r"(?<=\d)[kKmM]|[A-Z]?[a-z]+|[A-Z]+", name.name):
            if split := SPLITS.get(word.lower()):
                return split, name.parent
    return None, pathlib.PurePath()


def _is_hidden(part: str) -> bool:
    return part.startswith(".")


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


def _read_lines(path: pathlib.Path, split: str) -> Iterator[NumberedRow]:
    with _open(path) as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                where = f"{path}, line {number}"
                yield where, parse_object(_text(line, where), where, DataError)


def _read_json(path: pathlib.Path, split: str) -> Iterator[NumberedRow]:
    """A list of objects, alone or as the one list in an object; a list for each split; one object; or objects a line."""
    with _open(path) as file:
        text = _text(file.read(), str(path))
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        first = text.lstrip().partition("\n")[0]
        if first and not _is_json(first):
            raise DataError(f"{path} is not JSON: {error}") from None
        yield from _read_lines(path, split)
        return
    if isinstance(value, dict) and not is_row(value):
        lists = {name: part for name, part in value.items() if _is_table(part)}
        splits = {SPLITS[name.casefold()]: part for name, part in lists.items() if name.casefold() in SPLITS}
        others = [part for name, part in lists.items() if name.casefold() not in SPLITS and part]
        full = [name for name, part in splits.items() if part]
        if split in splits:
            value = splits[split]
        elif len(others) == 1 and (split == "train" or not full):  # what is beside a test is for training
            [value] = others
        elif full:
            raise DataError(f"{path} holds no rows for the split {split!r}, only for {listing(full)}")
    for number, row in enumerate(value if isinstance(value, list) else [value], 1):
        if not isinstance(row, dict):
            raise DataError(f"{path}, row {number} is not a JSON object")
        yield f"{path}, row {number}", row


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _is_table(part: Any) -> bool:
    """Whether this is a list of nothing but objects, which may be rows."""
    return isinstance(part, list) and all(isinstance(row, dict) for row in part)


def _read_csv(path: pathlib.Path, split: str) -> Iterator[NumberedRow]:
    csv.field_size_limit(LONGEST_FIELD)
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


def _read_parquet(path: pathlib.Path, split: str) -> Iterator[NumberedRow]:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        # A Parquet file is read from its end, so that a gzipped one is unpacked as a whole.
        source = pyarrow.BufferReader(_open(path).read()) if path.suffix.lower() == ".gz" else path
        with pyarrow.parquet.ParquetFile(source) as file:
            for batch in file.iter_batches():
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}, row {number}", row
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path} is damaged, or no Parquet file: {error}") from None


# A reader gets the split too, because a JSON file may hold several.
READERS: dict[str, Callable[[pathlib.Path, str], Iterator[NumberedRow]]] = {
    ".jsonl": _read_lines,
    ".json": _read_json,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}
