"""Experiment trackers, each an optional extra, which get the numbers of metrics.jsonl and timings.jsonl."""

import contextlib
import hashlib
import importlib
import pathlib
from collections.abc import Iterator
from typing import Any, Literal, Protocol

from trm_jax.errors import UserError

TrackerName = Literal["none", "tensorboard", "wandb", "trackio"]


class TrackerError(UserError):
    """A tracker that is not installed, or cannot start; the message says what to do."""


class Tracker(Protocol):
    """Takes numbers by name, batch by batch."""

    def log(self, numbers: dict[str, float], batch: int) -> None:
        """Takes the numbers of one batch."""

    def close(self) -> None:
        """Sends what it still holds."""


@contextlib.contextmanager
def open_tracker(name: TrackerName, folder: pathlib.Path, config: dict[str, Any]) -> Iterator[Tracker | None]:
    """Opens the tracker of that name, with a run named after the folder, and closes it at the end. Raises TrackerError.

    Example: `with open_tracker("tensorboard", folder, config) as tracker: ...`
    """
    if name == "none":
        yield None
        return
    try:
        tracker = _TensorBoard(folder) if name == "tensorboard" else _WeightsAndBiases(name, folder, config)
    except ImportError as error:
        raise TrackerError(f"--track {name} needs {error.name}: pip install 'trm-jax[{name}]'") from None
    except Exception as error:  # each has errors of its own, for a missing login or a lost connection
        raise TrackerError(f"--track {name} cannot start; log in, or leave it out: {error}") from error
    with contextlib.closing(tracker):
        yield tracker


def flatten(record: dict[str, Any]) -> dict[str, float]:
    """A metrics record with a name for each number: `loss/1` is the loss after the first supervision step."""
    flat = {}
    for name, value in record.items():
        if isinstance(value, list):
            flat |= {f"{name}/{index}": number for index, number in enumerate(value, 1)}
        elif value is not None:
            flat[name] = value
    return flat


class _TensorBoard:
    def __init__(self, folder: pathlib.Path):
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(str(folder / "tensorboard"))

    def log(self, numbers: dict[str, float], batch: int) -> None:
        for name, number in numbers.items():
            self._writer.add_scalar(name, number, batch)

    def close(self) -> None:
        self._writer.close()


class _WeightsAndBiases:
    """wandb, and trackio, which has the same interface."""

    def __init__(self, name: str, folder: pathlib.Path, config: dict[str, Any]):
        self._module = importlib.import_module(name)
        # A training that is started again continues the same run; other folders of the same name have runs of their own.
        own = f"{folder.name}-{hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:8]}"
        place = {"name": folder.name, "dir": str(folder), "id": own} if name == "wandb" else {"name": own}
        self._module.init(project="trm_jax", config=config, resume="allow", **place)

    def log(self, numbers: dict[str, float], batch: int) -> None:
        self._module.log(numbers, step=batch)

    def close(self) -> None:
        self._module.finish()
