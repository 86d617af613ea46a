"""The model card of an exported model, the README.md that the hub shows: what it is, its evaluations, what is not shown."""

import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from trm_jax.checkpoints import CheckpointError, Fingerprint, RunFolder, SavedModel
from trm_jax.data import HUB_SETS, public_name
from trm_jax.errors import UserError
from trm_jax.files import read_object
from trm_jax.hardware import count_weights
from trm_jax.model import TRM, cast, named_weights
from trm_jax.publishing.export_config import ExportConfig

NOTHING = "There is no evaluation of exactly these weights in the folder that they were exported from."
NEEDED = ("questions", "correct", "accuracy", "accuracy_low", "accuracy_high")  # of a summary that goes into the table


def model_card(saved: SavedModel, trm: TRM, config: ExportConfig, backbone_too: bool) -> str:
    """The card as Markdown, with YAML in front.

    Example: `model_card(saved, trm, config, backbone_too=False)`.
    """
    loops = config.trm
    backbone = f"`{config.base_model}`" if config.base_model else "a Qwen2 model that has no name on the hub"
    place = "The backbone lies in `backbone`." if backbone_too else "The backbone is not among these files."
    summaries = evaluations(saved, trm)
    shown = "\n\n".join(filter(None, [_table(summaries) if summaries else "", end_of_training(saved)])) or NOTHING
    return f"""{_front_matter(config)}
# A Tiny Recursive Model on {config.base_model.id if config.base_model else "a frozen Qwen2"}

A small recursive network on the last hidden states of {backbone}, whose own weights stayed frozen.
{place} Trained and exported with trm_jax.

- {count_weights(trm):,} trained weights in `trm.safetensors`, float32, the moving average of the training\
{_head_size(trm)}
- n = {loops.latent_updates} updates of z and one of y in a pass, T = {loops.recursions} passes in a supervision step, \
N_sup = {loops.supervision_steps} supervision steps for each token
- trained on: {", ".join(config.trained_on) or "not known"}; {_batches(config)}
- fingerprint of the backbone (SHA-256 of its weights): `{config.backbone_fingerprint}`

## How to use it

With trm_jax, which refuses any other backbone:

    import trm_jax

    model = trm_jax.load_model("USER/NAME")    # or the folder of these files
    tokenizer = trm_jax.load_tokenizer("USER/NAME")

`modeling_trm.py` computes the logits of whole sequences in PyTorch. It is there to be read and to check with, and is never
loaded by itself.

## Evaluation

{shown}

## What is not shown

- That the recursion is what helps. For that a model that is trained alike and calls its block only once must be worse, on
  the same questions.
- How it does on other kinds of questions than those in the table.
- Which rows of the test questions the backbone has seen in its own training.
"""


def evaluations(saved: SavedModel, trm: TRM) -> list[dict[str, Any]]:
    """The summaries in the run's folder `evaluation` that are of exactly these weights, or of their backbone alone."""
    own, found = saved.folder.model.backbone_fingerprint, []
    prints = {"float32": f"{own} {Fingerprint.of(named_weights(trm).items())}"}
    for summary in _summaries(saved.folder.path / "evaluation"):
        dtype = summary.get("dtype")
        if dtype == "bfloat16" and dtype not in prints:
            prints[dtype] = f"{own} {Fingerprint.of(named_weights(cast(trm, dtype)).items())}"
        wanted = own if summary.get("head") == "backbone" else prints.get(dtype)
        if summary.get("fingerprint") == wanted:
            found.append(summary)
    return sorted(found, key=lambda summary: (str(summary.get("data")), summary["head"]))


def end_of_training(saved: SavedModel) -> str:
    """The evaluation at the end of the run, as a paragraph; empty unless it was of the checkpoint that is exported."""
    run = saved.folder
    if not isinstance(run, RunFolder) or saved.label != str(run.config.num_batches):
        return ""
    try:
        values = read_object(run.path / "comparison.json", CheckpointError)
        rows = [{"head": head} | values[head] for head in ("backbone", "trm")]
        points = [100 * values["difference"][name] for name in ("estimate", "low", "high")]
        return (
            f"At the end of the training, on held-out questions:\n\n{_table(rows)}\n\n"
            f"Paired difference: {points[0]:+.1f} points [{points[1]:+.1f}, {points[2]:+.1f}]."
        )
    except (OSError, UserError, LookupError, TypeError):  # there is none, or it is of another version
        return ""


def _summaries(folder: pathlib.Path) -> Iterator[dict[str, Any]]:
    for path in sorted(folder.glob("*.json")):
        try:
            summary = read_object(path, CheckpointError)
        except UserError:
            continue
        if all(isinstance(summary.get(name), int | float) for name in NEEDED):
            yield summary


def _front_matter(config: ExportConfig) -> str:
    lines = ["---", "library_name: trm_jax", "pipeline_tag: text-generation", "tags: [recursive, qwen2]"]
    if config.base_model:
        lines += [f"base_model: {config.base_model.id}", "base_model_relation: adapter"]
    hub_sets = [HUB_SETS.get(name, (name.partition(":")[0],))[0] for name in config.trained_on]
    if hub_sets := [name for name in hub_sets if "/" in name]:
        lines += ["datasets:", *(f"- {name}" for name in hub_sets)]
    lines += [
        "# license: to be set by whoever publishes this; the licenses of the base model and of the data count, too"
    ]
    return "\n".join([*lines, "---", ""])


def _head_size(trm: TRM) -> str:
    if trm.head is None:
        return "; the output head is the backbone's own"
    return f", of which {trm.head[...].size:,} ({size_in_words(trm.head[...].nbytes)}) are the trained output head"


def _batches(config: ExportConfig) -> str:
    return f"{config.checkpoint} batches" if config.checkpoint.isdecimal() else "imported from MathLLM"


def size_in_words(size: int) -> str:
    """A number of bytes, such as `931.9 MB`."""
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size >= unit:
            return f"{size / unit:,.1f} {name}"
    return f"{size} B"


def _table(rows: list[Mapping[str, Any]]) -> str:
    lines = ["| questions | model | decoding | right | accuracy [95 %] |", "|---|---|---|---|---|"]
    for row in rows:
        # Former versions recorded no public name.
        data = (row.get("data_name") or public_name(str(row["data"]))) if "data" in row else "held out"
        name = "backbone alone" if row["head"] == "backbone" else "backbone + TRM"
        interval = f"{100 * row['accuracy']:.1f} % [{100 * row['accuracy_low']:.1f}, {100 * row['accuracy_high']:.1f}]"
        lines.append(f"| {data} | {name} | {_decoding(row)} | {row['correct']} of {row['questions']} | {interval} |")
    return "\n".join(lines)


def _decoding(row: Mapping[str, Any]) -> str:
    """The settings in which two rows of a table can differ."""
    names = ("supervision_steps", "kv_cache", "early_exit", "samples", "temperature", "max_new_tokens", "dtype")
    return ", ".join(f"{name} {row[name]}" for name in names if name in row) or "greedy"
