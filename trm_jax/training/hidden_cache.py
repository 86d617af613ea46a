"""The backbone's hidden states of a run's rows on disk: computed once, because the backbone is frozen.

They are kept for each length that a row is padded to in a run, and computed by the program, in the shapes, in which a
training without the cache computes them: so they are the same bit for bit.

    <cache folder>/hidden/<identity>/       one for each backbone, type, batch size and kind of device
      last/000000/, levels/000000/, ...     parts, each whole and sealed, or not there
        index.json                          the entries in it: a digest of a row's tokens, padded length, tokens
        states                              their numbers, one entry behind the other
"""

import dataclasses
import functools
import hashlib
import json
import logging
import os
import pathlib
import resource
import shutil
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from trm_jax.checkpoints import DamageError, ModelFolder, require_sealed, seal
from trm_jax.config import TrainConfig, TRMConfig
from trm_jax.data import Example, Loader, TrainingSet
from trm_jax.errors import UserError
from trm_jax.files import cache_folder, locked, write_whole
from trm_jax.hardware import describe_mesh, fetch, put_rows
from trm_jax.model import NUM_LEVELS, Hidden, Qwen, is_fused
from trm_jax.processes import several
from trm_jax.training.hidden_states import hidden_states, put_hidden

FORMAT = 1  # of the files, and of how the states are computed
PART = 2**28  # bytes after which a part is written
INDEX, STATES = "index.json", "states"

Entry = tuple[str, int]  # a digest of the row's tokens, and the length that it is padded to

_log = logging.getLogger(__name__)


class HiddenCacheError(UserError):
    """Hidden states that cannot be kept on disk; the message says what to do."""


@dataclasses.dataclass(frozen=True)
class HiddenCache:
    """The hidden states that a run needs, and where they are kept.

    Example: `cache = HiddenCache.of(model, trm, train, training_set, num_batches)`, `cache.fill(backbone)`, and then
    `cache.read(training_set.loader, 0)`.
    """

    folder: pathlib.Path
    needed: dict[Entry, np.ndarray]  # the tokens of each row, by entry
    batch_size: int
    dtype: str
    width: int
    kinds: dict[str, int]  # `last`, and `levels` where the recursion mixes them: states of a token

    @classmethod
    def of(
        cls, model: ModelFolder, trm: TRMConfig, train: TrainConfig, training_set: TrainingSet, num_batches: int
    ) -> Self:
        """What a run of so many batches needs. Raises HiddenCacheError for a stream of rows, and for several processes."""
        if several():
            raise HiddenCacheError("--cache-hidden works in one process, on however many devices it has; leave it out")
        loader, held_out = training_set.loader, training_set.held_out
        if not isinstance(loader, Loader):
            raise HiddenCacheError(
                "--cache-hidden: a stream does not tell which rows will come; leave one of the two out"
            )
        numbers = [(loader, range(num_batches))]
        if held_out is not None:
            numbers.append((held_out, range(held_out.batches_per_epoch)))
        needed = {
            _entry(row, bucket.length): row.tokens
            for own, those in numbers
            for rows, bucket in map(own.rows, those)
            for row in rows
        }
        kinds = {"last": 1} | ({"levels": NUM_LEVELS} if trm.context == "mix" else {})
        identity = {
            "format": FORMAT,
            "backbone": [model.backbone_fingerprint, model.backbone_config.to_json()],
            "dtype": train.dtype,
            "batch_size": train.batch_size,
            # Which kernels compute, and in what order they add up.
            "device": [jax.default_backend(), jax.devices()[0].device_kind, describe_mesh({}), jax.__version__],
            "fused": jax.default_backend() == "gpu" and is_fused(),
        }
        digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]
        place = cache_folder() / "hidden" / digest
        return cls(place, needed, train.batch_size, train.dtype, model.backbone_config.width, kinds)

    @property
    def total_bytes(self) -> int:
        """Of all states that the run needs."""
        return self._bytes(dict.fromkeys(self.kinds, self.needed))

    @property
    def missing_bytes(self) -> int:
        """Of those that are not on disk yet."""
        return self._bytes(self._missing)

    def describe(self) -> str:
        """Tells the user how large the states are, and where they are kept."""
        missing = self.missing_bytes
        left = f", {missing / 1e9:.3g} GB of them to be written" if missing else ", all of them there"
        return f"{self.total_bytes / 1e9:.3g} GB in {self.folder}{left}"

    def require_disk(self) -> None:
        """Raises HiddenCacheError if the disk has too little room for what is to be written."""
        self.folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.folder).free
        if (missing := self.missing_bytes) > free:
            raise HiddenCacheError(
                f"--cache-hidden: {missing / 1e9:.3g} GB of hidden states are to be written to {self.folder}, where "
                f"{free / 1e9:.3g} GB are free: make room, set XDG_CACHE_HOME to a larger disk, or leave the option out"
            )

    def fill(self, backbone: Qwen) -> None:
        """Computes what is missing and writes it, part by part; a kill loses the part that was not whole yet.

        Raises HiddenCacheError before anything is computed if the disk is too small.
        """
        with locked(self.folder / ".lock", self.folder, wait=True):
            self._forget()  # another process may have written since
            self.require_disk()
            missing = self._missing
            parts = {kind: _NewPart(self.folder / kind) for kind in self.kinds}
            entries = list(dict.fromkeys(entry for kind in self.kinds for entry in missing[kind]))
            with tqdm(total=len(entries), desc="hidden states", unit="row") as bar:
                for entry, states in self._compute(backbone, entries):
                    for kind, part in parts.items():
                        if entry in missing[kind]:
                            part.add(entry, states[kind])
                    bar.update()
            for part in parts.values():
                part.write()
        self._forget()

    def read(self, loader: Loader, number: int) -> Hidden:
        """The hidden states of a batch on the devices, as `put_hidden` puts them; those of padding are zeros."""
        rows, bucket = loader.rows(number)
        found = {}
        for kind, count in self.kinds.items():
            parts, size = loader.shape
            states = np.zeros((parts, count, size, bucket.length, self.width), jnp.dtype(self.dtype))
            for slot, row in enumerate(rows):
                there = self._there[kind][_entry(row, bucket.length)]
                states[slot // size, :, slot % size, : len(there)] = np.swapaxes(there, 0, 1)
            found[kind] = states
        return put_hidden(Hidden(found["last"][:, 0], found.get("levels")))

    @functools.cached_property
    def _there(self) -> dict[str, dict[Entry, np.ndarray]]:
        """What is on disk, by kind and entry: [tokens, states of a token, D], mapped into memory."""
        _allow_many_files()  # each part is one
        return {kind: dict(self._entries(kind)) for kind in self.kinds}

    @property
    def _missing(self) -> dict[str, list[Entry]]:
        return {kind: [one for one in self.needed if one not in self._there[kind]] for kind in self.kinds}

    def _forget(self) -> None:
        self.__dict__.pop("_there", None)

    def _bytes(self, entries: dict[str, Iterable[Entry]]) -> int:
        tokens = {kind: sum(len(self.needed[entry]) for entry in those) for kind, those in entries.items()}
        size = self.width * jnp.dtype(self.dtype).itemsize
        return sum(count * self.kinds[kind] * size for kind, count in tokens.items())

    def _entries(self, kind: str) -> Iterator[tuple[Entry, np.ndarray]]:
        """All entries in the parts that hold one that is needed; what is damaged is removed, and so made anew."""
        for part in sorted(path for path in self.folder.glob(f"{kind}/*") if path.name.isdecimal()):
            try:
                index = [(tuple(entry), count) for entry, count in json.loads((part / INDEX).read_bytes())]
                if all(entry not in self.needed for entry, _ in index):
                    continue
                require_sealed(part)
            except (DamageError, OSError, TypeError, ValueError) as fault:
                _log.warning("%s; its hidden states are computed again", fault)
                shutil.rmtree(part, ignore_errors=True)  # another process may be removing it, too
                continue
            shape = (sum(count for _, count in index), self.kinds[kind], self.width)
            states, start = np.memmap(part / STATES, jnp.dtype(self.dtype), "r", shape=shape), 0
            for entry, count in index:
                yield entry, states[start : start + count]
                start += count

    def _compute(self, backbone: Qwen, entries: Sequence[Entry]) -> Iterator[tuple[Entry, dict[str, np.ndarray]]]:
        """The states of rows, by kind, computed in batches of the shapes of the training."""
        for length in sorted({length for _, length in entries}):
            those = [entry for entry in entries if entry[1] == length]
            for start in range(0, len(those), self.batch_size):
                batch = those[start : start + self.batch_size]
                tokens = np.zeros((self.batch_size, length), np.int32)
                for slot, entry in enumerate(batch):
                    tokens[slot, : len(self.needed[entry])] = self.needed[entry]
                last, levels = (fetch(states)[0] for states in hidden_states(backbone, put_rows(tokens)))
                found = {"last": last[:, :, None], "levels": np.moveaxis(levels, 0, 2)}  # [B, S, states of a token, D]
                for slot, entry in enumerate(batch):
                    yield entry, {kind: found[kind][slot, : len(self.needed[entry])] for kind in self.kinds}


def _allow_many_files() -> None:
    """Lets this process open as many files as the system allows it; often it is 1,024 unless one asks for more."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _entry(row: Example, length: int) -> Entry:
    return hashlib.sha256(row.tokens.tobytes()).hexdigest()[:32], length


class _NewPart:
    """Entries that are collected until they are as large as a part."""

    def __init__(self, folder: pathlib.Path):
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._entries: list[tuple[Entry, np.ndarray]] = []
        self._bytes = 0

    def add(self, entry: Entry, states: np.ndarray) -> None:
        self._entries.append((entry, states))
        self._bytes += states.nbytes
        if self._bytes >= PART:
            self.write()

    def write(self) -> None:
        """Writes a part beside the others; it is named once it is whole."""
        if not self._entries:
            return
        partial = self._folder / "partial"
        shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
        partial.mkdir()
        with (partial / STATES).open("wb") as file:
            for _, states in self._entries:
                file.write(np.ascontiguousarray(states).view(np.uint8))
        index: list[Any] = [[entry, len(states)] for entry, states in self._entries]
        write_whole(partial / INDEX, json.dumps(index) + "\n")
        seal(partial)
        numbers = [int(path.name) for path in self._folder.iterdir() if path.name.isdecimal()]
        os.replace(partial, self._folder / f"{max(numbers, default=-1) + 1:06d}")
        self._entries, self._bytes = [], 0
