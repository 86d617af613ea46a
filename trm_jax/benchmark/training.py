"""Times training, on batches of random tokens with the lengths of real rows."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from trm_jax.benchmark.lengths import gsm8k_lengths, random_examples
from trm_jax.benchmark.measure import OURS, describe_loops, matmul_rate, time_in_turns
from trm_jax.benchmark.sizes import abstract_backbone, random_backbone
from trm_jax.config import QwenConfig, TrainConfig, TRMConfig
from trm_jax.data import NO_LABEL, Batch, Loader
from trm_jax.hardware import (
    Programs,
    count_flops,
    describe_device,
    peak_memory,
    put_rows,
    put_weights,
    row_parts,
    tensor_parts,
    training_memory,
    weight_parts,
)
from trm_jax.model import Qwen, abstract_trm, new_trm, without_layers
from trm_jax.training import CHUNK, ROWS_AT, Computed, early_states, make_optimizer, make_train_batch, new_state

OPTIMIZER_STEPS = 10_000  # of the schedule; any number will do

# Makes other programs that do the same, by their names: each is a function of a batch that returns when it is done.
MakePeers = Callable[[Qwen, TRMConfig, TrainConfig], Mapping[str, Callable[[Batch], None]]]


def gsm8k_loader(config: QwenConfig, batch_size: int) -> Loader:
    """An epoch over rows as long as GSM8K's, in the shuffled order of training."""
    return Loader(random_examples(gsm8k_lengths("train"), config.vocab_size), batch_size)


class Training:
    """What `train.py` does with a batch, as a call that returns when it is done."""

    def __init__(self, backbone: Qwen, trm_config: TRMConfig, train_config: TrainConfig):
        optimizer = make_optimizer(train_config, OPTIMIZER_STEPS)
        self._backbone = backbone
        self._state = put_weights(new_state(new_trm(backbone, trm_config), optimizer))
        self._train_batch = make_train_batch(optimizer, train_config.ema_decay, jnp.dtype(train_config.dtype))
        self._programs, self._readout = Programs(self._train_batch), without_layers(backbone)
        self._hidden = Computed(backbone, self._state.trm)

    def warm_up(self, batches: Sequence[Batch]) -> tuple[float, int]:
        """Runs a batch of each shape once. Returns the seconds that compiling took, and the number of programs."""
        for batch in {(batch.tokens.shape, batch.labels.shape): batch for batch in batches}.values():
            self(batch)
        every = self._programs, self._hidden.programs
        return sum(programs.seconds for programs in every), sum(map(len, every))

    def flops(self, batch: Batch) -> int:
        """Floating-point operations of a device's matrix products in a batch."""
        flops = count_flops(self._train_batch, self._state, self._backbone, batch)
        return flops // (row_parts() * tensor_parts())

    def __call__(self, batch: Batch) -> np.ndarray:
        """Returns the loss after each supervision step."""
        hidden = self._hidden.of(batch)
        self._state, metrics = self._programs(self._state, self._readout, put_rows(batch, ROWS_AT), None, hidden)
        jax.block_until_ready(self._state)
        return jax.device_get(metrics.loss)


@dataclasses.dataclass(frozen=True)
class TrainingBenchmark:
    """A training whose speed is measured, on the first batches of an epoch over rows as long as GSM8K's.

    Example: `TrainingBenchmark(SIZES["demo"], TRMConfig.residual(), TrainConfig(dtype="float32")).measure()`.
    """

    backbone_config: QwenConfig
    trm_config: TRMConfig
    train_config: TrainConfig
    batches: int = 8
    repeats: int = 3  # of which the median counts

    @functools.cached_property
    def rows(self) -> list[Batch]:
        """The batches."""
        loader = gsm8k_loader(self.backbone_config, self.train_config.batch_size)
        return [loader[number] for number in range(self.batches)]

    @functools.cached_property
    def planned_memory(self) -> int:
        """Bytes that the longest of the batches should need."""
        backbone = abstract_backbone(self.backbone_config, self.train_config.dtype)
        trm, longest = abstract_trm(backbone, self.trm_config), max(batch.tokens.shape[-1] for batch in self.rows)
        configs = self.backbone_config, self.trm_config, self.train_config
        early = early_states(self.trm_config.context == "mix", self.train_config.accumulation, cached=False)
        sizes = dict(row_parts=row_parts(), weight_parts=weight_parts(), early_states=early)
        return sum(training_memory(backbone, trm, *configs, longest, CHUNK, **sizes).values())

    def losses_by_length(self) -> dict[int, np.ndarray]:
        """The losses of `repeats` steps on the first batch of each length that rows are padded to, in one training.

        Example: `TrainingBenchmark(SIZES["demo"], TRMConfig.single(), TrainConfig(dtype="float32")).losses_by_length()`.
        """
        loader = gsm8k_loader(self.backbone_config, self.train_config.batch_size)
        first = [loader[number] for number in loader.of_each_shape(0, loader.batches_per_epoch)]
        backbone = random_backbone(self.backbone_config, self.train_config.dtype)
        training = Training(backbone, self.trm_config, self.train_config)
        return {
            batch.tokens.shape[-1]: np.array([training(batch) for _ in range(self.repeats)])
            for batch in sorted(first, key=lambda batch: batch.tokens.shape[-1])
        }

    def measure(self, make_peers: MakePeers | None = None) -> "TrainingSpeed":
        """Compiles, and times this training and its peers, which are made after the memory of ours has been read."""
        rate = matmul_rate(self.train_config.dtype)
        backbone = random_backbone(self.backbone_config, self.train_config.dtype)
        batches = self.rows
        training = Training(backbone, self.trm_config, self.train_config)
        compile_seconds, programs = training.warm_up(batches)
        memory = peak_memory()
        peers = make_peers(backbone, self.trm_config, self.train_config) if make_peers else {}
        for run in peers.values():
            run(batches[0])
        return TrainingSpeed(
            benchmark=self,
            rows=sum(int(np.prod(batch.tokens.shape[:2])) for batch in batches),
            answer_tokens=sum(int(np.sum(batch.labels != NO_LABEL)) for batch in batches),
            seconds=time_in_turns({OURS: training, **peers}, batches, self.repeats),
            flops=sum(map(training.flops, batches)),
            compile_seconds=compile_seconds,
            programs=programs,
            peak_memory=memory,
            matmul_tflops=rate / 1e12,
            device=describe_device(),
        )


@dataclasses.dataclass(frozen=True)
class TrainingSpeed:
    """The measured figures; ratios are of samples/s, ours over the other's."""

    benchmark: TrainingBenchmark
    rows: int
    answer_tokens: int
    seconds: Mapping[str, float]  # for all rows, by program
    flops: int  # of all rows, in ours, matmuls only
    compile_seconds: float
    programs: int
    peak_memory: int  # bytes
    matmul_tflops: float  # TFLOP/s, what the device reaches in one large matrix product
    device: str

    @property
    def tflops(self) -> float:
        """The rate that ours reaches, TFLOP/s."""
        return self.flops / self.seconds[OURS] / 1e12

    def to_json(self) -> dict[str, Any]:
        """All figures; those of each program below `seconds`."""
        runs = {
            name: {
                "seconds": spent,
                "samples_per_second": self.rows / spent,
                "answer_tokens_per_second": self.answer_tokens / spent,
                "ratio": spent / self.seconds[OURS],
            }
            for name, spent in self.seconds.items()
        }
        figures = dataclasses.asdict(self) | {"seconds": runs, "tflops": self.tflops}
        return {name: figure for name, figure in figures.items() if name != "benchmark"}

    def describe(self, name: str) -> str:
        """The figures for a person, and a table of the programs; `name` says which model it is."""
        benchmark, share = self.benchmark, self.tflops / self.matmul_tflops
        lines = [
            f"training {name}, {describe_loops(benchmark.trm_config)}, {benchmark.train_config.dtype}, on {self.device}",
            f"rows          {self.rows} in batches of {benchmark.train_config.batch_size}, "
            f"{self.answer_tokens:,} answer tokens",
            f"compiling     {self.compile_seconds:.1f} s, {self.programs} programs",
            f"peak memory   {self.peak_memory / 2**30:.2f} GiB, {benchmark.planned_memory / 2**30:.2f} planned",
            f"matmuls       {self.tflops:.3g} TFLOP/s, {100 * share:.0f} % of the {self.matmul_tflops:.3g} measured here",
            "",
            f"{'':32}{'samples/s':>12}{'answer tokens/s':>18}{'trm_jax is':>14}",
        ]
        for program, run in self.to_json()["seconds"].items():
            ratio = f"{run['ratio']:.2f} x as fast" if program != OURS else ""
            rates = f"{run['samples_per_second']:12.3g}{run['answer_tokens_per_second']:18,.0f}"
            lines.append(f"{program:32}{rates}{ratio:>16}")
        return "\n".join(lines)
