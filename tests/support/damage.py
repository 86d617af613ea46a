"""Damage to files that were whole."""

import pathlib


def flip_bit(path: pathlib.Path) -> None:
    """Damage that no size shows."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def largest_data(folder: pathlib.Path) -> pathlib.Path:
    """The file in which Orbax keeps most of a folder's numbers."""
    return max(folder.rglob("d/*"), key=lambda path: path.stat().st_size)
