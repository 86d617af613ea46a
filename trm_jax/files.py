"""Locks, writing files that a kill cannot leave half written, and reading JSON files with checks."""

import contextlib
import json
import logging
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import filelock

from trm_jax.errors import UserError

_log = logging.getLogger(__name__)


class BusyError(UserError):
    """Another process writes to the same place."""


@contextlib.contextmanager
def locked(lock: pathlib.Path, place: pathlib.Path, wait: bool = False) -> Iterator[None]:
    """Locks the file `lock`; the operating system frees it when this process ends, however it ends.

    If another process holds the lock, raises BusyError, which names `place`, or says so and waits, if asked to `wait`.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    lock.open("ab").close()  # a place that cannot be written must not look like one that is in use
    held = filelock.FileLock(lock)
    try:
        held.acquire(timeout=0)
    except filelock.Timeout:
        if not wait:
            raise BusyError(f"another process is writing to {place}: wait for it, or give another --output") from None
        _log.info("waiting for another process, which is writing to %s", place)
        held.acquire()
    try:
        yield
    finally:
        held.release()


def cache_folder() -> pathlib.Path:
    """Where this package keeps what it can make again: `~/.cache/trm_jax`, or below XDG_CACHE_HOME."""
    return pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "trm_jax"


def is_cached(path: pathlib.Path) -> bool:
    """Whether this lies in the `cache_folder`, so that it is made again when it is gone."""
    return path.absolute().is_relative_to(cache_folder().absolute())


def lock_beside(path: pathlib.Path) -> pathlib.Path:
    """The lock file beside a file or folder that is replaced as a whole; a lock inside it would be replaced too."""
    path = path if path.name.strip(".") else path.resolve()  # `.` has no name
    return path.with_name(f".{path.name}.lock")


def write_whole(path: pathlib.Path, content: str | bytes) -> None:
    """Replaces a file in one step: whenever the process is killed, the whole old or the whole new content is there."""
    partial = partial_of(path)
    partial.write_bytes(content.encode() if isinstance(content, str) else content)
    os.replace(partial, path)


def partial_of(path: pathlib.Path) -> pathlib.Path:
    """The temporary file that `write_whole` writes before it renames it; a kill may leave it behind."""
    return path.with_name(f".{path.name}.partial")


def is_pointer(path: pathlib.Path) -> bool:
    """Whether a file is a pointer of Git LFS, as a clone without git-lfs has them in place of large files."""
    with path.open("rb") as file:
        return file.read(40).startswith(b"version https://git-lfs.github.com/spec")


def read_object(path: pathlib.Path, error: type[UserError]) -> dict[str, Any]:
    """Reads a file that must hold one JSON object. Raises `error`, naming the file."""
    return parse_object(_read(path, error), str(path), error)


def parse_object(text: str, where: str, error: type[UserError]) -> dict[str, Any]:
    """Parses a text that must be one JSON object. Raises `error`, which says `where` the text is."""
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
