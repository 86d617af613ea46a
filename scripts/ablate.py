"""Trains variants of the recursion with several seeds and compares them on the same questions; started again, it goes on.

Each run is a train.py and an eval_gsm8k.py in a folder of its own. Without options: the four presets on the embedded demo.
"""

import dataclasses
import pathlib
import subprocess
import sys
import tomllib
from typing import Any

from trm_jax import cli
from trm_jax.errors import UserError, listing
from trm_jax.files import locked

PRESETS = {name: {"preset": name} for name in ("mathllm", "residual", "single", "layers")}
OWN = ("model", "output", "data", "seed", "eval-limit")  # options of train.py that are not a variant's to choose
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
    """Questions, as for eval_gsm8k.py (default: the test split of --data; a file has none)."""
    questions: int = 500
    """The first so many questions."""
    max_new_tokens: int | None = None
    """Tokens of the longest answer (default: as eval_gsm8k.py)."""


def main(options: Options) -> None:
    variants = read_variants(options.variants)
    if options.against not in variants:
        raise UserError(f"--against {options.against} is none of the variants {sorted(variants)}")
    options.require(1, "questions", "max_new_tokens")
    if options.eval_data is None and pathlib.Path(options.data).is_file():
        raise UserError(f"{options.data} is a file of training rows: name the questions with --eval-data")
    with locked(options.output / ".lock", options.output):
        compare_variants(options, variants)


def compare_variants(options: Options, variants: dict[str, dict[str, Any]]) -> None:
    runs = [(name, seed) for seed in options.seeds for name in variants]  # a whole seed first: a report can come early
    questions = ["--data", options.eval_data or options.data, "--limit", options.questions]
    if options.max_new_tokens is not None:
        questions += ["--max-new-tokens", options.max_new_tokens]
    backbone = options.output / "backbone.jsonl"
    run("eval_gsm8k.py", "--checkpoint", options.model, "--head", "backbone", "--output", backbone, *questions)
    for number, (name, seed) in enumerate(runs, start=1):
        folder = options.output / name / str(seed)
        print(f"[{number} of {len(runs)}] {name}, seed {seed}", flush=True)
        own = ["--model", options.model, "--output", folder, "--data", options.data, "--seed", seed, "--eval-limit", 0]
        run("train.py", *own, *arguments(variants[name]))
        run("eval_gsm8k.py", "--checkpoint", folder, "--output", folder / "answers.jsonl", *questions)

    from trm_jax.experiments.ablation import report

    folders = {name: [options.output / name / str(seed) for seed in options.seeds] for name in variants}
    print(report(backbone, folders, options.against, options.output, options.questions))


def read_variants(path: pathlib.Path | None) -> dict[str, dict[str, Any]]:
    """train.py's options for each variant. Raises UserError."""
    if path is None:
        return PRESETS
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not TOML: {error}") from None
    common = {key: value for key, value in content.items() if not isinstance(value, dict)}
    variants = {name: common | own for name, own in content.items() if isinstance(own, dict)}
    for name, own in variants.items():
        if nested := [key for key in own if isinstance(own[key], dict)]:
            raise UserError(f'{path}: {name} holds a table; a name with a dot needs quotes: ["{name}.{nested[0]}"]')
        if taken := [key for key in own if key.replace("_", "-") in OWN]:
            raise UserError(f"{path}: {name} sets {listing(taken)}, which ablate.py itself gives to each run")
    return variants


def arguments(options: dict[str, Any]) -> list[str]:
    """`{"batch-size": 8, "random-depth": true}` as a command line has it."""
    words = []
    for name, value in options.items():
        if isinstance(value, bool):
            words.append(f"--{name}" if value else f"--no-{name}")
        else:
            words += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    return words


def run(script: str, *options) -> None:
    """Raises UserError where the script fails; it has said why."""
    command = [sys.executable, SCRIPTS / script, *options]
    if status := subprocess.run(list(map(str, command)), stdout=subprocess.DEVNULL).returncode:
        raise UserError(f"{script} ended with status {status}: {' '.join(map(str, command))}")


if __name__ == "__main__":
    cli.run(main, Options, __doc__)
