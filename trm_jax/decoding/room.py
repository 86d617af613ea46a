"""How many rows a batch can have in the memory that is free, and what to do where it is too little."""

import dataclasses
import logging
import math

import jax.numpy as jnp

from trm_jax.decoding.shapes import TOGETHER, round_up
from trm_jax.decoding.step import DecodeConfig, GenerationError
from trm_jax.hardware import decoding_memory, describe_bytes, free_memory, largest
from trm_jax.model import QwenTRM

MOST_ROWS = 64  # of a batch whose size is not given

_log = logging.getLogger(__name__)


class NoRoomError(GenerationError):
    """A batch whose caches do not fit into the device's memory; the message names the options that would."""


@dataclasses.dataclass(frozen=True)
class Room:
    """What a batch needs of each device: rows of `capacity` tokens, and prompts of `prompt_length`, which is padded.

    Example: `Room(model, config, capacity=736, prompt_length=224).needed(rows=8)`.
    """

    model: QwenTRM
    config: DecodeConfig
    capacity: int
    prompt_length: int
    row_parts: int = 1  # into which a mesh splits the rows
    tensor_parts: int = 1  # and the heads
    together: int = TOGETHER  # prompts that are read at a time: their keys and values exist twice for a moment
    beside: tuple["Room", ...] = ()  # batches of as many rows that share the memory
    options: tuple[str, str] = (
        "--batch-size",
        "--max-new-tokens",
    )  # by which a user asks for rows, and for tokens in them

    def needed(self, rows: int, **others) -> dict[str, int]:
        """Bytes by part, beside the weights; `others` are fields of the recursion's config to be changed."""
        trm = dataclasses.replace(self.model.trm.config, **others)
        together = round_up(min(rows, self.together), self.row_parts)
        shapes = dict(rows=rows, capacity=self.capacity, prompt_rows=together, prompt_length=self.prompt_length)
        backbone, dtype = self.model.backbone, jnp.dtype(self.model.backbone.embedding.dtype)
        parts = dict(row_parts=self.row_parts, tensor_parts=self.tensor_parts)
        needed = decoding_memory(backbone.config, trm, dtype, self.config.kept_passes, **shapes, **parts)
        return needed | {
            f"beside: {room.config.head}": sum(room.needed(rows, **others).values()) for room in self.beside
        }

    def fitting(self, free: int, most: int, **others) -> int:
        """The most rows, up to `most`, that fit into so many bytes; 0 if not even one does."""
        return largest(lambda rows: sum(self.needed(rows, **others).values()) <= free, most)

    def choose_rows(self, wanted: int | None, most: int, samples: int) -> int:
        """The rows of the batch, and logs their memory. Raises NoRoomError.

        They are a multiple of `samples`, and on a mesh of the parts that rows are split into.

        Args:
            wanted: as the user asks for; None: as many as fit, up to MOST_ROWS for each device that has rows of its own.
            most: completions to be made; more rows would stay empty.
        """
        free, parts = free_memory(), self.row_parts
        unit = math.lcm(samples, parts)
        rows = max(min(MOST_ROWS * parts if wanted is None else wanted, most) // samples, 1) * samples
        rows = round_up(rows, unit)
        fitting = self.fitting(free, rows) // unit * unit
        if wanted is None:
            rows = fitting or unit
        if rows > fitting:
            raise NoRoomError(self._refuse(rows, fitting, free, unit))
        _log.info(f"{rows} rows of {self.capacity} tokens: {describe_bytes(self.needed(rows))}")
        return rows

    def _refuse(self, rows: int, fitting: int, free: int, unit: int) -> str:
        needed = describe_bytes(self.needed(rows))
        ways = [f"{self.options[0]} {fitting}, {_size(self.needed(fitting))}"] if fitting else []
        if self.config.kept_passes > 1:
            last = dataclasses.replace(self, config=dataclasses.replace(self.config, kv_cache="last_pass"))
            if found := last.fitting(free, rows) // unit * unit:
                size = _size(last.needed(found))
                ways.append(f"--kv-cache last_pass (an approximation), {size} for {found} rows")
        if self.config.head == "trm":
            heads = self.model.backbone.config.num_kv_heads
            found = self.fitting(free, rows, num_kv_heads=heads) // unit * unit
            if found and self.model.trm.config.kv_heads(self.model.backbone.config) > heads:
                size = _size(self.needed(found, num_kv_heads=heads))
                ways.append(f"a recursion trained with --num-kv-heads {heads}, {size} for {found} rows")
        what = f"{rows} rows of {self.capacity} tokens need {needed}, and {free / 2**30:.3g} GiB are free"
        return f"{what}. What would fit: {'; '.join([*ways, f'fewer {self.options[1]}'])}"


def _size(parts: dict[str, int]) -> str:
    return f"{sum(parts.values()) / 2**30:.3g} GiB"
