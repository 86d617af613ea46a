"""Rows, caches and choices are tested here: a recursion of one update fewer shows them too, and compiles sooner."""

import pytest

from tests.support.models import PRESETS, tiny_model
from trm_jax.model import QwenTRM


@pytest.fixture(scope="session", params=PRESETS)
def model(request) -> QwenTRM:
    return tiny_model(request.param, latent_updates=1)
