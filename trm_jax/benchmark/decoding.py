"""Decoding random tokens with real lengths, timed."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from trm_jax.benchmark.lengths import gsm8k_lengths
from trm_jax.benchmark.measure import OURS, seconds, time_in_turns
from trm_jax.decoding.generate import CAPACITY_STEP, generate_each, pad_prompts, round_up
from trm_jax.decoding.step import DecodeConfig, DecodeState, Placement, decode_step, decode_until, insert, prefill
from trm_jax.hardware.devices import peak_memory
from trm_jax.hardware.flops import count_flops
from trm_jax.model.qwen_trm import QwenTRM
from trm_jax.model.weights import count_bytes

Prompts = Sequence[Sequence[int]]


def random_prompts(lengths: Sequence[int], vocab_size: int, seed: int = 0) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, vocab_size, length).tolist() for length in lengths]


def median_lengths() -> tuple[int, int]:
    """Tokens of the prompt and of the answer of the median GSM8K test question."""
    prompt, answer = np.median(gsm8k_lengths("test"), axis=0)
    return int(prompt), int(answer)


class Decoding:
    """A batch of prompts of one length, read together and continued by as many tokens each."""

    def __init__(self, model: QwenTRM, config: DecodeConfig, prompts: Prompts, new_tokens: int):
        self._model, self._config, self._prompts, self._new_tokens = model, config, prompts, new_tokens
        self._capacity = round_up(len(prompts[0]) + new_tokens, CAPACITY_STEP)

    def read(self) -> DecodeState:
        """Prefill, and the first token of each row."""
        batch, longest = len(self._prompts), self._new_tokens
        rows = np.arange(batch, dtype=np.int32)
        placement = Placement(rows, rows, np.full(batch, longest, np.int32), np.zeros((batch, 2), np.uint32))
        state = DecodeState.empty(self._model, self._config, batch, self._capacity, longest)
        read = prefill(self._model, *pad_prompts(self._prompts), self._config)
        return jax.block_until_ready(insert(state, read, placement, self._config))

    def __call__(self, _=None) -> np.ndarray:
        """Prefill and all steps; returns the tokens[B, new_tokens]."""
        state = decode_until(self._model, self.read(), np.int32(len(self._prompts)), self._config)
        return np.asarray(state.answers)

    def bytes_per_step(self) -> int:
        """What a step must read: all weights, the block's once a call, and the caches as they are filled half way.

        Every pass reads its own cache, or the one that is kept of the last pass.
        """
        model, config = self._model, self._config
        filled = len(self._prompts[0]) + self._new_tokens / 2
        backbone, trm = jax.eval_shape(lambda: config.empty_caches(model, len(self._prompts), 1))  # of one token a row
        total = count_bytes(model.backbone) + filled * count_bytes((backbone.keys, backbone.values))
        if model.backbone.lm_head is not None:
            total -= model.backbone.embedding.nbytes  # of which a row is read
        if trm is not None:
            passes = len(config.passes)
            total += passes * sum(map(count_bytes, model.trm.calls))
            total += passes / len(trm.keys[0]) * filled * count_bytes((trm.keys, trm.values))
            if model.trm.head is not None:
                total += model.trm.head.nbytes - model.backbone.head.nbytes  # the one is read in the other's place
        return int(total)

    def flops_per_step(self) -> int:
        """Of the matrix products, attention over the whole capacity included."""
        rows = len(self._prompts)
        state = jax.eval_shape(
            lambda: DecodeState.empty(self._model, self._config, rows, self._capacity, self._new_tokens)
        )
        return count_flops(lambda model, state: decode_step(model, state, self._config), self._model, state)


@dataclasses.dataclass(frozen=True)
class DecodingSpeed:
    """What was measured; ratios are of tokens/s, prefill included, ours over the other's."""

    batch_size: int
    prompt_length: int
    new_tokens: int
    compile_seconds: float
    prefill_seconds: float
    seconds: Mapping[str, float]  # prefill and all new tokens, by program
    same_tokens: Mapping[str, float]  # share of the tokens that a peer chooses too
    bytes_per_step: int
    flops_per_step: int
    peak_memory: int  # bytes

    @property
    def step_seconds(self) -> float:
        """The first token comes with the prefill."""
        return (self.seconds[OURS] - self.prefill_seconds) / (self.new_tokens - 1)

    def to_json(self) -> dict[str, Any]:
        tokens = self.batch_size * self.new_tokens
        runs = {
            name: {
                "seconds": spent,
                "tokens_per_second": tokens / spent,
                "seconds_per_sample": spent / self.batch_size,
                "ratio": spent / self.seconds[OURS],
            }
            for name, spent in self.seconds.items()
        }
        derived = {
            "step_seconds": self.step_seconds,
            "bytes_per_second": self.bytes_per_step / self.step_seconds,
            "flops_per_second": self.flops_per_step / self.step_seconds,
        }
        return dataclasses.asdict(self) | {"seconds": runs} | derived


def measure_decoding(
    model: QwenTRM,
    config: DecodeConfig,
    batch_size: int,
    prompt_length: int,
    new_tokens: int,
    repeats: int,
    make_peers: Callable[[int], Mapping[str, Callable[[Prompts], np.ndarray]]],
) -> DecodingSpeed:
    """Times a batch of prompts of one length, and its peers, which are made after the memory of ours has been read.

    `make_peers`: from the number of new tokens to calls that return them.
    """
    prompts = random_prompts([prompt_length] * batch_size, model.backbone.config.vocab_size)
    decoding = Decoding(model, config, prompts, new_tokens)
    first = seconds(decoding)
    tokens, compile_seconds, memory = decoding(), first - seconds(decoding), peak_memory()
    peers = make_peers(new_tokens)
    same = {name: float(np.mean(run(prompts) == tokens)) for name, run in peers.items()}
    prefill_seconds = float(np.median([seconds(decoding.read) for _ in range(repeats)]))
    return DecodingSpeed(
        batch_size=batch_size,
        prompt_length=prompt_length,
        new_tokens=new_tokens,
        compile_seconds=compile_seconds,
        prefill_seconds=prefill_seconds,
        seconds=time_in_turns({OURS: decoding, **peers}, [prompts], repeats),
        same_tokens=same,
        bytes_per_step=decoding.bytes_per_step(),
        flops_per_step=decoding.flops_per_step(),
        peak_memory=memory,
    )


def measure_batching(model: QwenTRM, config: DecodeConfig, questions: int, batch_size: int) -> dict[str, float]:
    """Seconds for the first GSM8K test questions, each row ended at its real answer's length: continuous, and in batches.

    Both have been warmed up. The batches are those of the file's order; each ends with its longest row.
    """
    lengths = gsm8k_lengths("test")[:questions]
    prompts, limits = random_prompts(lengths[:, 0], model.backbone.config.vocab_size), lengths[:, 1].tolist()

    def generate(step: int) -> None:
        for start in range(0, questions, step):
            part = slice(start, start + step)
            list(generate_each(model, prompts[part], limits[part], config, batch_size))

    found = {}
    for name, step in {"continuous": questions, "static": batch_size}.items():
        generate(step)
        found[name] = seconds(generate, step)
    return found
