"""Files that another process, a kill or another person may have spoilt: locks, whole writes, JSON that is checked."""

import contextlib
import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import filelock

from trm_jax.errors import UserError


class BusyError(UserError):
    """Another process writes to the same place."""


@contextlib.contextmanager
def locked(lock: pathlib.Path, place: pathlib.Path) -> Iterator[None]:
    """Holds the file `lock`, which the system frees when this process ends, however it ends.

    Raises BusyError if another process holds it, which then writes to `place`.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    lock.open("ab").close()  # a place that cannot be written must not look like one that is in use
    try:
        with filelock.FileLock(lock, timeout=0):
            yield
    except filelock.Timeout:
        raise BusyError(f"another process is writing to {place}: wait for it, or give another --output") from None


def lock_beside(path: pathlib.Path) -> pathlib.Path:
    """The lock of something that is replaced as a whole and so cannot hold its own lock."""
    return path.with_name(f".{path.name}.lock")


def write_whole(path: pathlib.Path, content: str | bytes) -> None:
    """Writes a file that is either the old or the new one, whenever the process ends."""
    partial = partial_of(path)
    partial.write_bytes(content.encode() if isinstance(content, str) else content)
    os.replace(partial, path)


def partial_of(path: pathlib.Path) -> pathlib.Path:
    """What `write_whole` writes first; a kill may leave it behind."""
    return path.with_name(f".{path.name}.partial")


def read_object(path: pathlib.Path, error: type[UserError]) -> dict[str, Any]:
    """The JSON object in a file. Raises `error`, naming file and place."""
    return parse_object(_read(path, error), str(path), error)


def parse_object(text: str, where: str, error: type[UserError]) -> dict[str, Any]:
    """The JSON object that a text is. Raises `error`."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as fault:
        raise error(f"{where} is not JSON: {fault}") from None
    if not isinstance(value, dict):
        raise error(f"{where} is not a JSON object")
    return value


def read_lines(path: pathlib.Path, error: type[UserError]) -> Iterator[tuple[int, dict[str, Any]]]:
    """The JSON objects of a .jsonl file, each with the number of its line. Raises `error`, naming the line."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                where = f"{path}, line {number}"
                yield number, parse_object(_decode(line, where, error), where, error)


def _read(path: pathlib.Path, error: type[UserError]) -> str:
    return _decode(path.read_bytes(), str(path), error)


def _decode(content: bytes, where: str, error: type[UserError]) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as fault:
        raise error(f"{where} is not UTF-8: {fault}") from None
