"""The training states of a run, as checkpoints in its folder: written while training goes on, sealed, checked when read."""

import logging
import os
import pathlib
import shutil
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from trm_jax.checkpoints.folders import CheckpointError
from trm_jax.checkpoints.integrity import SEAL, DamageError, require_sealed, seal
from trm_jax.errors import listing
from trm_jax.model import named_weights, with_weights
from trm_jax.processes import first_only, first_says, is_first

HELD_OUT_LOSS = "held_out_loss"  # of the EMA weights after each supervision step, nats a token; the last one rates

_log = logging.getLogger(__name__)


class Checkpoints:
    """The training states of a folder, numbered by the batches consumed.

    The newest `keep` stay, and the one with the lowest held-out loss. A state is copied to main memory, then written while
    training goes on; it counts only once it is whole. Damaged ones that are newer than the newest whole one are renamed.
    Raises CheckpointError if there are checkpoints and none is whole.
    """

    def __init__(self, folder: pathlib.Path, keep: int = 2):
        _put_damaged_aside(folder)
        first_says()  # the others wait for that
        policies = ocp.training.preservation_policies
        best = policies.BestN(
            get_metric_fn=lambda metrics: metrics[HELD_OUT_LOSS][-1],
            reverse=True,  # the lowest
            n=1,
            keep_checkpoints_without_metrics=False,
        )
        self._checkpointer = ocp.training.Checkpointer(
            (folder / "checkpoints").absolute(),
            preservation_policy=policies.AnyPreservationPolicy([policies.LatestN(keep), best]),
            cleanup_tmp_directories=True,  # what a killed run was writing
        )
        self._folder = folder
        self._thread = ThreadPoolExecutor(1)
        self._saving: tuple[int, Future] | None = None

    def __enter__(self):
        return self

    def __exit__(self, *error) -> None:
        self._thread.shutdown()
        self._checkpointer.close()

    @property
    def latest(self) -> int | None:
        latest = self._checkpointer.latest
        return None if latest is None else latest.step

    @property
    def best(self) -> int | None:
        """The number of the checkpoint with the lowest held-out loss."""
        rated = {c.step: c.metrics[HELD_OUT_LOSS][-1] for c in self._checkpointer.checkpoints if c.metrics}
        return min(rated, key=rated.get) if rated else None

    def path(self, batches: int) -> pathlib.Path:
        return self._folder / "checkpoints" / str(batches)

    def save(self, batches: int, state: Any, metrics: Mapping[str, list[float]] | None = None) -> None:
        """Starts to write a state, once the one before is written. The caller may donate the state at once.

        `metrics` may hold the state's HELD_OUT_LOSS. Raises CheckpointError if this state or the last cannot be written.
        """
        self.wait()
        if self.latest == batches:
            return
        try:
            written = self._checkpointer.save_async(batches, named_weights(state), force=True, metrics=metrics or None)
        except Exception as error:
            raise self._not_saved(batches, error) from error
        self._saving = batches, self._thread.submit(self._finish, written, self.path(batches))

    def wait(self) -> None:
        """Waits until what was saved is on the disk. Raises CheckpointError if it could not be written."""
        if self._saving is None:
            return
        (batches, saving), self._saving = self._saving, None
        try:
            saving.result()
        except Exception as error:  # of Orbax, TensorStore or the system, each of its own kind
            raise self._not_saved(batches, error) from error

    @staticmethod
    def _finish(written, folder: pathlib.Path) -> None:
        written.result()
        if is_first():
            seal(folder)

    def _not_saved(self, batches: int, error: Exception) -> CheckpointError:
        reason = str(error).splitlines()[0] if str(error) else repr(error)
        return CheckpointError(
            f"checkpoint {self.path(batches)} could not be saved ({reason}); those before it stay, and the same command "
            "goes on from there once there is room"
        )

    def restore(self, state: Any) -> Any:
        """The newest state. Raises CheckpointError unless it has the names, shapes and types of `state`."""
        wanted = named_weights(state)
        require_same_weights(self.path(self.latest), wanted)
        return with_weights(state, self._checkpointer.load(self.latest, wanted))


@first_only
def _put_damaged_aside(folder: pathlib.Path) -> None:
    _, damaged = newest_sound(folder / "checkpoints")
    for number in damaged:
        place = folder / "checkpoints" / str(number)
        aside = folder / f"damaged-checkpoint-{number}"
        shutil.rmtree(aside, ignore_errors=True)
        os.replace(place, aside)


def newest_sound(folder: pathlib.Path) -> tuple[int | None, list[int]]:
    """The number of the newest checkpoint that is whole, and of the damaged newer ones, each of which is logged.

    Raises CheckpointError if there are checkpoints and all of them are damaged.

    Example: `newest_sound(folder / "checkpoints")` is `(600, [])`.
    """
    damaged = []
    for number in sorted(checkpoint_numbers(folder), reverse=True):
        fault = fault_of(folder / str(number))
        if fault is None:
            return number, damaged
        _log.warning("%s; it is skipped", fault)
        damaged.append(number)
    if damaged:
        raise CheckpointError(f"all checkpoints in {folder} are damaged: remove them to start again from nothing")
    return None, []


def checkpoint_numbers(folder: pathlib.Path) -> list[int]:
    return sorted(int(path.name) for path in folder.glob("*") if path.name.isdecimal() and path.is_dir())


def fault_of(checkpoint: pathlib.Path) -> str | None:
    """What is wrong with a checkpoint; None if it is whole."""
    try:
        if (checkpoint / SEAL).is_file():
            require_sealed(checkpoint)
        else:
            # The run was killed after Orbax had put the checkpoint in its place and before it was sealed.
            _read_alone(checkpoint)
    except DamageError as error:
        return f"checkpoint {error}"
    except Exception as error:  # whatever Orbax meets in a damaged folder
        return f"checkpoint {checkpoint} is damaged: {str(error).splitlines()[0]}"
    return None


def _read_alone(checkpoint: pathlib.Path) -> None:
    """Reads all of a checkpoint, whatever devices it was on, into the host's memory, and waits for no other process."""
    context = ocp.Context()
    context.multiprocessing.primary_host = jax.process_index()
    context.multiprocessing.active_processes = {jax.process_index()}
    context.multiprocessing.barrier_sync_key_prefix = str(jax.process_index())
    with context:
        weights = ocp.metadata(checkpoint.absolute()).metadata
        ocp.load(checkpoint.absolute(), {name: np.empty(found.shape, found.dtype) for name, found in weights.items()})


def require_same_weights(checkpoint: pathlib.Path, wanted: Mapping[str, Any], subset: bool = False) -> None:
    """Raises CheckpointError unless a checkpoint has these weights, and with `subset` False no others: Orbax would cast."""
    found = ocp.metadata(checkpoint.absolute()).metadata
    faults = [f"{name} is missing" for name in wanted if name not in found]
    faults += [] if subset else [f"{name} is not part of this run" for name in found if name not in wanted]
    for name in wanted.keys() & found.keys():
        there, here = (f"{w.dtype}{list(w.shape)}" for w in (found[name], wanted[name]))
        faults += [f"{name} is {there}, expected {here}"] if there != here else []
    if faults:
        raise CheckpointError(f"{checkpoint} is of another model: {listing(faults)}")
