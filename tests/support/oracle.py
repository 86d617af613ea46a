"""Our models in PyTorch's hands: for the oracle, and as checkpoints of the original."""

import numpy as np
import torch

from tests.reference.model import ReferenceModel
from tests.support.models import random_tokens
from trm_jax.conversion.mathllm import COMPONENTS
from trm_jax.conversion.recursion import KEYS
from trm_jax.data import Example
from trm_jax.model import QwenTRM, named_weights


def as_torch(tree):
    return {name: torch.tensor(np.asarray(weight)) for name, weight in named_weights(tree).items()}


def reference(model: QwenTRM, dtype=torch.float32) -> ReferenceModel:
    weights = [{k: v.to(dtype) for k, v in as_torch(tree).items()} for tree in (model.backbone, model.trm)]
    return ReferenceModel(model.backbone.config, model.trm.config, *weights)


def examples() -> list[Example]:
    """Rows of unequal length with prompts of unequal length."""
    lengths = ((9, 4), (7, 3), (12, 5), (5, 2))
    return [Example(random_tokens(length, seed=length), prompt) for length, prompt in lengths]


def save_original(path, trm, *, ema=None, config=None):
    """A checkpoint as the original's torch.save writes it."""

    def state_dicts(trm):
        parts = {part: {} for part in COMPONENTS}
        for name, weight in named_weights(trm).items():
            part, key = KEYS[name].split(".", 1)
            value = np.asarray(weight).T.copy() if name.endswith("kernel") else np.asarray(weight)
            parts[part][key] = torch.tensor(value[None, None] if name == "y_init" else value)
        return parts

    content = state_dicts(trm)
    if ema is not None:
        content["ema"] = {
            "shadow": {f"{part}.{key}": v for part, d in state_dicts(ema).items() for key, v in d.items()}
        }
    if config is not None:
        content["config"] = config
    torch.save(content, path)
