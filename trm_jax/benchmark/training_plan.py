"""What a training would need of a card: memory, arithmetic, traffic, launches; without any device.

All figures are worked out from shapes. The kernels of a loop's body were counted in programs compiled for an H100
(tests/cuda). The times are bounds: what each of the three would take at best if nothing else took time.
"""

import dataclasses
import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from trm_jax.benchmark.card_fit import block_of, describe_compiled, describe_plan, placed, usable_memory
from trm_jax.benchmark.exchange import NVLINK, describe_exchange
from trm_jax.benchmark.lengths import gsm8k_lengths, random_examples
from trm_jax.benchmark.measure import describe_loops
from trm_jax.benchmark.sizes import abstract_backbone
from trm_jax.benchmark.work import TRAINING_KERNELS, Work, call_flops, layer_flops
from trm_jax.config import QwenConfig, TrainConfig, TRMConfig
from trm_jax.data import Batch, Loader
from trm_jax.errors import UserError
from trm_jax.hardware import (
    MLP_RATIO,
    Card,
    Hlo,
    MeshError,
    card_mesh,
    compile_for,
    count_bytes,
    count_weights,
    largest,
    mesh_sizes,
    rows_shardings,
    shardings,
    training_memory,
)
from trm_jax.model import NUM_LEVELS, Hidden, abstract_trm, without_layers
from trm_jax.training import (
    CHUNK,
    LEVELS_ROWS_AT,
    ROWS_AT,
    early_states,
    make_optimizer,
    make_train_batch,
    new_state,
)

MOST_BATCH = 4096


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
    cache_hidden: bool = False  # the backbone's hidden states come from disk, and its layers are not there

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
        trm = abstract_trm(backbone, self.trm_config)
        return without_layers(backbone) if self.cache_hidden else backbone, trm

    @property
    def _states(self) -> int:
        """Hidden states of a token that the recursion sees."""
        return 1 + NUM_LEVELS if self.trm_config.context == "mix" else 1

    @property
    def _rows(self) -> tuple[int, int]:
        """The micro-batches of a batch, and the rows of each."""
        return self.train_config.accumulation, self.train_config.batch_size

    @property
    def disk(self) -> int:
        """Bytes of the hidden states on disk; rows that are padded to two lengths come once more."""
        lengths = gsm8k_lengths("train").sum(axis=1)
        tokens = int(lengths[lengths <= self.train_config.max_length].sum())
        return tokens * self._states * self.backbone_config.width * jnp.dtype(self.train_config.dtype).itemsize

    @functools.cached_property
    def shapes(self) -> Mapping[tuple[int, int], int]:
        """The shapes of an epoch's batches, tokens and label slots of a row, and how often each comes."""
        lengths, longest = gsm8k_lengths("train"), self.train_config.max_length
        short = lengths[lengths.sum(axis=1) <= longest]
        if not len(short):
            raise UserError(f"no row of GSM8K has only {longest} tokens: raise --max-length")
        examples = random_examples(short, 8)
        loader = Loader(examples, self.train_config.batch_size, self.train_config.accumulation)
        batches = (loader[number] for number in range(loader.batches_per_epoch))
        shapes, counts = np.unique(
            [(b.tokens.shape[-1], b.labels.shape[-1]) for b in batches], axis=0, return_counts=True
        )
        return {(int(length), int(answer)): int(count) for (length, answer), count in zip(shapes, counts, strict=True)}

    def memory(self, batch_size: int | None = None) -> dict[str, int]:
        """Bytes of each GPU by part, for the longest rows."""
        train = dataclasses.replace(self.train_config, batch_size=batch_size or self.train_config.batch_size)
        longest = max(length for length, _ in self.shapes)
        early = early_states(self.trm_config.context == "mix", train.accumulation, self.cache_hidden)
        sizes = longest, CHUNK, *self._parts, early
        return training_memory(*self._weights, self.backbone_config, self.trm_config, train, *sizes)

    def batch(self, length: int, answer: int) -> Work:
        """One batch of rows of this length, all its micro-batches with all their supervision steps.

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
        kernels, parts = TRAINING_KERNELS, self.train_config.accumulation
        gradients = Work(
            flops=call * (without + 3 * differentiated) + again * differentiated + logits,
            bytes=call_bytes * (without + 3 * differentiated)
            + 2 * size * qwen.vocab_size * width
            + (12 * trained if parts > 1 else 0),  # added to those of the micro-batches before
            kernels=kernels["without gradient"] * without
            + kernels["differentiated"] * differentiated
            + kernels["a chunk of logits"] * -(-labels // CHUNK),
        )
        update = Work(flops=0, bytes=40 * trained, kernels=kernels["a step"])
        steps = (gradients.times(parts) + update).times(trm.supervision_steps)
        if self.cache_hidden:
            return steps
        layers = Work(
            flops=qwen.num_layers * tokens * layer_flops(qwen, length / 2),
            bytes=size * qwen.num_layers * tokens * (8 * width + 3 * qwen.mlp_width) + count_bytes(self._weights[0]),
            kernels=kernels["a layer"] * qwen.num_layers,
        )
        return layers.times(parts) + steps

    def epoch(self) -> Work:
        """All batches of an epoch."""
        return sum((self.batch(*shape).times(count) for shape, count in self.shapes.items()), Work(0, 0, 0))

    def program(self) -> jax.stages.Compiled:
        """The longest batch, as XLA compiles it for the card, or for each of several."""
        length, answer = max(self.shapes)
        optimizer = make_optimizer(self.train_config, 1)
        backbone, trm = self._weights
        state = jax.eval_shape(functools.partial(new_state, optimizer=optimizer), trm)
        shapes = [(*self._rows, count) for count in (length, answer, answer)]
        batch = Batch(*(jax.ShapeDtypeStruct(shape, jnp.int32) for shape in shapes))
        train_batch = make_train_batch(optimizer, 0.999, jnp.dtype(self.train_config.dtype))
        hidden = self._hidden(length) if self.cache_hidden else None
        if self.gpus == 1:
            return compile_for(self.card, train_batch, state, backbone, batch, None, hidden)
        mesh = card_mesh(self.card, self.gpus, self.mesh)
        arguments = [placed(tree, shardings(tree, mesh)) for tree in (state, backbone)]
        arguments.append(placed(batch, rows_shardings(batch, mesh, ROWS_AT)))
        if hidden is not None:
            rows_at = Hidden(ROWS_AT, None if hidden.levels is None else LEVELS_ROWS_AT)
            places = jax.tree.map(lambda array, at: rows_shardings(array, mesh, at), hidden, rows_at)
            arguments += [None, placed(hidden, places)]
        return compile_for(self.card, train_batch, *arguments, mesh=mesh)

    def _hidden(self, length: int) -> Hidden:
        """The shapes of a batch's hidden states."""
        parts, rows = self._rows
        shape, dtype = (rows, length, self.backbone_config.width), self.train_config.dtype
        levels = jax.ShapeDtypeStruct((parts, NUM_LEVELS, *shape), dtype) if self._states > 1 else None
        return Hidden(jax.ShapeDtypeStruct((parts, *shape), dtype), levels)

    def compile(self, link: float = NVLINK) -> str:
        """Peak memory and kernels of the longest batch, as XLA compiles it for the card.

        With several GPUs also what they exchange, and how long that takes at best over a `link`, bytes/s that each can send.
        """
        program = self.program()
        said = describe_compiled(program, "a batch")
        return said if self.gpus == 1 else f"{said}\n{describe_exchange(Hlo(program.as_text()), self.gpus, link)}"

    def describe(self) -> str:
        """The plan, for a person."""
        batches, train = sum(self.shapes.values()), self.train_config
        parts, usable = self._parts[0], usable_memory(self.card)[1]
        most = parts * largest(lambda rows: sum(self.memory(rows * parts).values()) <= usable, MOST_BATCH)
        rows = f"at most --batch-size {most}" if most else "not even one row fits"
        several = f"{train.accumulation} x " if train.accumulation > 1 else ""
        head = f"training, {describe_loops(self.trm_config)}, {train.dtype}, batches of {several}{train.batch_size}"
        *lines, fit = describe_plan(head, self.memory(), self.card, self.gpus)
        lines.append(f"{fit}; {rows}")
        if self.cache_hidden:
            lines.append(f"disk         {self.disk / 1e9:.3g} GB of hidden states")
        if self.gpus == 1:
            lines.append(f"an epoch     {batches} batches, worked out: {self.epoch().describe(self.card)}")
        return "\n".join(lines)
