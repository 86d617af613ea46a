"""Models to export, and a hub that lies in a folder."""

import pathlib
import shutil

from tests.support.models import randomize
from trm_jax.checkpoints import load_backbone, open_folder, save_model
from trm_jax.config import TRMConfig
from trm_jax.data import HubModel
from trm_jax.model import named_weights, new_trm


def imported(kind: str, source: pathlib.Path, folder: pathlib.Path, base_model: HubModel | None = None) -> None:
    """Writes a model folder with the backbone of `source` and a random recursion, whose moving average differs from it."""
    loops = dict(latent_updates=2, recursions=2, supervision_steps=3)
    config = TRMConfig.residual(tied=False, **loops) if kind == "untied" else TRMConfig.preset(kind, **loops)
    model = open_folder(source).model
    backbone = load_backbone(model)
    # Little noise: PyTorch and JAX round differently, and a plain block magnifies that in every call.
    trm = randomize(new_trm(backbone, config), seed=3, scale=0.05)
    weights = named_weights(backbone).items()
    folder.mkdir(parents=True)
    save_model(folder, model.backbone_config, weights, trm, randomize(trm, seed=4, scale=0.05), base_model)
    shutil.copytree(source / "tokenizer", folder / "tokenizer")
