"""Training on batches of random tokens with real lengths, timed."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from trm_jax.benchmark.lengths import gsm8k_lengths, random_examples
from trm_jax.benchmark.measure import OURS, seconds, time_in_turns
from trm_jax.config import QwenConfig, TrainConfig, TRMConfig
from trm_jax.data.loader import NO_LABEL, Batch, Loader
from trm_jax.hardware.devices import peak_memory
from trm_jax.hardware.flops import count_flops
from trm_jax.model.qwen import Qwen
from trm_jax.model.qwen_trm import new_trm
from trm_jax.training.optimizer import make_optimizer
from trm_jax.training.step import make_train_batch, new_state

OPTIMIZER_STEPS = 10_000  # of the schedule; any number will do


def gsm8k_batches(config: QwenConfig, batch_size: int, count: int) -> list[Batch]:
    """The first batches of an epoch over rows as long as GSM8K's, in the shuffled order of training."""
    loader = Loader(random_examples(gsm8k_lengths("train"), config.vocab_size), batch_size)
    return [loader[number] for number in range(count)]


class Training:
    """What `train.py` does with a batch, as a call that returns when it is done."""

    def __init__(self, backbone: Qwen, trm: TRMConfig, train: TrainConfig):
        optimizer = make_optimizer(train, OPTIMIZER_STEPS)
        self._backbone = backbone
        self._state = new_state(new_trm(backbone, trm), optimizer)
        self._train_batch = make_train_batch(optimizer, train.ema_decay, jnp.dtype(train.dtype))
        self._programs: dict[tuple[int, ...], jax.stages.Compiled] = {}

    def warm_up(self, batches: Sequence[Batch]) -> tuple[float, int]:
        """Compiles for the shapes of the batches and runs each once. Returns the seconds of compiling and the programs."""
        compiling = 0.0
        for batch in batches:
            if _shape(batch) not in self._programs:
                compiling += seconds(self._compile, batch)
                self(batch)
        return compiling, len(self._programs)

    def flops(self, batch: Batch) -> int:
        return count_flops(self._train_batch, self._state, self._backbone, batch)

    def __call__(self, batch: Batch) -> None:
        program = self._programs[_shape(batch)]
        self._state, metrics = program(self._state, self._backbone, jax.device_put(batch))
        jax.block_until_ready((self._state, metrics))

    def _compile(self, batch: Batch) -> None:
        self._programs[_shape(batch)] = self._train_batch.lower(self._state, self._backbone, batch).compile()


def _shape(batch: Batch) -> tuple[int, ...]:
    return (*batch.tokens.shape, *batch.labels.shape)


@dataclasses.dataclass(frozen=True)
class TrainingSpeed:
    """What was measured; ratios are of samples/s, ours over the other's."""

    rows: int
    answer_tokens: int
    seconds: Mapping[str, float]  # for all rows, by program
    flops: int  # of all rows, in ours, matmuls only
    compile_seconds: float
    programs: int
    peak_memory: int  # bytes

    @property
    def tflops(self) -> float:
        """What ours achieves, TFLOP/s."""
        return self.flops / self.seconds[OURS] / 1e12

    def to_json(self) -> dict[str, Any]:
        runs = {
            name: {
                "seconds": spent,
                "samples_per_second": self.rows / spent,
                "answer_tokens_per_second": self.answer_tokens / spent,
                "ratio": spent / self.seconds[OURS],
            }
            for name, spent in self.seconds.items()
        }
        return dataclasses.asdict(self) | {"seconds": runs, "tflops": self.tflops}


def measure_training(
    training: Training,
    batches: Sequence[Batch],
    repeats: int,
    make_peers: Callable[[], Mapping[str, Callable[[Batch], None]]],
) -> TrainingSpeed:
    """Times a training and its peers, which are made after the memory of ours has been read."""
    compile_seconds, programs = training.warm_up(batches)
    memory = peak_memory()
    peers = make_peers()
    for run in peers.values():
        run(batches[0])
    spent = time_in_turns({OURS: training, **peers}, batches, repeats)
    return TrainingSpeed(
        rows=sum(int(np.prod(batch.tokens.shape[:2])) for batch in batches),
        answer_tokens=sum(int(np.sum(batch.labels != NO_LABEL)) for batch in batches),
        seconds=spent,
        flops=sum(map(training.flops, batches)),
        compile_seconds=compile_seconds,
        programs=programs,
        peak_memory=memory,
    )
