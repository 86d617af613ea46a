"""Variants of the recursion, each trained with several seeds, and evaluated on the same questions."""

import dataclasses
import pathlib
import tomllib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from trm_jax.checkpoints import newest_sound, open_folder
from trm_jax.data import own_test_set
from trm_jax.errors import UserError, listing
from trm_jax.experiments.ablation_report import report
from trm_jax.files import locked

PRESETS = {name: {"preset": name} for name in ("mathllm", "residual", "single", "layers")}
TRUE_OR_FALSE = ("freeze-head",)  # options that are no flags, because their default depends on the preset
OWN = ("model", "output", "data", "seed", "eval-limit", "cache-hidden")  # options of train.py that a variant cannot set
HOW = ("device", "dtype", "attention", "mesh")  # options of train.py that eval_gsm8k.py must have, too
# A function that runs a script with options to its end, and raises a UserError if it fails.
RunScript = Callable[..., None]


@dataclasses.dataclass(frozen=True)
class Ablation:
    """The variants to train, and the questions to evaluate them on.

    Example: `Ablation(model, output, PRESETS, seeds=(0, 1, 2), against="single", data="demo").compare(run_script)`.
    """

    model: pathlib.Path
    output: pathlib.Path  # the folder of the runs and of the report
    variants: Mapping[str, Mapping[str, Any]]  # options of train.py, by variant
    seeds: Sequence[int]
    against: str  # the variant that the others are compared with
    data: str
    eval_data: str | None = None  # None: the test split of `data`
    questions: int = 500
    max_new_tokens: int | None = None
    cache_hidden: bool = False  # all runs share the backbone's hidden states, on disk

    def __post_init__(self):
        if self.against not in self.variants:
            raise UserError(f"--against {self.against} is none of the variants {sorted(self.variants)}")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise UserError(f"--seeds {listing(self.seeds) or 'names none'}: name at least one, and each once")
        if self.eval_data is None and own_test_set((self.data,)) is None:
            raise UserError(f"a test split is known of gsm8k and demo, not of {self.data}: name one with --eval-data")

    def compare(self, run: RunScript) -> str:
        """Trains and evaluates what is not there yet, by train.py and eval_gsm8k.py, and returns the report.

        Raises a UserError where a script fails, BusyError if another process works in the folder.
        """
        with locked(self.output / ".lock", self.output):
            return self._compare(run)

    def _compare(self, run: RunScript) -> str:
        # All variants with the first seed come first, so that they can be compared early.
        runs = [(name, seed) for seed in self.seeds for name in self.variants]
        questions = ["--data", self.eval_data or self.data, "--limit", self.questions]
        if self.max_new_tokens is not None:
            questions += ["--max-new-tokens", self.max_new_tokens]
        backbone = self.output / "backbone.jsonl"
        own = [{name: value for name, value in each.items() if name in HOW} for each in self.variants.values()]
        shared = arguments(own[0]) if all(each == own[0] for each in own) else []
        run(
            "eval_gsm8k.py", "--checkpoint", self.model, "--head", "backbone", "--output", backbone, *questions, *shared
        )
        for number, (name, seed) in enumerate(runs, start=1):
            folder = self.output / name / str(seed)
            print(f"[{number} of {len(runs)}] {name}, seed {seed}", flush=True)
            own = ["--model", self.model, "--output", folder, "--data", self.data, "--seed", seed, "--eval-limit", 0]
            own += ["--cache-hidden"] if self.cache_hidden else []
            variant = self.variants[name]
            run("train.py", *own, *arguments(variant))
            require_finished(folder)
            how = arguments({option: value for option, value in variant.items() if option in HOW})
            run("eval_gsm8k.py", "--checkpoint", folder, "--output", folder / "answers.jsonl", *questions, *how)
        folders = {name: [self.output / name / str(seed) for seed in self.seeds] for name in self.variants}
        return report(backbone, folders, self.against, self.output, self.questions)


def require_finished(folder: pathlib.Path) -> None:
    """Raises a UserError unless a training has come to its end; SIGTERM ends it before, and that is no failure of it."""
    newest, _ = newest_sound(folder / "checkpoints")
    whole = open_folder(folder).config.num_batches
    if newest != whole:
        raise UserError(f"the training in {folder} was stopped after {newest or 0:,} of {whole:,} batches: start again")


def read_variants(path: pathlib.Path | None) -> dict[str, dict[str, Any]]:
    """train.py's options for each variant of a TOML file, or the presets. Raises UserError.

    Example: `read_variants(pathlib.Path("docs/ablations/presets.toml"))`.
    """
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


def arguments(options: Mapping[str, Any]) -> list[str]:
    """The options, for example `{"batch-size": 8, "random-depth": True}`, as arguments of a command line."""
    words = []
    for name, value in options.items():
        if isinstance(value, bool) and name not in TRUE_OR_FALSE:
            words.append(f"--{name}" if value else f"--no-{name}")
        else:
            words += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    return words
