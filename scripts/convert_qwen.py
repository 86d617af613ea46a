"""Converts a Qwen2/Qwen2.5 model from Hugging Face into a self-contained trm_jax folder. Without options: the demo's."""

import dataclasses
import pathlib
from typing import Literal

from trm_jax import cli


@dataclasses.dataclass(frozen=True)
class Options(cli.CommonOptions):
    model: str | None = None
    """Hugging Face folder, or hub id such as Qwen/Qwen2.5-Math-1.5B-Instruct (default: the embedded demo model)."""
    output: pathlib.Path = pathlib.Path("runs/model")
    """Folder to write; a model folder that is there is replaced."""
    trm_checkpoint: pathlib.Path | None = None
    """Also import a trm_model.pt of the original MathLLM. This option alone needs torch."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Type of the backbone's weights on disk."""


def main(options: Options) -> None:
    from trm_jax import demo
    from trm_jax.checkpoints import folders
    from trm_jax.checkpoints import models as checkpoint
    from trm_jax.conversion import hugging_face as convert

    source = demo.MODEL if options.model is None else convert.find_model(options.model)
    config = convert.read_config(source)
    convert.require_tokenizer(source, config)
    trm = ema = None
    if options.trm_checkpoint is not None:
        from trm_jax.conversion.mathllm import read_trm_checkpoint

        trm, ema = read_trm_checkpoint(options.trm_checkpoint, config)
    with folders.replacing(options.output) as folder:
        checkpoint.save_model(folder, config, convert.read_backbone(source, config, options.dtype), trm, ema)
        convert.copy_tokenizer(source, folder / "tokenizer")
    size = sum(file.stat().st_size for file in options.output.rglob("*") if file.is_file())
    print(
        f"converted {source}\n  into {options.output}: {config.num_layers} layers, width {config.width}, vocabulary "
        f"{config.vocab_size:,}, {size / 1e6:,.1f} MB on disk"
    )
    if trm is not None:
        print(f"  with the recursion of {options.trm_checkpoint}: {trm.config}")


if __name__ == "__main__":
    cli.run(main, Options, __doc__)
