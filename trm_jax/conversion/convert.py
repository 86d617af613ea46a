"""Converts a Hugging Face model, and optionally a checkpoint of MathLLM, to a model folder."""

import dataclasses
import pathlib

from trm_jax.checkpoints import ENTRIES, open_folder, replacing, save_model
from trm_jax.conversion.hugging_face import copy_tokenizer, read_backbone, stored_dtype
from trm_jax.conversion.hugging_face_config import read_config
from trm_jax.conversion.mathllm import read_trm_checkpoint
from trm_jax.data import HubModel, check_tokenizer, end_token, read_tokenizer
from trm_jax.errors import listing
from trm_jax.model import TRM


def convert(
    source: pathlib.Path, output: pathlib.Path, dtype: str | None = None, trm_checkpoint: pathlib.Path | None = None
) -> TRM | None:
    """Writes the model folder `output`, with the backbone in `dtype`; a model that is there is replaced, all else stays.

    Without a `dtype` the weights keep theirs; float16 becomes float32, which holds it. Completions of the new model end at
    the end tokens of the folder's configs, and at the token with which the chat template ends an answer. A model of the hub
    is recorded with its revision.

    Returns the recursion in `trm_checkpoint`, the original's `trm_model.pt`, or None. Raises a UserError if something does
    not fit; what was in `output` then stays as it was.

    Example: `convert(find_model("Qwen/Qwen2.5-Math-1.5B-Instruct"), pathlib.Path("runs/model"), "bfloat16")`.
    """
    config, tokenizer = read_config(source), read_tokenizer(source)
    check_tokenizer(tokenizer, config.vocab_size, source)
    config = dataclasses.replace(config, end_tokens=(*config.end_tokens, end_token(tokenizer)))
    trm, ema = (None, None) if trm_checkpoint is None else read_trm_checkpoint(trm_checkpoint, config)
    with replacing(output) as folder:
        weights = read_backbone(source, config, dtype or stored_dtype(source))
        save_model(folder, config, weights, trm, ema, HubModel.at(source))
        copy_tokenizer(source, folder / "tokenizer")
    return trm


def describe_conversion(source: pathlib.Path, output: pathlib.Path) -> str:
    """What was converted, for a person. Example: `print(describe_conversion(source, output))`."""
    config = open_folder(output).model.backbone_config
    files = (file for name in ENTRIES for file in (output / name).rglob("*") if file.is_file())
    size = sum(file.stat().st_size for file in files)
    return (
        f"converted {source}\n  into {output}: {config.num_layers} layers, width {config.width}, vocabulary "
        f"{config.vocab_size:,}, {size / 1e6:,.1f} MB on disk; completions end at tokens {listing(config.end_tokens)}"
    )
