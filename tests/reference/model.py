"""Backbone, recursion and decoding of one unpadded sequence at a time, in float32.

Weights are a dictionary of tensors by trm_jax's names; kernels are [in, out]. Nothing here is shared with trm_jax.
"""

import math

import torch


def rms_norm(h, scale, eps):
    return h / torch.sqrt((h * h).mean(-1, keepdim=True) + eps) * scale


def rotate(h, positions, theta):
    """h[S, heads, H] with each pair (i, i + H/2) turned by position · theta^(-2i/H)."""
    half = h.shape[-1] // 2
    angles = positions[:, None].float() * theta ** (-torch.arange(half).float() / half)
    turn = torch.polar(torch.ones_like(angles), angles)[:, None]
    turned = torch.complex(h[..., :half], h[..., half:]) * turn
    return torch.cat([turned.real, turned.imag], dim=-1)


def project_qkv(h, weights, prefix, heads, kv_heads, positions, theta):
    parts = []
    for name, count in (("query", heads), ("key", kv_heads), ("value", kv_heads)):
        projected = h @ weights[f"{prefix}.{name}.kernel"] + weights.get(f"{prefix}.{name}.bias", 0)
        projected = projected.reshape(len(h), count, -1)
        parts.append(projected if name == "value" else rotate(projected, positions, theta))
    return parts


def causal_attention(q, k, v):
    """q[S, N, H] are the last S of the T positions that k[T, K, H] and v[T, K, H] hold."""
    group = q.shape[1] // k.shape[1]
    rows = []
    for i in range(len(q)):
        seen = len(k) - len(q) + i + 1
        heads = []
        for n in range(q.shape[1]):
            scores = k[:seen, n // group] @ q[i, n] / math.sqrt(q.shape[-1])
            heads.append(torch.softmax(scores, 0) @ v[:seen, n // group])
        rows.append(torch.cat(heads))
    return torch.stack(rows)


def swiglu(h, weights, prefix):
    gate = h @ weights[f"{prefix}.gate.kernel"]
    return (gate * torch.sigmoid(gate) * (h @ weights[f"{prefix}.up.kernel"])) @ weights[f"{prefix}.down.kernel"]


class ReferenceModel:
    """`qwen` and `config` are read for their numbers only."""

    def __init__(self, qwen, config, backbone, trm):
        self.qwen, self.config, self.backbone, self.trm = qwen, config, backbone, trm

    def hidden_states(self, tokens):
        """x[S, D] after the final norm, and the four levels [4, S, D] of the residual stream."""
        qwen, positions = self.qwen, torch.arange(len(tokens))
        h = self.backbone["embedding"][torch.as_tensor(tokens)]
        stream = [h]
        for layer in range(qwen.num_layers):
            w = {k.removeprefix("layers."): v[layer] for k, v in self.backbone.items() if k.startswith("layers.")}
            normed = rms_norm(h, w["attention_norm.scale"], qwen.norm_eps)
            qkv = project_qkv(normed, w, "attention", qwen.num_heads, qwen.num_kv_heads, positions, qwen.rope_theta)
            h = h + causal_attention(*qkv) @ w["attention.output.kernel"]
            h = h + swiglu(rms_norm(h, w["mlp_norm.scale"], qwen.norm_eps), w, "mlp")
            stream.append(h)
        levels = torch.stack([stream[round(third * qwen.num_layers / 3)] for third in range(4)])
        return rms_norm(h, self.backbone["norm.scale"], qwen.norm_eps), levels

    def context(self, x, levels):
        if self.config.context == "last":
            return x
        return x + sum(mix * rms_norm(level, 1.0, 1e-6) for mix, level in zip(self.trm["mix"], levels, strict=True))

    def block(self, h, call, past=None):
        """The block of a call over new positions h[S, D] behind the past's (k, v); its output and all (k, v)."""
        w, qwen = self.trm, self.qwen
        if not self.config.tied:
            w = {k.replace(f"blocks.{call}.", "block."): v for k, v in w.items()}
        start = 0 if past is None else len(past[0])
        positions = torch.arange(start, start + len(h))
        plain = self.config.block == "plain"
        seen = rms_norm(h, w["block.norm1.scale"], 1e-6) if plain else h
        kv_heads = self.config.num_kv_heads or qwen.num_heads
        theta = self.config.rope_theta or qwen.rope_theta
        q, k, v = project_qkv(seen, w, "block.attention", qwen.num_heads, kv_heads, positions, theta)
        if past is not None:
            k, v = torch.cat([past[0], k]), torch.cat([past[1], v])
        attended = causal_attention(q, k, v) @ w["block.attention.output.kernel"]
        if plain:
            return swiglu(rms_norm(attended, w["block.norm2.scale"], 1e-6), w, "block.mlp"), (k, v)
        h = rms_norm(h + attended, w["block.norm1.scale"], 1e-6)
        return rms_norm(h + swiglu(h, w, "block.mlp"), w["block.norm2.scale"], 1e-6), (k, v)

    def latent_recursion(self, c, y, z, past=None):
        """One pass. `past`: a (k, v) for each block call. Returns y, z and the (k, v) of each call."""
        kept = []
        for update in range(self.config.latent_updates):
            z, kv = self.block(c + y + z, update, past and past[update])
            kept.append(kv)
        y, kv = self.block(y + z, self.config.latent_updates, past and past[-1])
        return y, z, [*kept, kv]

    def supervision_step(self, c, y, z):
        """T passes, the first T-1 without a gradient."""
        with torch.no_grad():
            for _ in range(self.config.recursions - 1):
                y, z, _ = self.latent_recursion(c, y, z)
        y, z, _ = self.latent_recursion(c, y, z)
        return y, z

    def start(self, c):
        return self.trm["y_init"].expand(len(c), -1), torch.zeros_like(c)

    def head(self):
        if not self.config.frozen_head:
            return self.trm["head"]
        return self.backbone["embedding" if self.qwen.tied_head else "lm_head"]

    def logits(self, x, y):
        answer = rms_norm(y, self.trm["norm.scale"], 1e-6)
        if self.config.readout == "residual":
            answer = x + self.trm["alpha"] * answer
        return answer @ self.head().T

    @torch.no_grad()
    def all_steps(self, tokens):
        """(logits[S, V], y, z) after each supervision step."""
        x, levels = self.hidden_states(tokens)
        c = self.context(x, levels)
        y, z = self.start(c)
        results = []
        for _ in range(self.config.supervision_steps):
            y, z = self.supervision_step(c, y, z)
            results.append((self.logits(x, y), y, z))
        return results

    def greedy_recomputed(self, prompt, count):
        """Greedy tokens where every token runs the whole sequence again, without any cache."""
        tokens = list(prompt)
        for _ in range(count):
            tokens.append(int(self.all_steps(tokens)[-1][0][-1].argmax()))
        return tokens[len(prompt) :]

    @torch.no_grad()
    def greedy_last_pass(self, prompt, count):
        """Greedy tokens with the original's cache: the past is seen as its last pass left it."""
        tokens, passes = list(prompt), self.config.supervision_steps * self.config.recursions
        past, done = None, 0
        for _ in range(count):
            # The backbone without a cache is the same as with one; only the recursion's cache is approximate.
            x, levels = self.hidden_states(tokens)
            c = self.context(x, levels)[done:]
            y, z = self.start(c)
            for _ in range(passes):
                y, z, kept = self.latent_recursion(c, y, z, past)
            past, done = kept, len(tokens)
            tokens.append(int(self.logits(x[-1:], y[-1:])[0].argmax()))
        return tokens[len(prompt) :]
