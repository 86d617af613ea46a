"""Experiment trackers, each an optional extra: what metrics.jsonl gets, they get."""

import pathlib
from typing import Any, Literal, Protocol

from trm_jax.errors import UserError

TrackerName = Literal["none", "tensorboard", "wandb", "trackio"]


class TrackerError(UserError):
    """A tracker that is not installed; the message says how to install it."""


class Tracker(Protocol):
    """Takes numbers by name, batch by batch."""

    def log(self, numbers: dict[str, float], batch: int) -> None: ...

    def close(self) -> None: ...


def open_tracker(name: TrackerName, folder: pathlib.Path, config: dict[str, Any]) -> Tracker | None:
    """The tracker of that name, its run called after the folder. Raises TrackerError."""
    if name == "none":
        return None
    try:
        return _TensorBoard(folder) if name == "tensorboard" else _WeightsAndBiases(name, folder, config)
    except ImportError as error:
        raise TrackerError(f"--track {name} needs {error.name}: pip install 'trm-jax[{name}]'") from None


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
        import importlib

        self._module = importlib.import_module(name)
        # A fixed name and resume: a run that is started again goes on in the same place.
        place = {"dir": str(folder), "id": folder.name} if name == "wandb" else {}
        self._module.init(project="trm_jax", name=folder.name, config=config, resume="allow", **place)

    def log(self, numbers: dict[str, float], batch: int) -> None:
        self._module.log(numbers, step=batch)

    def close(self) -> None:
        self._module.finish()
