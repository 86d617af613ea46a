"""The same computation in batched, fused PyTorch: what trm_jax is timed against. tests/test_peer.py holds it to the oracle.

Only rows that start together: training pads on the right, where causal attention needs no mask.
"""

import torch
import torch.nn.functional as F

from tests.reference.training import ReferenceTrainer

IGNORED = -100


def rms_norm(h, scale, eps):
    return F.rms_norm(h, h.shape[-1:], scale, eps)


class Peer:
    """`qwen` and `config` are read for their numbers; weights are dictionaries by trm_jax's names, all of one type."""

    def __init__(self, qwen, config, backbone, trm):
        self.qwen, self.config, self.trm = qwen, config, trm
        self.backbone = {k: v for k, v in backbone.items() if not k.startswith("layers.")}
        stacked = {k.removeprefix("layers."): v for k, v in backbone.items() if k.startswith("layers.")}
        self.layers = [{k: v[layer].contiguous() for k, v in stacked.items()} for layer in range(qwen.num_layers)]
        half = torch.arange(0, qwen.head_size, 2, device=backbone["embedding"].device).float() / qwen.head_size
        self.frequencies = {theta: theta**-half for theta in (qwen.rope_theta, config.rope_theta or qwen.rope_theta)}

    def angles(self, start, length):
        """Cosine and sine for positions start … start + length − 1, [length, H]: the backbone's, and the recursion's."""
        embedding = self.backbone["embedding"]
        positions = torch.arange(start, start + length, device=embedding.device)
        angles = [(positions[:, None] * each).repeat(1, 2) for each in self.frequencies.values()]
        pairs = [(each.cos().to(embedding.dtype), each.sin().to(embedding.dtype)) for each in angles]
        return pairs[0], pairs[-1]

    def attention(self, h, weights, prefix, kv_heads, angles, past=None):
        """Attention over h[B, S, D] behind the past's (k, v)[B, K, T, H], and all (k, v)."""
        cos, sin = angles
        q, k, v = (
            F.linear(h, weights[f"{prefix}.{name}.kernel"].T, weights.get(f"{prefix}.{name}.bias"))
            .unflatten(-1, (heads, -1))
            .transpose(1, 2)
            for name, heads in (("query", self.qwen.num_heads), ("key", kv_heads), ("value", kv_heads))
        )
        q, k = (part * cos + torch.cat([-part.chunk(2, -1)[1], part.chunk(2, -1)[0]], -1) * sin for part in (q, k))
        if past is not None:
            k, v = torch.cat([past[0], k], dim=2), torch.cat([past[1], v], dim=2)
        grouped = kv_heads != self.qwen.num_heads
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=past is None, enable_gqa=grouped)
        return attended.transpose(1, 2).flatten(2) @ weights[f"{prefix}.output.kernel"], (k, v)

    def mlp(self, h, weights, prefix):
        gated = F.silu(h @ weights[f"{prefix}.gate.kernel"]) * (h @ weights[f"{prefix}.up.kernel"])
        return gated @ weights[f"{prefix}.down.kernel"]

    @torch.no_grad()
    def hidden_states(self, tokens, angles, past=None):
        """x[B, S, D], the four levels, and the (k, v) of each layer."""
        eps, kept = self.qwen.norm_eps, []
        stream = [self.backbone["embedding"][tokens]]
        for layer, weights in enumerate(self.layers):
            h = stream[-1]
            normed = rms_norm(h, weights["attention_norm.scale"], eps)
            own = past and past[layer]
            attended, kv = self.attention(normed, weights, "attention", self.qwen.num_kv_heads, angles, own)
            h = h + attended
            stream.append(h + self.mlp(rms_norm(h, weights["mlp_norm.scale"], eps), weights, "mlp"))
            kept.append(kv)
        levels = [stream[round(third * self.qwen.num_layers / 3)] for third in range(4)]
        return rms_norm(stream[-1], self.backbone["norm.scale"], eps), levels, kept

    def context(self, x, levels):
        if self.config.context == "last":
            return x
        return x + sum(mix * rms_norm(h, None, 1e-6) for mix, h in zip(self.trm["mix"], levels, strict=True))

    def block(self, h, angles, past=None):
        w, kv_heads = self.trm, self.config.num_kv_heads or self.qwen.num_heads
        if self.config.block == "plain":
            normed = rms_norm(h, w["block.norm1.scale"], 1e-6)
            attended, kv = self.attention(normed, w, "block.attention", kv_heads, angles, past)
            return self.mlp(rms_norm(attended, w["block.norm2.scale"], 1e-6), w, "block.mlp"), kv
        attended, kv = self.attention(h, w, "block.attention", kv_heads, angles, past)
        h = rms_norm(h + attended, w["block.norm1.scale"], 1e-6)
        return rms_norm(h + self.mlp(h, w, "block.mlp"), w["block.norm2.scale"], 1e-6), kv

    def latent_recursion(self, c, y, z, angles, past=None):
        """One pass; returns y, z and the (k, v) of each block call."""
        kept = []
        for update in range(self.config.latent_updates):
            z, kv = self.block(c + y + z, angles, past and past[update])
            kept.append(kv)
        y, kv = self.block(y + z, angles, past and past[-1])
        return y, z, [*kept, kv]

    def start(self, c):
        return self.trm["y_init"].expand_as(c), torch.zeros_like(c)

    def supervision_step(self, c, y, z, angles):
        with torch.no_grad():
            for _ in range(self.config.recursions - 1):
                y, z, _ = self.latent_recursion(c, y, z, angles)
        y, z, _ = self.latent_recursion(c, y, z, angles)
        return y, z

    def logits(self, x, y):
        answer = rms_norm(y, self.trm["norm.scale"], 1e-6)
        if self.config.readout == "residual":
            answer = x + self.trm["alpha"] * answer
        own = self.backbone["embedding" if self.qwen.tied_head else "lm_head"]
        return F.linear(answer, own if self.config.frozen_head else self.trm["head"])

    def think(self, c, angles, past, per_pass):
        """All passes over new positions behind `past`, what this returned for those before. Returns y and the past."""
        y, z = self.start(c)
        pasts = []
        for index in range(self.config.supervision_steps * self.config.recursions):
            own = past and past[index if per_pass else 0]
            y, z, kept = self.latent_recursion(c, y, z, angles, own)
            pasts = [*pasts, kept] if per_pass else [kept]
        return y, pasts

    @torch.no_grad()
    def generate(self, tokens, count, per_pass):
        """Greedy tokens[B, count] behind prompts[B, S] of one length, with caches that grow by concatenation."""
        cache = past = None
        chosen, start = [], 0
        for _ in range(count):
            of_backbone, of_trm = self.angles(start, tokens.shape[1])
            x, levels, cache = self.hidden_states(tokens, of_backbone, cache)
            y, past = self.think(self.context(x, levels), of_trm, past, per_pass)
            start += tokens.shape[1]
            tokens = self.logits(x[:, -1:], y[:, -1:]).argmax(-1)
            chosen.append(tokens)
        return torch.cat(chosen, dim=1)


class PeerTrainer(ReferenceTrainer):
    """Deep supervision on padded batches. The schedule, AdamW and EMA are the oracle's."""

    def __init__(self, model: Peer, train, optimizer_steps, logits_everywhere):
        super().__init__(model, train, optimizer_steps)
        self.logits_everywhere = logits_everywhere

    def train_padded(self, tokens, positions, labels):
        """One batch: tokens[B, S] and, for each label[B, R] or IGNORED, the slot[B, R] before it. Returns the losses."""
        model, losses = self.model, []
        of_backbone, of_trm = model.angles(0, tokens.shape[1])
        x, levels, _ = model.hidden_states(tokens, of_backbone)
        if self.logits_everywhere:
            rows = torch.arange(len(tokens), device=tokens.device)[:, None].expand_as(labels)
            seen, everywhere = labels != IGNORED, torch.full_like(tokens, IGNORED)
            everywhere[rows[seen], positions[seen]] = labels[seen]
            labels = everywhere
        y = z = None
        for _ in range(model.config.supervision_steps):
            self.optimizer.zero_grad()
            c = model.context(x, levels)
            y, z = model.start(c) if y is None else (y, z)
            y, z = model.supervision_step(c, y, z, of_trm)
            pair = (x, y) if self.logits_everywhere else (at(x, positions), at(y, positions))
            logits = model.logits(*pair).float()
            loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)
            loss.backward()
            self.complete_gradients()
            y, z = y.detach(), z.detach()
            self.update()
            losses.append(loss.detach())
        return losses


def at(h, positions):
    """h[B, S, D] at positions[B, R]."""
    return torch.take_along_dim(h, positions[..., None], dim=1)
