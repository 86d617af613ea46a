"""Writes the trained part of a model as others can read it: weights, configs, tokenizer, model card, a PyTorch module."""

import json
import pathlib
import shutil

from trm_jax.checkpoints import CheckpointError, Fingerprint, SavedModel, backbone_dtype, load_backbone
from trm_jax.conversion import TOKENIZER_FILES, copy_tokenizer, write_hugging_face, write_recursion
from trm_jax.files import lock_beside, locked, read_object, write_whole
from trm_jax.model import TRM, named_weights
from trm_jax.publishing.card import model_card, size_in_words
from trm_jax.publishing.export_config import NAME, ExportConfig, is_export, template_digest

WEIGHTS, MODULE, CARD, BACKBONE = "trm.safetensors", "modeling_trm.py", "README.md", "backbone"
# What transformers has written into tokenizer_config.json about the machine that a tokenizer was saved on.
OF_THE_MACHINE = ("name_or_path", "tokenizer_file", "special_tokens_map_file")


def export(saved: SavedModel, output: pathlib.Path, backbone_too: bool = False) -> str:
    """Writes the exported folder `output`, with the moving average of the recursion's weights, and says what is in it.

    With `backbone_too` the backbone is written as well, as a Hugging Face folder. A model card that is there already stays,
    because its author may have changed it. No path of this machine is written. Raises CheckpointError if there is no trained
    recursion, or if `output` holds something else than an export of the same weights.

    Example: `print(export(SavedModel.open("runs/gsm8k"), pathlib.Path("runs/export")))`.
    """
    trm = saved.load_trm()
    model = saved.folder.model
    config = ExportConfig(
        trm=trm.config,
        backbone=model.backbone_config,
        backbone_dtype=backbone_dtype(model),
        backbone_fingerprint=model.backbone_fingerprint,
        base_model=model.base_model,
        trm_fingerprint=Fingerprint.of(named_weights(trm).items()),
        chat_template_sha256=template_digest(saved.tokenizer),
        trained_on=saved.trained_on,
        checkpoint=saved.label,
        keeps_annotations=saved.keeps_annotations,
    )
    _require_place(output, config)
    with locked(lock_beside(output), output):
        output.mkdir(parents=True, exist_ok=True)
        config.write(output)  # first: what a kill leaves half done can then be told from other folders, and done again
        write_recursion(output / WEIGHTS, trm)
        _write_tokenizer(model.path / "tokenizer", output)
        shutil.copyfile(pathlib.Path(__file__).with_name(MODULE), output / MODULE)
        shutil.rmtree(output / BACKBONE, ignore_errors=True)
        if backbone_too:
            write_hugging_face(output / BACKBONE, load_backbone(model))
            _write_tokenizer(model.path / "tokenizer", output / BACKBONE)
        kept = (output / CARD).exists()
        if not kept:
            write_whole(output / CARD, model_card(saved, trm, config, backbone_too))
    return _describe(saved, output, trm, config, kept)


def exported_files(output: pathlib.Path) -> list[str]:
    """The files of an exported folder that belong to it, whatever else lies there.

    Example: `exported_files(pathlib.Path("runs/export"))[0]` is `"README.md"`.
    """
    own = {CARD, NAME, WEIGHTS, MODULE, *TOKENIZER_FILES}
    backbone = {f"{BACKBONE}/{name}" for name in ("config.json", "model.safetensors", *TOKENIZER_FILES)}
    return sorted(name for name in own | backbone if (output / name).is_file())


def _require_place(output: pathlib.Path, config: ExportConfig) -> None:
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    if not is_export(output):
        raise CheckpointError(
            f"{output} holds something else than an exported model: give another --output, or remove it"
        )
    if ExportConfig.read(output).trm_fingerprint != config.trm_fingerprint:
        raise CheckpointError(f"{output} holds an export of other weights: give another --output, or remove it")


def _write_tokenizer(source: pathlib.Path, target: pathlib.Path) -> None:
    copy_tokenizer(source, target)
    path = target / "tokenizer_config.json"
    if path.is_file():
        values = read_object(path, CheckpointError)
        values = {name: value for name, value in values.items() if name not in OF_THE_MACHINE}
        write_whole(path, json.dumps(values, indent=2, ensure_ascii=False) + "\n")


def _describe(saved: SavedModel, output: pathlib.Path, trm: TRM, config: ExportConfig, kept: bool) -> str:
    lines = [f"exported {saved.path} into {output}"]
    for name in exported_files(output):
        line = f"  {size_in_words((output / name).stat().st_size):>10}  {name}"
        if name == WEIGHTS and trm.head is not None:
            line += f", of which the trained output head is {size_in_words(trm.head[...].nbytes)}"
        if name == CARD and kept:
            line += ", which was there and stays as it is; remove it to have it written again"
        lines.append(line)
    if config.base_model is None:
        where = (
            f"lies in {BACKBONE}"
            if (output / BACKBONE).is_dir()
            else "must be given with --model by whoever loads this"
        )
        lines.append(f"the backbone was not converted from the hub, so it has no name there; it {where}")
    else:
        lines.append(f"the backbone is {config.base_model}")
    return "\n".join(lines)
