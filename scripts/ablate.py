"""Trains variants of the recursion with several seeds and compares them on the same questions; started again, it goes on.

Each run is a train.py and an eval_gsm8k.py in a folder of its own. Without options: the four presets on the embedded demo.
"""

import dataclasses
import pathlib
import subprocess
import sys

from trm_jax import cli
from trm_jax.errors import UserError

SCRIPTS = pathlib.Path(__file__).parent


@dataclasses.dataclass(frozen=True)
class Options(cli.CommonOptions):
    model: pathlib.Path = pathlib.Path("runs/model")
    """Model folder, from convert_qwen.py."""
    output: pathlib.Path = pathlib.Path("runs/ablation")
    """Folder of the runs, and of the report: report.md, report.png, report.json."""
    variants: pathlib.Path | None = None
    """TOML file: a table of train.py's options for each variant, by name; those above the tables are for all
    (default: the presets mathllm, residual, single, layers)."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Each variant is trained with each of them."""
    against: str = "single"
    """The variant that the others are compared with, beside the backbone."""
    data: str = "demo"
    """Training set, as for train.py."""
    eval_data: str | None = None
    """Questions, as for eval_gsm8k.py (default: the test split of --data, if that is gsm8k or demo)."""
    questions: int = 500
    """The first so many questions."""
    max_new_tokens: int | None = None
    """Tokens of the longest completion (default: as eval_gsm8k.py)."""
    cache_hidden: bool = False
    """Keep the backbone's hidden states on disk, once for all variants and seeds, as train.py does."""


def main(options: Options) -> None:
    from trm_jax.experiments import Ablation, read_variants

    options.require(1, "questions", "max_new_tokens")
    settings = {name: value for name, value in vars(options).items() if name != "debug"}
    print(Ablation(**settings | {"variants": read_variants(options.variants)}).compare(run))


def run(script: str, *options) -> None:
    """Raises UserError where the script fails; it has said why."""
    command = [str(word) for word in (sys.executable, SCRIPTS / script, *options)]
    if status := subprocess.run(command, stdout=subprocess.DEVNULL).returncode:
        raise UserError(f"{script} ended with status {status}: {' '.join(command)}")


if __name__ == "__main__":
    cli.run(main, Options, __doc__)
