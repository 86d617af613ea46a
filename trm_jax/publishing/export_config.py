"""What `trm_config.json` of an exported model says."""

import dataclasses
import hashlib
import json
import pathlib
from typing import Any, Self

from trm_jax.checkpoints import CheckpointError, ModelFolder
from trm_jax.config import QwenConfig, TRMConfig
from trm_jax.data import HubModel
from trm_jax.errors import differences, listing
from trm_jax.files import read_object, write_whole

NAME = "trm_config.json"
FORMAT = 1  # of exported folders; one of another format is refused
TEXTS = ("backbone_dtype", "backbone_fingerprint", "trm_fingerprint", "chat_template_sha256", "checkpoint")


@dataclasses.dataclass(frozen=True)
class ExportConfig:
    """The recursion, and all that decides whether a backbone and a tokenizer are those that it was trained with."""

    trm: TRMConfig
    backbone: QwenConfig
    backbone_dtype: str  # in which its fingerprint was taken
    backbone_fingerprint: str
    base_model: HubModel | None  # None if the backbone did not come from the hub
    trm_fingerprint: str
    chat_template_sha256: str
    trained_on: tuple[str, ...]  # names of public sets; of others only that there are some
    checkpoint: str  # the number of batches that it was trained for, or `imported`
    keeps_annotations: bool = False  # whether the solutions had GSM8K's calculator marks; former versions did not say

    def write(self, folder: pathlib.Path) -> None:
        """Writes it into an exported folder."""
        values = {"format": FORMAT} | dataclasses.asdict(self)
        write_whole(folder / NAME, json.dumps(values, indent=2) + "\n")

    @classmethod
    def read(cls, folder: pathlib.Path) -> Self:
        """Reads that of an exported folder. Raises CheckpointError, ConfigError or HubError."""
        path = folder / NAME
        values = read_object(path, CheckpointError)
        if values.get("format") != FORMAT:
            raise CheckpointError(
                f"{path} is of format {values.get('format')!r:.80}, this version of trm_jax reads format {FORMAT}: "
                "export the model again, or use the version that wrote it"
            )
        values.setdefault("keeps_annotations", False)
        if missing := [field.name for field in dataclasses.fields(cls) if field.name not in values]:
            raise CheckpointError(f"{path} is not whole: it lacks {listing(missing)}")
        if wrong := [name for name in TEXTS if not isinstance(values[name], str)]:
            raise CheckpointError(f"{path} has no text as {listing(wrong)}")
        if values["backbone_dtype"] not in ("bfloat16", "float32"):
            raise CheckpointError(f"{path} has {values['backbone_dtype']!r:.80} as the type of the backbone's weights")
        if not _is_digest(values["backbone_fingerprint"]):
            raise CheckpointError(f"{path} has no SHA-256 digest as the backbone's fingerprint")
        sets = values["trained_on"]
        if not isinstance(sets, list) or not all(isinstance(name, str) for name in sets):
            raise CheckpointError(f"{path} has no list of names as trained_on")
        return cls(
            **{name: values[name] for name in TEXTS},
            trm=TRMConfig.from_json(values["trm"]),
            backbone=QwenConfig.from_json(values["backbone"]),
            base_model=HubModel.from_json(values["base_model"]),
            trained_on=tuple(sets),
            keeps_annotations=values["keeps_annotations"] is True,
        )

    @property
    def backbone_name(self) -> str:
        """A name for its backbone: the weights' fingerprint, and a digest of what else decides about answers."""
        settings = json.dumps([self.backbone.to_json(), self.chat_template_sha256], sort_keys=True)
        return f"{self.backbone_fingerprint}-{hashlib.sha256(settings.encode()).hexdigest()[:16]}"

    def require_backbone(self, folder: ModelFolder, name: str) -> None:
        """Raises CheckpointError unless a model folder holds the backbone that `name`, which this config is of, needs."""
        if folder.backbone_fingerprint != self.backbone_fingerprint:
            raise CheckpointError(
                f"{name} was trained on another backbone than the one in {folder.path}: its fingerprint is "
                f"{self.backbone_fingerprint[:12]}…, not {folder.backbone_fingerprint[:12]}…"
            )
        there, here = ({**config.to_json(), "end_tokens": None} for config in (self.backbone, folder.backbone_config))
        if others := differences(there, here):
            raise CheckpointError(
                f"{name} was trained on the backbone in {folder.path} configured otherwise: {listing(others)}"
            )


def template_digest(tokenizer: Any) -> str:
    """The SHA-256 digest of a tokenizer's chat template: prompts must be written as they were in training."""
    return hashlib.sha256(str(tokenizer.chat_template).encode()).hexdigest()


def is_export(folder: pathlib.Path) -> bool:
    """Whether this is an exported folder. Example: `is_export(pathlib.Path("runs/export"))`."""
    return (folder / NAME).is_file()


def _is_digest(text: str) -> bool:
    return len(text) == 64 and set(text) <= set("0123456789abcdef")
