"""Times decoding, on random tokens with the lengths of real rows."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import numpy as np

from trm_jax.benchmark.batching import BatchingSpeed, measure_batching
from trm_jax.benchmark.lengths import Prompts, gsm8k_lengths, median_lengths, random_prompts
from trm_jax.benchmark.measure import OURS, copy_bandwidth, describe_loops, matmul_rate, seconds, time_in_turns
from trm_jax.benchmark.sizes import random_model
from trm_jax.config import QwenConfig, TRMConfig
from trm_jax.decoding import (
    CAPACITY_STEP,
    ENDLESS,
    DecodeConfig,
    DecodeState,
    Placement,
    decode_config,
    decode_step,
    decode_until,
    insert,
    pad_prompts,
    padded_length,
    prefill,
    round_up,
)
from trm_jax.errors import UserError
from trm_jax.hardware import (
    count_bytes,
    count_flops,
    decoding_memory,
    describe_device,
    peak_memory,
    put_rows,
    row_parts,
    tensor_parts,
    weight_parts,
)
from trm_jax.model import QwenTRM, for_decoding

# Makes other programs that do the same, by their names: each is a function of prompts that returns their new tokens. It
# gets the model, the settings, the type to compute in and the number of new tokens.
MakePeers = Callable[[QwenTRM, DecodeConfig, str, int], Mapping[str, Callable[[Prompts], np.ndarray]]]


class Decoding:
    """A batch of prompts of one length, read together and continued by as many tokens each."""

    def __init__(self, model: QwenTRM, config: DecodeConfig, prompts: Prompts, new_tokens: int):
        self._model, self._config, self._prompts, self._new_tokens = model, config, prompts, new_tokens
        self._capacity = round_up(len(prompts[0]) + new_tokens, CAPACITY_STEP)

    def read(self) -> DecodeState:
        """Prefill, and the first token of each row."""
        batch, longest = len(self._prompts), self._new_tokens
        placement = Placement.of_prompts(batch, longest)
        state = DecodeState.empty(self._model, self._config, batch, self._capacity, longest)
        read = prefill(self._model, *put_rows(pad_prompts(self._prompts)), self._config)
        return jax.block_until_ready(insert(state, read, placement, self._config))

    def __call__(self, _=None) -> np.ndarray:
        """Prefill and all steps; returns the tokens[B, new_tokens]."""
        state = decode_until(self._model, self.read(), np.int32(len(self._prompts)), np.int32(ENDLESS), self._config)
        return np.asarray(state.tokens)

    def bytes_per_step(self) -> int:
        """Bytes that a device must read in a step: all weights, the block in each call, and caches that are filled half way.

        Every pass reads its own cache, or that of the last pass.
        """
        model, config = self._model, self._config
        filled = len(self._prompts[0]) + self._new_tokens / 2
        backbone, trm = jax.eval_shape(lambda: config.empty_caches(model, len(self._prompts), 1))  # of one token a row
        weights, cached = count_bytes(model.backbone), count_bytes((backbone.keys, backbone.values))
        if model.backbone.lm_head is not None:
            weights -= model.backbone.embedding.nbytes  # of which only a row is read
        if trm is not None:
            passes = len(config.passes)
            weights += passes * sum(map(count_bytes, model.trm.calls))
            cached += passes / len(trm.keys[0]) * count_bytes((trm.keys, trm.values))
            if model.trm.head is not None:
                weights += model.trm.head.nbytes - model.backbone.head.nbytes  # read in place of the backbone's
        return int(weights / weight_parts() + filled * cached / (row_parts() * tensor_parts()))

    def flops_per_step(self) -> int:
        """FLOPs of a device's matrix products in a step, with attention over the whole capacity."""
        rows = len(self._prompts)
        state = jax.eval_shape(
            lambda: DecodeState.empty(self._model, self._config, rows, self._capacity, self._new_tokens)
        )
        flops = count_flops(lambda model, state: decode_step(model, state, self._config), self._model, state)
        return flops // (row_parts() * tensor_parts())


@dataclasses.dataclass(frozen=True)
class DecodingBenchmark:
    """A batch of prompts of one length, whose completion is timed.

    Example: `DecodingBenchmark(SIZES["demo"], TRMConfig.residual(), "float32", repeats=1).measure()`.
    """

    backbone_config: QwenConfig
    trm_config: TRMConfig
    dtype: str
    kv_cache: Literal["last_pass", "per_pass"] | None = None  # None: as the recursion's config says
    head: Literal["trm", "backbone"] = "trm"
    batch_size: int = 8
    prompt_length: int | None = None  # tokens; None: as in the median GSM8K test question
    new_tokens: int | None = None  # None: as in its solution
    repeats: int = 3  # of which the median counts

    @property
    def lengths(self) -> tuple[int, int]:
        """Tokens of each prompt, and of each completion."""
        prompt, answer = median_lengths()
        return self.prompt_length or prompt, self.new_tokens or answer

    def require_length(self, questions: int) -> None:
        """Raises a UserError if the backbone reads fewer tokens than the longest of so many questions and answers have."""
        lengths, most = gsm8k_lengths("test")[:questions], self.backbone_config.max_length
        if questions and (longest := int(lengths.max(axis=0).sum())) > most:
            raise UserError(
                f"the longest of {len(lengths):,} questions and answers take {longest:,} tokens, and this backbone reads "
                f"{most:,}: lower --questions"
            )

    @functools.cached_property
    def model(self) -> QwenTRM:
        """Random weights, arranged for decoding."""
        return for_decoding(self._stored_model(), donate=True)

    @functools.cached_property
    def config(self) -> DecodeConfig:
        """The settings of decoding: greedy, and no token ends a row."""
        return decode_config(self.model, kv_cache=self.kv_cache, head=self.head, eos_token_ids=[])

    @functools.cached_property
    def planned_memory(self) -> int:
        """Bytes that the weights and a batch, all of whose prompts are read together, should need."""
        length, new_tokens = self.lengths
        model = jax.eval_shape(self._stored_model)
        capacity = round_up(length + new_tokens, CAPACITY_STEP)
        passes = decode_config(model, kv_cache=self.kv_cache, head=self.head, eos_token_ids=[]).kept_passes
        rows = self.batch_size, capacity, self.batch_size, padded_length(length)
        parts = dict(row_parts=row_parts(), tensor_parts=tensor_parts())
        beside = decoding_memory(self.backbone_config, self.trm_config, self.dtype, passes, *rows, **parts)
        return count_bytes(model) // weight_parts() + sum(beside.values())

    def measure(self, make_peers: MakePeers | None = None) -> "DecodingSpeed":
        """Compiles, and times this decoding and its peers, which are made after the memory of ours has been read."""
        bandwidth, matmuls = copy_bandwidth(), matmul_rate(self.dtype)
        length, new_tokens = self.lengths
        prompts = random_prompts([length] * self.batch_size, self.backbone_config.vocab_size)
        decoding = Decoding(self.model, self.config, prompts, new_tokens)
        first = seconds(decoding)
        tokens, compile_seconds, memory = decoding(), first - seconds(decoding), peak_memory()
        peers = make_peers(self._stored_model(), self.config, self.dtype, new_tokens) if make_peers else {}
        theirs = {name: run(prompts) for name, run in peers.items()}  # this warms them up, too
        return DecodingSpeed(
            benchmark=self,
            compile_seconds=compile_seconds,
            same_tokens={name: float(np.mean(chosen == tokens)) for name, chosen in theirs.items()},
            prefill_seconds=float(np.median([seconds(decoding.read) for _ in range(self.repeats)])),
            seconds=time_in_turns({OURS: decoding, **peers}, [prompts], self.repeats),
            bytes_per_step=decoding.bytes_per_step(),
            flops_per_step=decoding.flops_per_step(),
            peak_memory=memory,
            copy_bandwidth=bandwidth,
            matmul_rate=matmuls,
            device=describe_device(),
        )

    def measure_batching(self, questions: int) -> BatchingSpeed:
        """Times the first `questions` of GSM8K's test set, with their own lengths; see `measure_batching`."""
        return measure_batching(self.model, self.config, questions, self.batch_size)

    def _stored_model(self) -> QwenTRM:
        return random_model(self.backbone_config, self.trm_config, self.dtype)


@dataclasses.dataclass(frozen=True)
class DecodingSpeed:
    """The measured figures; ratios are of tokens/s, prefill included, ours over the other's."""

    benchmark: DecodingBenchmark
    compile_seconds: float
    prefill_seconds: float
    seconds: Mapping[str, float]  # prefill and all new tokens, by program
    same_tokens: Mapping[str, float]  # share of the tokens that a peer chooses too
    bytes_per_step: int
    flops_per_step: int
    peak_memory: int  # bytes
    copy_bandwidth: float  # bytes/s, what the device reaches in a copy
    matmul_rate: float  # FLOP/s, what it reaches in one large matrix product
    device: str

    @property
    def step_seconds(self) -> float:
        """Seconds for one more token in every row; the first token comes with the prefill."""
        return (self.seconds[OURS] - self.prefill_seconds) / (self.benchmark.lengths[1] - 1)

    def to_json(self) -> dict[str, Any]:
        """All figures; those of each program below `seconds`."""
        (prompt_length, new_tokens), batch_size = self.benchmark.lengths, self.benchmark.batch_size
        runs = {
            name: {
                "seconds": spent,
                "tokens_per_second": batch_size * new_tokens / spent,
                "seconds_per_sample": spent / batch_size,
                "ratio": spent / self.seconds[OURS],
            }
            for name, spent in self.seconds.items()
        }
        figures = {"batch_size": batch_size, "prompt_length": prompt_length, "new_tokens": new_tokens}
        figures |= dataclasses.asdict(self) | {
            "seconds": runs,
            "step_seconds": self.step_seconds,
            "bytes_per_second": self.bytes_per_step / self.step_seconds,
            "flops_per_second": self.flops_per_step / self.step_seconds,
        }
        return {name: figure for name, figure in figures.items() if name != "benchmark"}

    def describe(self, name: str) -> str:
        """The figures for a person, and a table of the programs; `name` says which model it is."""
        benchmark, figures = self.benchmark, self.to_json()
        prompt_length, new_tokens = benchmark.lengths
        rate, flops = figures["bytes_per_second"], figures["flops_per_second"]
        lines = [
            f"decoding {name}, {describe_loops(benchmark.trm_config)}, {benchmark.config.head}, "
            f"{benchmark.config.kv_cache}, {benchmark.dtype}, on {self.device}",
            f"rows          {benchmark.batch_size}, prompts of {prompt_length} tokens, {new_tokens} new ones",
            f"compiling     {self.compile_seconds:.1f} s",
            f"peak memory   {self.peak_memory / 2**30:.2f} GiB, {benchmark.planned_memory / 2**30:.2f} planned",
            f"prefill       {1e3 * self.prefill_seconds:.1f} ms",
            f"token step    {1e3 * self.step_seconds:.2f} ms, in which {self.bytes_per_step / 1e9:.3g} GB must be read: "
            f"{rate / 1e9:.3g} GB/s, {100 * rate / self.copy_bandwidth:.0f} % of the {self.copy_bandwidth / 1e9:.3g} "
            "of a copy here",
            f"matmuls       {flops / 1e12:.3g} TFLOP/s, {100 * flops / self.matmul_rate:.0f} % of "
            f"{self.matmul_rate / 1e12:.3g} measured here",
            "",
            f"{'':16}{'tokens/s':>12}{'s/sample':>12}{'same tokens':>14}{'trm_jax is':>14}",
        ]
        for program, run in figures["seconds"].items():
            against = ""
            if program != OURS:
                against = f"{100 * self.same_tokens[program]:.0f} %{run['ratio']:10.2f} x as fast"
            rates = f"{run['tokens_per_second']:12,.1f}{run['seconds_per_sample']:12.3f}"
            lines.append(f"{program:16}{rates}{against:>30}")
        return "\n".join(lines)
