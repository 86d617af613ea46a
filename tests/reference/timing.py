"""The PyTorch peers as calls that trm_jax.benchmark can time."""

import dataclasses
import pathlib
import tempfile

import jax
import numpy as np
import torch
import transformers

from tests.reference.peer import IGNORED, Peer, PeerTrainer
from trm_jax.benchmark.training import OPTIMIZER_STEPS
from trm_jax.conversion.hugging_face import write_hugging_face
from trm_jax.data.loader import NO_LABEL
from trm_jax.model.qwen_trm import new_trm
from trm_jax.model.weights import named_weights

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


def make_decoding_peers(model, config, dtype, new_tokens):
    """Calls for prompts of one length: the oracle with its growing cache or, for the backbone alone, transformers."""
    dtype, device = getattr(torch, dtype), torch_device()
    if config.head == "backbone":
        return {"transformers": transformers_runner(model.backbone, dtype, device, new_tokens)}
    weights = (as_torch(tree, dtype, device) for tree in (model.backbone, model.trm))
    trm_config = dataclasses.replace(model.trm.config, supervision_steps=config.supervision_steps)
    peer = Peer(model.backbone.config, trm_config, *weights)

    def run(prompts):
        tokens = torch.tensor(prompts, device=device)
        return peer.generate(tokens, new_tokens, config.kv_cache == "per_pass").cpu().numpy()

    return {"PyTorch": run}


def transformers_runner(backbone, dtype, device, new_tokens):
    with tempfile.TemporaryDirectory() as folder:
        write_hugging_face(pathlib.Path(folder) / "model", backbone)
        model = transformers.AutoModelForCausalLM.from_pretrained(pathlib.Path(folder) / "model", dtype=dtype)
    model = model.to(device).eval()

    def run(prompts):
        tokens = torch.tensor(prompts, device=device)
        options = dict(max_new_tokens=new_tokens, do_sample=False, eos_token_id=None)
        found = model.generate(tokens, attention_mask=torch.ones_like(tokens), **options)
        return found[:, tokens.shape[1] :].cpu().numpy()

    return run
