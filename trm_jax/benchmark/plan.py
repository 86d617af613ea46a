"""What a training or an evaluation would need of a card: memory, arithmetic, traffic, launches; without any device.

All figures are worked out from shapes. The kernels of a loop's body were counted in programs compiled for an H100
(tests/cuda). The times are bounds: what each of the three would take at best if nothing else took time.
"""

import dataclasses
import functools
import os
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from trm_jax.benchmark.exchange import NVLINK, describe_exchange
from trm_jax.benchmark.lengths import gsm8k_lengths, random_examples
from trm_jax.benchmark.measure import describe_loops
from trm_jax.benchmark.sizes import abstract_backbone
from trm_jax.benchmark.work import DECODING_KERNELS, TRAINING_KERNELS, Work, call_flops, layer_flops
from trm_jax.config import QwenConfig, TrainConfig, TRMConfig
from trm_jax.data import Batch, Loader
from trm_jax.decoding import CAPACITY_STEP, DecodeConfig, DecodeState, Room, decode_until, padded_length, round_up
from trm_jax.hardware import (
    MLP_RATIO,
    Card,
    Hlo,
    MeshError,
    cache_bytes,
    card_mesh,
    compile_for,
    count_bytes,
    count_weights,
    describe_bytes,
    largest,
    mesh_sizes,
    rows_shardings,
    shardings,
    training_memory,
)
from trm_jax.model import QwenTRM, abstract_trm, cast, for_decoding
from trm_jax.training import CHUNK, ROWS_AT, make_optimizer, make_train_batch, new_state

MOST_BATCH = 4096


def usable_memory(card: Card) -> tuple[float, int]:
    """The share of a card's memory that JAX takes, as the environment says or by default, and its bytes."""
    names = ("XLA_PYTHON_CLIENT_MEM_FRACTION", "XLA_CLIENT_MEM_FRACTION")
    share = float(next((os.environ[name] for name in names if os.environ.get(name)), 0.75))
    return share, int(share * card.memory)


@dataclasses.dataclass(frozen=True)
class TrainingPlan:
    """A training on rows as long as GSM8K's.

    Example: `print(TrainingPlan(SIZES["qwen2.5-math-7b"], TRMConfig.residual(), TrainConfig(), CARDS["h100"]).describe())`.
    """

    backbone_config: QwenConfig
    trm_config: TRMConfig
    train_config: TrainConfig
    card: Card
    gpus: int = 1
    mesh: str | None = None  # of several GPUs; None: all on `data`

    def __post_init__(self):
        rows, parts = self.train_config.batch_size, self._parts[0]
        if rows % parts:
            raise MeshError(f"batches of {rows} rows cannot be split over {parts} GPUs (data x fsdp)")

    @property
    def _parts(self) -> tuple[int, int]:
        """Into how many parts the mesh splits rows, and weights."""
        sizes = mesh_sizes(self.mesh, self.gpus)
        return sizes["data"] * sizes["fsdp"], sizes["fsdp"] * sizes["tensor"]

    @functools.cached_property
    def _weights(self) -> tuple:
        backbone = abstract_backbone(self.backbone_config, self.train_config.dtype)
        return backbone, abstract_trm(backbone, self.trm_config)

    @functools.cached_property
    def shapes(self) -> Mapping[tuple[int, int], int]:
        """The shapes of an epoch's batches, tokens and label slots of a row, and how often each comes."""
        lengths = gsm8k_lengths("train")
        examples = random_examples(lengths[lengths.sum(axis=1) <= self.train_config.max_length], 8)
        loader = Loader(examples, self.train_config.batch_size)
        batches = (loader[number] for number in range(loader.batches_per_epoch))
        shapes, counts = np.unique(
            [(b.tokens.shape[-1], b.labels.shape[-1]) for b in batches], axis=0, return_counts=True
        )
        return {(int(length), int(answer)): int(count) for (length, answer), count in zip(shapes, counts, strict=True)}

    def memory(self, batch_size: int | None = None) -> dict[str, int]:
        """Bytes of each GPU by part, for the longest rows."""
        train = dataclasses.replace(self.train_config, batch_size=batch_size or self.train_config.batch_size)
        longest = max(length for length, _ in self.shapes)
        return training_memory(
            *self._weights, self.backbone_config, self.trm_config, train, longest, CHUNK, *self._parts
        )

    def batch(self, length: int, answer: int) -> Work:
        """One batch of rows of this length, with all its supervision steps.

        Traffic counts weights and the arrays of a block call once for each kernel group that cannot do without them.
        """
        qwen, trm, rows = self.backbone_config, self.trm_config, self.train_config.batch_size
        size, tokens, labels = jnp.dtype(self.train_config.dtype).itemsize, rows * length, rows * answer
        width, trained = qwen.width, count_weights(self._weights[1])
        # A differentiated call is run forward once and backward at twice the cost; the product `up` is computed again.
        without, differentiated = (trm.recursions - 1) * trm.calls, trm.calls
        call = tokens * call_flops(qwen, trm, length / 2)
        again = tokens * 2 * MLP_RATIO * width**2
        logits = 2 * labels * width * qwen.vocab_size * (2 if trm.frozen_head else 3)
        call_bytes = size * (count_weights(block_of(self._weights[1])) + tokens * (10 + 3 * MLP_RATIO) * width)
        kernels = TRAINING_KERNELS
        step = Work(
            flops=call * (without + 3 * differentiated) + again * differentiated + logits,
            bytes=call_bytes * (without + 3 * differentiated) + 40 * trained + 2 * size * qwen.vocab_size * width,
            kernels=kernels["without gradient"] * without
            + kernels["differentiated"] * differentiated
            + kernels["a chunk of logits"] * -(-labels // CHUNK)
            + kernels["a step"],
        )
        layers = Work(
            flops=qwen.num_layers * tokens * layer_flops(qwen, length / 2),
            bytes=size * qwen.num_layers * tokens * (8 * width + 3 * qwen.mlp_width) + count_bytes(self._weights[0]),
            kernels=kernels["a layer"] * qwen.num_layers,
        )
        return layers + step.times(trm.supervision_steps)

    def epoch(self) -> Work:
        """All batches of an epoch."""
        return sum((self.batch(*shape).times(count) for shape, count in self.shapes.items()), Work(0, 0, 0))

    def program(self) -> jax.stages.Compiled:
        """The longest batch, as XLA compiles it for the card, or for each of several."""
        length, answer = max(self.shapes)
        optimizer = make_optimizer(self.train_config, 1)
        backbone, trm = self._weights
        state = jax.eval_shape(functools.partial(new_state, optimizer=optimizer), trm)
        shapes = [(1, self.train_config.batch_size, count) for count in (length, answer, answer)]
        batch = Batch(*(jax.ShapeDtypeStruct(shape, jnp.int32) for shape in shapes))
        train_batch = make_train_batch(optimizer, 0.999, jnp.dtype(self.train_config.dtype))
        if self.gpus == 1:
            return compile_for(self.card, train_batch, state, backbone, batch)
        mesh = card_mesh(self.card, self.gpus, self.mesh)
        placed = [_placed(tree, shardings(tree, mesh)) for tree in (state, backbone)]
        placed.append(_placed(batch, rows_shardings(batch, mesh, ROWS_AT)))
        return compile_for(self.card, train_batch, *placed, mesh=mesh)

    def compile(self, link: float = NVLINK) -> str:
        """Peak memory and kernels of the longest batch, as XLA compiles it for the card.

        With several GPUs also what they exchange, and how long that takes at best over a `link`, bytes/s that each can send.
        """
        program = self.program()
        said = _describe_compiled(program, "a batch")
        return said if self.gpus == 1 else f"{said}\n{describe_exchange(Hlo(program.as_text()), self.gpus, link)}"

    def describe(self) -> str:
        """The plan, for a person."""
        batches, train = sum(self.shapes.values()), self.train_config
        parts, usable = self._parts[0], usable_memory(self.card)[1]
        most = parts * largest(lambda rows: sum(self.memory(rows * parts).values()) <= usable, MOST_BATCH)
        rows = f"at most --batch-size {most}" if most else "not even one row fits"
        head = f"training, {describe_loops(self.trm_config)}, {train.dtype}, batches of {train.batch_size}"
        several = "" if self.gpus == 1 else f"{self.gpus} x "
        lines = [
            f"{head}, on {several}{self.card.name}",
            f"memory       {describe_bytes(self.memory())}, worked out{' for each' if several else ''}",
            f"             {_describe_fit(self.memory(), self.card)}; {rows}",
        ]
        if not several:
            lines.append(f"an epoch     {batches} batches, worked out: {self.epoch().describe(self.card)}")
        return "\n".join(lines)


@dataclasses.dataclass(frozen=True)
class DecodingPlan:
    """An evaluation on questions and answers as long as those of GSM8K's test set.

    Example: `print(DecodingPlan(SIZES["qwen2.5-math-7b"], TRMConfig.residual(), config, CARDS["h100"]).describe())`.
    """

    backbone_config: QwenConfig
    trm_config: TRMConfig
    config: DecodeConfig
    card: Card
    dtype: str = "bfloat16"
    batch_size: int | None = None  # None: as many rows as fit
    max_new_tokens: int = 512

    @functools.cached_property
    def model(self) -> QwenTRM:
        """The model with shapes in place of arrays."""
        backbone = abstract_backbone(self.backbone_config, self.dtype)
        trm = jax.eval_shape(functools.partial(cast, dtype=self.dtype), abstract_trm(backbone, self.trm_config))
        return QwenTRM(backbone, trm)

    @functools.cached_property
    def room(self) -> Room:
        """The room that the longest question of the test set needs."""
        longest = int(gsm8k_lengths("test")[:, 0].max())
        capacity = round_up(longest + self.max_new_tokens, CAPACITY_STEP)
        return Room(self.model, self.config, capacity, padded_length(longest))

    @functools.cached_property
    def rows(self) -> int:
        """Rows of a batch: as asked for, or as many as fit; 0 if not even one does."""
        free = usable_memory(self.card)[1] - count_bytes(self.model)
        return self.batch_size or self.room.fitting(free, 64)

    def memory(self) -> dict[str, int]:
        """Bytes by part; for one row if none fits."""
        return {"weights": count_bytes(self.model)} | self.room.needed(max(self.rows, 1))

    def step(self) -> Work:
        """One new token in every row, with caches that are filled as in the middle of the median answer."""
        qwen, trm, rows = self.backbone_config, self.model.trm, max(self.rows, 1)
        prompt, answer = np.median(gsm8k_lengths("test"), axis=0)
        filled, passes = prompt + answer / 2, len(self.config.passes) if self.config.head == "trm" else 0
        head = 2 * qwen.width * qwen.vocab_size
        flops = qwen.num_layers * layer_flops(qwen, filled) + head
        flops += passes * self.trm_config.calls * call_flops(qwen, self.trm_config, filled)
        read = count_bytes(self.model.backbone)
        if not qwen.tied_head:
            read -= count_bytes(self.model.backbone.embedding)  # of which only a row is read
        read += passes * self.trm_config.calls * count_bytes(block_of(trm))
        read += rows * filled * cache_bytes(qwen, self.trm_config, self.dtype, passes)
        kernels = DECODING_KERNELS["a token"] + DECODING_KERNELS["a layer"] * qwen.num_layers
        kernels += DECODING_KERNELS["a block call"] * passes * self.trm_config.calls
        return Work(rows * flops, read, kernels)

    def compile(self) -> str:
        """Peak memory and kernels of a decoded token, as XLA compiles it for the card."""
        model = jax.eval_shape(functools.partial(for_decoding, platform="cuda"), self.model)
        shape = max(self.rows, 1), self.room.capacity, self.max_new_tokens
        state = jax.eval_shape(lambda: DecodeState.empty(model, self.config, *shape))
        finished = jax.ShapeDtypeStruct((), jnp.int32)
        return _describe_compiled(
            compile_for(self.card, decode_until, model, state, finished, config=self.config), "a token"
        )

    def describe(self) -> str:
        """The plan, for a person."""
        tokens = int(gsm8k_lengths("test")[:, 1].sum())
        rows, step = max(self.rows, 1), self.step()
        loops = describe_loops(self.trm_config)
        head = f"evaluation, head {self.config.head}, cache {self.config.kv_cache}, {loops}, {self.dtype}"
        whole = step.times(tokens / rows).describe(self.card)
        return "\n".join(
            [
                f"{head}, {rows} rows of {self.room.capacity} tokens, on {self.card.name}",
                f"memory       {describe_bytes(self.memory())}, worked out",
                f"             {_describe_fit(self.memory(), self.card)}",
                f"a token      of each row, worked out: {step.describe(self.card)}",
                f"GSM8K's test {tokens:,} tokens of 1,319 answers, without reading the prompts: {whole}",
            ]
        )


def _placed(tree, places):
    return jax.tree.map(lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), tree, places)


def block_of(trm):
    """The weights that one block call reads."""
    return trm.calls[0]


def _describe_fit(memory: Mapping[str, int], card: Card) -> str:
    share, usable = usable_memory(card)
    needed = sum(memory.values())
    taken = f"JAX takes {usable / 2**30:.1f} GiB, {share:.2f} of the card"
    if needed <= usable:
        return f"fits: {taken}"
    if needed <= 0.97 * card.memory:
        return f"does not fit: {taken}; XLA_PYTHON_CLIENT_MEM_FRACTION={needed / card.memory + 0.005:.2f} would do"
    return f"does not fit: {taken} of {card.memory / 2**30:.1f}"


def _describe_compiled(compiled: jax.stages.Compiled, unit: str) -> str:
    peak = compiled.memory_analysis().peak_memory_in_bytes
    return f"compiled     {peak / 2**30:.3g} GiB, {Hlo(compiled.as_text()).launches():,} kernels {unit}"
