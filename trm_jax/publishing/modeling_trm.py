"""A Tiny Recursive Model on a frozen Qwen2, in PyTorch: the logits of whole sequences, after each supervision step.

It reads `trm.safetensors` and `trm_config.json`, which lie beside it. The backbone is the model and revision that
`trm_config.json` names as `base_model`, or the folder `backbone`, if there is one:

    from transformers import AutoTokenizer, Qwen2ForCausalLM
    from modeling_trm import TinyRecursiveModel

    backbone = Qwen2ForCausalLM.from_pretrained("backbone")
    model = TinyRecursiveModel.from_folder(".", backbone)
    tokens = AutoTokenizer.from_pretrained(".")("What is 17 times 23?", return_tensors="pt")["input_ids"]
    next_token = model(tokens)[-1, :, -1].argmax(-1)

It needs torch, transformers and safetensors, nothing else, and is for reading and checking: it keeps no keys and values, so
that each new token costs the whole sequence again. trm_jax, with which it agrees to rounding, generates with a cache.
"""

import hashlib
import json
import pathlib

import safetensors.torch
import torch
from torch import nn
from torch.nn import functional as F

NORM_EPS = 1e-6
MLP_RATIO = 4  # inner width of the MLP, in widths
NUM_LEVELS = 4  # hidden states of the backbone: after the embedding, 1/3, 2/3 and all of the layers
LAYER_NAMES = {  # of the weights of the backbone's layers in trm_jax, in the order of the fingerprint
    "attention_norm.scale": "input_layernorm.weight",
    "attention.query.kernel": "self_attn.q_proj.weight",
    "attention.query.bias": "self_attn.q_proj.bias",
    "attention.key.kernel": "self_attn.k_proj.weight",
    "attention.key.bias": "self_attn.k_proj.bias",
    "attention.value.kernel": "self_attn.v_proj.weight",
    "attention.value.bias": "self_attn.v_proj.bias",
    "attention.output.kernel": "self_attn.o_proj.weight",
    "mlp_norm.scale": "post_attention_layernorm.weight",
    "mlp.gate.kernel": "mlp.gate_proj.weight",
    "mlp.up.kernel": "mlp.up_proj.weight",
    "mlp.down.kernel": "mlp.down_proj.weight",
}


def fingerprint(backbone, dtype, tied_head):
    """The SHA-256 digest of a Qwen2ForCausalLM's weights in `dtype`: names in trm_jax, shapes and float32 values."""
    tensors, digest = backbone.state_dict(), hashlib.sha256()
    keys = {"embedding": ["model.embed_tokens.weight"], "norm.scale": ["model.norm.weight"]}
    if not tied_head:
        keys["lm_head"] = ["lm_head.weight"]
    for name, key in LAYER_NAMES.items():
        keys[f"layers.{name}"] = [f"model.layers.{layer}.{key}" for layer in range(len(backbone.model.layers))]
    for name, parts in keys.items():
        shape = tuple(tensors[parts[0]].shape)
        shape = shape[::-1] if name.endswith("kernel") else shape
        digest.update(f"{name} {(len(parts), *shape) if name.startswith('layers') else shape} ".encode())
        for part in parts:
            values = tensors[part].to(dtype).float()
            digest.update((values.T if name.endswith("kernel") else values).contiguous().cpu().numpy())
    return digest.hexdigest()


def rms_normalize(h):
    wide = h.float()
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + NORM_EPS)).to(h.dtype)


def rotate(h, theta):
    """Rotary embedding of h[B, S, heads, H]: the pairs (i, i + H/2) are turned by position * theta^(-2i/H)."""
    half = h.shape[-1] // 2
    frequencies = theta ** (-torch.arange(half, dtype=torch.float32, device=h.device) / half)
    angles = torch.arange(h.shape[1], dtype=torch.float32, device=h.device)[:, None, None] * frequencies
    first, second = h.float().split(half, dim=-1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(h.dtype)


class Norm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, h):
        return rms_normalize(h) * self.weight


class Attention(nn.Module):
    """Causal attention, without biases."""

    def __init__(self, width, heads, kv_heads, theta):
        super().__init__()
        self.head_size, self.theta = width // heads, theta
        self.q_proj = nn.Linear(width, heads * self.head_size, bias=False)
        self.k_proj = nn.Linear(width, kv_heads * self.head_size, bias=False)
        self.v_proj = nn.Linear(width, kv_heads * self.head_size, bias=False)
        self.o_proj = nn.Linear(heads * self.head_size, width, bias=False)

    def forward(self, h):
        queries, keys, values = (
            project(h).unflatten(-1, (-1, self.head_size)) for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        parts = (part.transpose(1, 2) for part in (rotate(queries, self.theta), rotate(keys, self.theta), values))
        attended = F.scaled_dot_product_attention(*parts, is_causal=True, enable_gqa=True)
        return self.o_proj(attended.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    def __init__(self, width, inner):
        super().__init__()
        self.gate_proj = nn.Linear(width, inner, bias=False)
        self.up_proj = nn.Linear(width, inner, bias=False)
        self.down_proj = nn.Linear(inner, width, bias=False)

    def forward(self, h):
        return self.down_proj(F.silu(self.gate_proj(h)) * self.up_proj(h))


class Block(nn.Module):
    """The block that makes all updates: with residuals and a norm after each (post_norm), or without any (plain)."""

    def __init__(self, kind, width, heads, kv_heads, inner, theta):
        super().__init__()
        self.kind = kind
        self.norm1, self.attn = Norm(width), Attention(width, heads, kv_heads, theta)
        self.norm2, self.mlp = Norm(width), MLP(width, inner)

    def forward(self, h):
        if self.kind == "post_norm":
            h = self.norm1(h + self.attn(h))
            return self.norm2(h + self.mlp(h))
        return self.mlp(self.norm2(self.attn(self.norm1(h))))


class TinyRecursiveModel(nn.Module):
    """The recursion and its backbone. The names of the weights are those of the original MathLLM, where it has them."""

    def __init__(self, config, backbone):
        """`config` is what `trm_config.json` holds, `backbone` a Qwen2ForCausalLM, which stays as it is."""
        super().__init__()
        self.config, sizes = config["trm"], config["backbone"]
        self.backbone = [backbone]  # in a list, so that its weights are not a part of this module's
        width, heads = sizes["width"], sizes["num_heads"]
        kv_heads = self.config["num_kv_heads"] or heads
        theta = self.config.get("rope_theta") or sizes["rope_theta"]
        dims = self.config["block"], width, heads, kv_heads, MLP_RATIO * width, theta
        self.interface, self.engine, self.heads = nn.Module(), nn.Module(), nn.Module()
        self.interface.y_init = nn.Parameter(torch.zeros(1, 1, width))
        if self.config["context"] == "mix":
            self.interface.mix = nn.Parameter(torch.zeros(NUM_LEVELS))
        if self.config["tied"]:
            self.engine.block = Block(*dims)
        else:
            self.engine.blocks = nn.ModuleList(Block(*dims) for _ in range(self.config["latent_updates"] + 1))
        self.heads.norm = Norm(width)
        if self.config["readout"] == "residual":
            self.heads.alpha = nn.Parameter(torch.zeros(width))
        if not self.config["frozen_head"]:
            self.heads.lm_head = nn.Linear(width, sizes["vocab_size"], bias=False)

    @classmethod
    def from_folder(cls, folder, backbone):
        """The model of an exported folder, in the type and on the device of its backbone; ValueError if that is another."""
        folder = pathlib.Path(folder)
        config = json.loads((folder / "trm_config.json").read_text(encoding="utf-8"))
        dtype, expected = config["backbone_dtype"], config["backbone_fingerprint"]
        found = fingerprint(backbone, getattr(torch, dtype), config["backbone"]["tied_head"])
        if found != expected:
            raise ValueError(
                f"the backbone's fingerprint is {found[:12]}…, not {expected[:12]}…: it is another one than the recursion "
                f"was trained on, or its weights were rounded when it was loaded as {backbone.dtype}, which {dtype} avoids"
            )
        model = cls(config, backbone)
        model.load_state_dict(safetensors.torch.load_file(folder / "trm.safetensors"))
        return model.to(backbone.device, backbone.dtype)

    def hidden_states(self, tokens):
        """The backbone's last hidden states after its final norm, and four levels of its residual stream."""
        decoder = self.backbone[0].model
        modules = [*decoder.layers, decoder.norm]  # what enters module d is the stream after d layers
        depths = [round(level * len(decoder.layers) / (NUM_LEVELS - 1)) for level in range(NUM_LEVELS)]
        levels, hooks = {}, []
        for depth in depths:
            keep = lambda module, inputs, depth=depth: levels.update({depth: inputs[0]})  # noqa: E731
            hooks.append(modules[depth].register_forward_pre_hook(keep))
        try:
            last = decoder(tokens, use_cache=False).last_hidden_state
        finally:
            for hook in hooks:
                hook.remove()
        return last, [levels[depth] for depth in depths]

    @torch.no_grad()
    def forward(self, tokens):
        """Logits[N_sup, B, S, V] in float32 of the tokens[B, S], whole sequences that are padded on the right."""
        last, levels = self.hidden_states(tokens)
        context = last
        if self.config["context"] == "mix":
            context = last + sum(mix * rms_normalize(h) for mix, h in zip(self.interface.mix, levels, strict=True))
        calls = self.config["latent_updates"] + 1
        *of_z, of_y = [self.engine.block] * calls if self.config["tied"] else self.engine.blocks
        y, z = self.interface.y_init.expand_as(context), torch.zeros_like(context)
        logits = []
        for _ in range(self.config["supervision_steps"]):
            for _ in range(self.config["recursions"]):
                for block in of_z:
                    z = block(context + y + z)
                y = of_y(y + z)
            logits.append(self.readout(last, y))
        return torch.stack(logits)

    def readout(self, last, y):
        answer = self.heads.norm(y)
        if self.config["readout"] == "residual":
            answer = last + self.heads.alpha * answer
        head = self.backbone[0].lm_head if self.config["frozen_head"] else self.heads.lm_head
        return head(answer).float()
