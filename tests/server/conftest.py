"""A server with the demo's backbone and a recursion of random weights, in a thread of the tests."""

import dataclasses
import threading
import time

import jax
import pytest

pytest.importorskip("starlette", reason="the extra serve is not installed")
openai = pytest.importorskip("openai")

import uvicorn

from tests.support.models import randomize
from trm_jax.checkpoints import SavedModel
from trm_jax.config import TRMConfig
from trm_jax.model import QwenTRM, for_decoding, new_trm
from trm_jax.server import Served, make_app, open_socket
from trm_jax.serving import Engine, head_config

CAPACITY, ROWS = 192, 4


@dataclasses.dataclass
class Running:
    """A server that runs, and what is behind it."""

    model: QwenTRM
    served: Served
    url: str

    @property
    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=self.served.key, max_retries=0, timeout=120)

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.served.key}"}


@pytest.fixture(scope="session")
def model_and_tokenizer(demo_model_folder):
    saved = SavedModel.open(demo_model_folder)
    backbone = saved.load().backbone
    config = TRMConfig.residual(latent_updates=1, recursions=1, supervision_steps=2)
    trm = randomize(new_trm(backbone, config, seed=1), seed=2)
    # Tied to a device, as weights that are loaded from a folder are.
    return for_decoding(jax.device_put(QwenTRM(backbone, trm), jax.devices()[0])), saved.tokenizer


@pytest.fixture(scope="session")
def running(model_and_tokenizer):
    model, tokenizer = model_and_tokenizer
    configs = {head: head_config(model, head) for head in ("trm", "backbone")}
    with Engine(model, configs, CAPACITY, ROWS, warm=True) as engine:
        served = Served(engine, tokenizer, {"demo": "trm", "demo:backbone": "backbone"}, 48, key="secret")
        listening = open_socket("127.0.0.1", 0)
        server = uvicorn.Server(uvicorn.Config(make_app(served), log_config=None, lifespan="off", access_log=False))
        thread = threading.Thread(target=server.run, args=[[listening]])
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield Running(model, served, f"http://127.0.0.1:{listening.getsockname()[1]}")
        server.should_exit = True
        thread.join(60)
        listening.close()
