"""Whether a folder still holds what was written to it, and whether two folders hold the same weights."""

import hashlib
import json
import pathlib
import zlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from trm_jax.errors import UserError
from trm_jax.files import read_object, write_whole
from trm_jax.hardware import fetch

SEAL = "seal.json"
CHUNK = 2**22  # bytes of a file, or numbers of an array, that are read at a time


class DamageError(UserError):
    """A folder whose files are not as they were written."""


def seal(folder: pathlib.Path) -> None:
    """Writes the size and the CRC-32 of every file in the folder into its seal, `seal.json`.

    Example: `seal(folder)`, and later `require_sealed(folder)`.
    """
    write_whole(folder / SEAL, json.dumps(_sums(_files(folder)), indent=1) + "\n")


def require_sealed(folder: pathlib.Path) -> None:
    """Raises DamageError, naming the first faults, unless every file is as it was sealed.

    Only files that lie in the folder are opened, never a path that only the seal names.

    Example: `require_sealed(folder)`.
    """
    if not (folder / SEAL).is_file():
        raise DamageError(f"{folder} is not whole: it has no {SEAL}")
    sealed, files = read_object(folder / SEAL, DamageError), _files(folder)
    if lost := sorted(sealed.keys() - files.keys()):
        raise DamageError(f"{folder} is damaged: {lost[0]} is missing")
    sizes = {name: files[name].stat().st_size for name in sealed}
    if cut := [name for name, size in sizes.items() if not _is_sum(sealed[name]) or sealed[name][0] != size]:
        raise DamageError(f"{folder} is damaged: {cut[0]} has {sizes[cut[0]]:,} bytes, not as it was written")
    sums = _sums({name: files[name] for name in sealed})
    if changed := [name for name in sealed if sums[name] != sealed[name]]:
        raise DamageError(f"{folder} is damaged: {changed[0]} has changed since it was written")


class Fingerprint:
    """A SHA-256 digest of the names and values of weights; it does not depend on the type in which they are stored."""

    def __init__(self):
        self._digest = hashlib.sha256()

    @classmethod
    def of(cls, weights: Iterable[tuple[str, Any]]) -> str:
        """The digest of all these weights, in hexadecimal."""
        found = cls()
        for _ in found.of_passing(weights):
            pass
        return str(found)

    def of_passing(self, weights: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
        """Yields the same weights, one after the other, and adds each to the digest."""
        for name, weight in weights:
            self._digest.update(f"{name} {weight.shape} ".encode())
            for part in _parts(weight):
                self._digest.update(np.ascontiguousarray(part, np.float32))
            yield name, weight

    def __str__(self) -> str:
        return self._digest.hexdigest()


def all_finite(array: np.ndarray) -> bool:
    """Whether all numbers are finite, checked piece by piece. Example: `all_finite(np.array([np.nan]))` is False."""
    return all(np.isfinite(part).all() for part in _parts(array))


def _parts(array: Any) -> Iterator[np.ndarray]:
    """An array piece by piece, because computing with all of it at once would take as much memory again."""
    numbers = fetch(array).reshape(-1)
    return (numbers[start : start + CHUNK] for start in range(0, numbers.size, CHUNK))


def _files(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    found = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / SEAL)
    return {path.relative_to(folder).as_posix(): path for path in found}


def _sums(files: dict[str, pathlib.Path]) -> dict[str, list[int]]:
    """Size and CRC-32 of each file."""
    with ThreadPoolExecutor() as pool:  # zlib works outside Python's lock
        return dict(zip(files, pool.map(_sum, files.values()), strict=True))


def _sum(path: pathlib.Path) -> list[int]:
    size = crc = 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            size, crc = size + len(chunk), zlib.crc32(chunk, crc)
    return [size, crc]


def _is_sum(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2
