"""Deep supervision as the contract states it: an optimizer step after every supervision step of every batch."""

import math

import torch

from tests.reference.model import ReferenceModel


class ReferenceTrainer:
    """AdamW, alpha's own rate, clipping, cosine schedule and EMA.

    A batch is a list of micro-batches of (tokens, prompt length) rows.
    """

    def __init__(self, model: ReferenceModel, train, optimizer_steps):
        self.model, self.train, self.optimizer_steps = model, train, optimizer_steps
        for weight in model.trm.values():
            weight.requires_grad_(True)
        groups = [
            {"params": [weight], "rate": train.alpha_rate if name == "alpha" else 1.0}
            for name, weight in model.trm.items()
        ]
        self.optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), weight_decay=train.weight_decay)
        self.ema = {name: weight.detach().clone() for name, weight in model.trm.items()}
        self.steps = 0

    def learning_rate(self):
        peak, warmup = self.train.learning_rate, self.train.warmup_steps
        if self.steps < warmup:
            return peak * self.steps / warmup
        progress = min(1, (self.steps - warmup) / (self.optimizer_steps - warmup))
        return peak / 10 + (peak - peak / 10) * (1 + math.cos(math.pi * progress)) / 2

    def row_loss(self, row, state):
        """The summed loss of one row after one more supervision step, its labels, its new state."""
        tokens, prompt_length = row
        x, levels = self.model.hidden_states(tokens)
        c = self.model.context(x, levels)
        y, z = self.model.supervision_step(c, *(self.model.start(c) if state is None else state))
        logits = self.model.logits(x, y)[prompt_length - 1 : -1]
        labels = torch.as_tensor(tokens[prompt_length:])
        return torch.nn.functional.cross_entropy(logits, labels, reduction="sum"), len(labels), (y.detach(), z.detach())

    def step_gradients(self, rows, states):
        """Gradients of Σ loss ÷ Σ tokens over all rows, one backward pass a row. Returns the loss and the states."""
        count = sum(len(tokens) - prompt_length for tokens, prompt_length in rows)
        total, new_states = 0.0, []
        self.optimizer.zero_grad()
        for row, state in zip(rows, states, strict=True):
            loss, _, state = self.row_loss(row, state)
            (loss / count).backward()
            total += loss.item() / count
            new_states.append(state)
        self.complete_gradients()
        return total, new_states

    def complete_gradients(self):
        """Zeros for a weight that the last pass does not reach: decay reaches it."""
        for weight in self.model.trm.values():
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)

    def train_batch(self, micro_batches):
        """One batch. Returns the loss of each supervision step."""
        rows = [row for rows in micro_batches for row in rows]
        states, losses = [None] * len(rows), []
        for _ in range(self.model.config.supervision_steps):
            loss, states = self.step_gradients(rows, states)
            self.update()
            losses.append(loss)
        return losses

    @torch.no_grad()
    def update(self):
        """One optimizer step with the gradients that are there."""
        weights = list(self.model.trm.values())
        torch.nn.utils.clip_grad_norm_(weights, self.train.clip_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate() * group["rate"]
        self.optimizer.step()
        self.steps += 1
        for name, weight in self.model.trm.items():
            self.ema[name].lerp_(weight, 1 - self.train.ema_decay)
