"""Measures, on questions of unequal lengths, what a batch gains if a new row takes the place of one that has ended."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from trm_jax.benchmark.lengths import gsm8k_lengths, random_prompts
from trm_jax.benchmark.measure import seconds
from trm_jax.decoding import DecodeConfig, generate_each
from trm_jax.model import QwenTRM


@dataclasses.dataclass(frozen=True)
class BatchingSpeed:
    """The measured times."""

    questions: int
    seconds: Mapping[str, float]  # for all questions: `continuous`, and `static`, which is in whole batches

    def to_json(self) -> dict[str, Any]:
        """All figures."""
        return dataclasses.asdict(self)

    def describe(self) -> str:
        """The figures for a person."""
        continuous, static = self.seconds["continuous"], self.seconds["static"]
        return (
            f"{self.questions} questions with GSM8K's lengths: continuous {continuous:.1f} s "
            f"({continuous / self.questions:.3f} s a sample), in whole batches {static:.1f} s, "
            f"{static / continuous:.2f} times as long"
        )


def measure_batching(model: QwenTRM, config: DecodeConfig, questions: int, batch_size: int) -> BatchingSpeed:
    """Times the first GSM8K test questions, each ended at its real solution's length: continuously, and in whole batches.

    Both are warmed up first. The batches are in the order of the file; each ends with its longest row. `model` is a result
    of `for_decoding`.

    Example: `measure_batching(model, decode_config(model, eos_token_ids=[]), 128, batch_size=8).describe()`.
    """
    lengths = gsm8k_lengths("test")[:questions]
    prompts, limits = random_prompts(lengths[:, 0], model.backbone.config.vocab_size), lengths[:, 1].tolist()

    def generate(step: int) -> None:
        for start in range(0, len(prompts), step):
            part = slice(start, start + step)
            list(generate_each(model, prompts[part], limits[part], config, batch_size))

    found = {}
    for name, step in {"continuous": len(prompts), "static": batch_size}.items():
        generate(step)
        found[name] = seconds(generate, step)
    return BatchingSpeed(len(prompts), found)
