"""Converts a Qwen2/Qwen2.5 model from Hugging Face into a self-contained trm_jax folder. Without options: the demo's."""

import dataclasses
import pathlib
from typing import Literal

from trm_jax import cli, demo


@dataclasses.dataclass(frozen=True)
class Options(cli.CommonOptions):
    model: str | None = None
    """Hugging Face folder, or hub id such as Qwen/Qwen2.5-Math-1.5B-Instruct (default: the embedded demo model)."""
    output: pathlib.Path = pathlib.Path("runs/model")
    """Folder to write; a model that is there is replaced, all else in the folder stays."""
    trm_checkpoint: pathlib.Path | None = None
    """Also import a trm_model.pt of the original MathLLM. This option alone needs torch."""
    dtype: Literal["bfloat16", "float32"] | None = None
    """Type of the backbone's weights on disk (default: as they are stored in the model; float32 for float16)."""


def main(options: Options) -> None:
    from trm_jax.conversion import convert, describe_conversion, find_model

    source = demo.MODEL if options.model is None else find_model(options.model)
    trm = convert(source, options.output, options.dtype, options.trm_checkpoint)
    print(describe_conversion(source, options.output))
    if trm is not None:
        print(f"  with the recursion of {options.trm_checkpoint}: {trm.config}")


if __name__ == "__main__":
    cli.run(main, Options, __doc__)
