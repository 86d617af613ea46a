"""The PyTorch peers as calls that trm_jax.benchmark can time."""

import jax
import numpy as np
import torch

from tests.reference.peer import IGNORED, Peer, PeerTrainer
from trm_jax.batches import NO_LABEL
from trm_jax.benchmark.training import OPTIMIZER_STEPS
from trm_jax.model import new_trm
from trm_jax.weights import named_weights

ORIGINAL_LENGTH = 1024  # the original pads every row to this many tokens


def as_torch(tree, dtype, device):
    """Named tensors, one weight at a time through the host."""
    weights = named_weights(tree).items()
    return {k: torch.from_numpy(np.array(v, np.float32)).to(device, dtype) for k, v in weights}


def torch_device():
    return "cuda" if torch.cuda.is_available() and jax.default_backend() == "gpu" else "cpu"


def make_training_peers(backbone, trm_config, train_config):
    """Calls for a batch: at equal shapes, and by the original's recipe. Both keep their weights in the compute type."""
    dtype, device = getattr(torch, train_config.dtype), torch_device()
    trm = as_torch(new_trm(backbone, trm_config), dtype, device)
    weights = as_torch(backbone, dtype, device)

    def runner(logits_everywhere):
        copies = {name: weight.clone() for name, weight in trm.items()}
        model = Peer(backbone.config, trm_config, weights, copies)
        trainer = PeerTrainer(model, train_config, OPTIMIZER_STEPS, logits_everywhere)

        def run(batch):
            tokens, positions, labels = (
                torch.from_numpy(array[0]).to(device).long() for array in (batch.tokens, batch.positions, batch.labels)
            )
            if logits_everywhere:
                tokens = torch.nn.functional.pad(tokens, (0, ORIGINAL_LENGTH - tokens.shape[1]))
            losses = trainer.train_padded(tokens, positions, labels.where(labels != NO_LABEL, IGNORED))
            losses[-1].item()  # waits

        return run

    return {"PyTorch, equal shapes": runner(False), "PyTorch, the original's recipe": runner(True)}
