"""Our folders on disk: models and training runs, checked before they are used."""

from trm_jax.checkpoints.folders import (
    CheckpointError,
    ModelFolder,
    RunConfig,
    RunFolder,
    kind_of,
    open_folder,
    read_config,
    write_config,
)
from trm_jax.checkpoints.integrity import DamageError, Fingerprint, all_finite, require_sealed, seal
from trm_jax.checkpoints.models import SavedModel, backbone_dtype, load_backbone, save_model, tokenizer_of
from trm_jax.checkpoints.replace import ENTRIES, replacing
from trm_jax.checkpoints.training import HELD_OUT_LOSS, Checkpoints, newest_sound
