"""Puts a model in the place of another: what is in its folder beside it stays, and nothing that goes wrong costs either."""

import contextlib
import os
import pathlib
import shutil
from collections.abc import Iterable, Iterator

from trm_jax.checkpoints.folders import CheckpointError, kind_of
from trm_jax.files import locked

# What a model folder consists of; all else in it stays when the model is replaced, such as evaluations. config.json is
# the last to come and the first to go: a folder without one is no model.
ENTRIES = ("backbone", "trm", "ema", "tokenizer", "config.json")
LOCK, NEW, OLD = ".lock", ".converting", ".replaced"  # in a model folder, while one is written


@contextlib.contextmanager
def replacing(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields a temporary folder to write a model into, which takes the place of the one in `folder` if no error is raised.

    What else lies in `folder` stays. It may be a link to a folder, or where a disk is mounted.

    Raises CheckpointError if `folder` holds something, but no model, BusyError if another process writes it.

    Example: `with replacing(folder) as new: (new / "config.json").write_text(text)`.
    """
    place = folder.resolve()
    is_new = not place.exists()
    if not is_new and not _may_hold_model(place):
        raise CheckpointError(f"{folder} holds something else than a model: give another --output, or remove it")
    new = place / NEW
    with locked(place / LOCK, folder):
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir()
        try:
            yield new
            _put_in_place(new, place)
        except BaseException:
            shutil.rmtree(new, ignore_errors=True)
            if is_new:
                with contextlib.suppress(OSError):  # such as of a network disk, where the lock stays while it is held
                    (place / LOCK).unlink()
                    place.rmdir()
            raise


def _may_hold_model(folder: pathlib.Path) -> bool:
    """Whether a folder holds a model, what a kill has left of writing one, or nothing."""
    if not folder.is_dir():
        return False
    names = {path.name for path in folder.iterdir()} - {LOCK, "lost+found"}  # the latter where a disk is mounted
    return not names or NEW in names or OLD in names or kind_of(folder) == "model"


def _put_in_place(new: pathlib.Path, folder: pathlib.Path) -> None:
    """Moves what is in `new` up into its folder, and what it replaces away; only a kill in between leaves no model."""
    old = folder / OLD
    shutil.rmtree(old, ignore_errors=True)
    old.mkdir()
    with contextlib.ExitStack() as undo:
        undo.callback(_move, old, folder, ENTRIES)
        _move(folder, old, ENTRIES[::-1])
        undo.callback(_move, folder, new, ENTRIES[::-1])
        _move(new, folder, ENTRIES)
        undo.pop_all()
    for left in (old, new):
        shutil.rmtree(left, ignore_errors=True)


def _move(source: pathlib.Path, target: pathlib.Path, names: Iterable[str]) -> None:
    for name in names:
        if (source / name).exists():
            os.replace(source / name, target / name)
