"""The engine on four devices: its thread works on the mesh of the one that made it."""

import jax
import pytest

from tests.support.models import random_tokens, tiny_model
from trm_jax.decoding import Request, decode_until, generate, insert, prefill
from trm_jax.hardware import compilations, make_mesh, put_weights
from trm_jax.model import for_decoding
from trm_jax.serving import Engine, head_config

PROMPTS = [random_tokens(length, seed=length).tolist() for length in (4, 30, 66)]


@pytest.mark.parametrize("mesh", ["data=2,tensor=2", "fsdp=4"])
def test_a_warm_engine_answers_as_generate_does_and_compiles_nothing_more(mesh):
    """A mesh is set for a thread: in another one the programs would be others, for one device."""
    with jax.set_mesh(make_mesh(mesh)):
        model = for_decoding(put_weights(tiny_model("residual", latent_updates=1, recursions=1, supervision_steps=2)))
        expected, seconds = generate(model, PROMPTS, 12), compilations()
        with Engine(model, {"trm": head_config(model, "trm")}, capacity=96, rows=4, warm=True) as engine:
            programs = [function._cache_size() for function in (prefill, insert, decode_until)]
            compiled = len(seconds)
            streams = [engine.submit("trm", Request(prompt, 12)) for prompt in PROMPTS]
            found = [[token for piece in stream for token in piece.tokens] for stream in streams]
        assert found == expected
        assert [function._cache_size() for function in (prefill, insert, decode_until)] == programs
        assert len(seconds) == compiled
