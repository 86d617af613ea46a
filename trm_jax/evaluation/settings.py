"""The settings of an evaluation: what they are, the name that they give its file, and whether a file is of the same ones."""

import os
import pathlib
import re
from typing import Any

from trm_jax.checkpoints import SavedModel
from trm_jax.decoding import GREEDY, DecodeConfig, Sampling
from trm_jax.errors import differences, listing
from trm_jax.evaluation.records import EvaluationError
from trm_jax.files import read_object
from trm_jax.model import QwenTRM

# Settings that are named only where they are in use; no figure of a summary has such a name.
OPTIONAL = ("samples", "temperature", "top_p", "seed", "early_exit", "long_questions", "control_heads")

# Settings that former versions did not record; they are no part of a file's name.
LATER = ("prompt_digest",)


def file_name(settings: dict[str, Any]) -> str:
    """A name for the file of an evaluation, made of its settings, without fingerprint and digest.

    Example: `file_name({"data": "tasks/arrows/test.jsonl", "temperature": 0.5})` is `"arrows_test-0.5.jsonl"`.
    """
    words = []
    for name, value in settings.items():
        if name == "data":
            words.append(_short(os.path.splitext(value)[0]))
        elif name == "control_heads":
            words += [_short(control) for control, _ in value]
        elif name != "fingerprint" and name not in LATER:
            words.append(str(value))
    return f"{re.sub(r'[^A-Za-z0-9_.-]', '_', '-'.join(words))}.jsonl"


def _short(path: str) -> str:
    """The last two parts of a path."""
    return "/".join(pathlib.PurePath(path).parts[-2:])


def require_jsonl(path: pathlib.Path) -> None:
    """Raises EvaluationError unless a file ends in .jsonl: its own summary, NAME.json, could overwrite it.

    Example: `require_jsonl(pathlib.Path("answers.jsonl"))`.
    """
    if path.suffix != ".jsonl":
        raise EvaluationError(f"{path} must end in .jsonl: it holds one JSON line a question")


def require_same_settings(path: pathlib.Path, settings: dict[str, Any]) -> None:
    """Raises EvaluationError if the file is of an evaluation with other settings, as the summary beside it has them.

    Also if the summary is not there: whatever the file holds, it is not known to be of this evaluation.
    """
    require_jsonl(path)
    summary = path.with_suffix(".json")
    if path.exists() and path.stat().st_size and not summary.exists():
        raise EvaluationError(
            f"{path} is there, but not {summary.name} beside it, which says what it is of: give another --output"
        )
    if summary.exists():
        found = read_object(summary, EvaluationError)
        unused = dict.fromkeys(name for name in OPTIONAL if name in found)
        known = {name: value for name, value in settings.items() if name in found or name not in LATER}
        if others := differences(found, unused | known):
            there = path if path.exists() else summary
            raise EvaluationError(f"{there} is of another evaluation; give another --output: {listing(others)}")


def settings_of(
    saved: SavedModel,
    model: QwenTRM,
    config: DecodeConfig,
    data: str,
    max_new_tokens: int,
    dtype: str,
    weights: str,
    samples: int = 1,
    sampling: Sampling = GREEDY,
) -> dict[str, Any]:
    """The settings of an evaluation, for its summary. Raises EvaluationError for several samples without a temperature.

    `model` is as `saved` has loaded it, before `for_decoding`.

    Example: `settings_of(saved, model, config, "gsm8k", 512, "bfloat16", "ema")`.
    """
    settings = {"data": data, "head": config.head, "max_new_tokens": max_new_tokens, "dtype": dtype}
    settings["prompt_digest"] = saved.prompt_digest
    if sampling.temperature > 0:
        settings |= {
            "samples": samples,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": sampling.seed,
        }
    elif samples > 1:
        raise EvaluationError("--samples above 1 without --temperature would give the same answer each time")
    elif sampling != GREEDY:
        raise EvaluationError("--seed and --top-p are of draws: they need a --temperature above zero")
    if config.head == "backbone":
        return settings | {"fingerprint": saved.fingerprint()}
    settings |= {"checkpoint": saved.label, "weights": weights}
    settings |= {"supervision_steps": config.supervision_steps, "kv_cache": config.kv_cache}
    if config.early_exit is not None:
        settings["early_exit"] = config.early_exit
    return settings | {"fingerprint": saved.fingerprint(model)}
