"""The PyTorch program that the benchmarks compare with computes what the oracle computes."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the oracle is in PyTorch")

from tests.reference.peer import IGNORED, Peer, PeerTrainer
from tests.reference.training import ReferenceTrainer
from tests.support.models import PRESETS, max_error, random_tokens, tiny_model
from tests.support.oracle import as_torch, examples, reference
from trm_jax.config import TrainConfig
from trm_jax.data.loader import NO_LABEL, Bucket, pad_batch

torch.set_num_threads(1)  # several, and those of other tests, would wait for each other


def peer(model) -> Peer:
    return Peer(model.backbone.config, model.trm.config, as_torch(model.backbone), as_torch(model.trm))


@pytest.mark.parametrize("per_pass", [False, True])
@pytest.mark.parametrize("preset", PRESETS)
def test_the_peer_decodes_as_the_oracle(preset, per_pass):
    model = tiny_model(preset)
    prompts = random_tokens((2, 7))
    oracle = reference(model)
    greedy = oracle.greedy_recomputed if per_pass else oracle.greedy_last_pass
    found = peer(model).generate(torch.tensor(prompts).long(), 5, per_pass)
    assert found.tolist() == [greedy(prompt.tolist(), 5) for prompt in prompts]


@pytest.mark.parametrize("logits_everywhere", [False, True])
@pytest.mark.parametrize("preset", PRESETS)
def test_the_peer_trains_as_the_oracle(preset, logits_everywhere):
    model = tiny_model(preset)
    config = TrainConfig(learning_rate=3e-3, warmup_steps=2, ema_decay=0.9)
    oracle = ReferenceTrainer(reference(model), config, 6)
    trainer = PeerTrainer(peer(model), config, 6, logits_everywhere)
    batch = pad_batch(examples(), Bucket(16, 8), (1, 4))
    tokens, positions, labels = (
        torch.tensor(array[0]).long() for array in (batch.tokens, batch.positions, batch.labels)
    )
    labels[labels == NO_LABEL] = IGNORED
    rows = [(example.tokens.tolist(), example.prompt_length) for example in examples()]
    for _ in range(2):
        expected = oracle.train_batch([rows])
        np.testing.assert_allclose(trainer.train_padded(tokens, positions, labels), expected, rtol=1e-4)
    for name, weight in oracle.model.trm.items():
        for found, wanted in ((trainer.model.trm[name], weight), (trainer.ema[name], oracle.ema[name])):
            found, wanted = found.detach().numpy(), wanted.detach().numpy()
            assert max_error(found, wanted) <= 1e-4 * np.abs(wanted).max(), name
