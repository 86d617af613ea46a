"""Makes the embedded demo model: a tokenizer and a tiny Qwen2, trained on word problems of one step, few of two.

python scripts/make_demo.py --output trm_jax/demo/model
"""

import dataclasses
import functools
import pathlib

from trm_jax import cli


@dataclasses.dataclass(frozen=True)
class Options(cli.CommonOptions):
    output: pathlib.Path = pathlib.Path("trm_jax/demo/model")
    """The Hugging Face folder to write."""
    batches: int = 400
    """Training batches of 64 problems."""
    two_step_share: float = 0.1
    """The share of two-step problems in the training set; the others have one step."""
    seed: int = 1
    """Seed of the weights, the problems and their order."""


def main(options: Options) -> None:
    from trm_jax.experiments import make_demo

    options.require(1, "batches")
    options.require(0, "seed")
    say = functools.partial(print, flush=True)
    make_demo(options.output, options.batches, options.two_step_share, options.seed, say)


if __name__ == "__main__":
    cli.run(main, Options, __doc__)
