"""The hub: one that answers, one that does not, and a connection that is lost."""

import http.server
import os
import subprocess
import sys
import threading

import huggingface_hub
import pytest
from huggingface_hub import constants

from tests.support.command_line import ROOT
from trm_jax.conversion import find_config
from trm_jax.data import HubError, HubModel


class Answering(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        pass


def ask(address: str) -> subprocess.CompletedProcess:
    """Asks in a process of its own: parts of huggingface_hub are there only once something else has imported them."""
    script = "from trm_jax.data.hub import require_hub; require_hub('user/model')"
    settings = os.environ | {"HF_ENDPOINT": address, "HF_HUB_OFFLINE": "0"}
    return subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=settings, capture_output=True, text=True)


def test_a_hub_that_answers_is_taken_and_one_that_does_not_is_named():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answering) as server:
        address = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        found = ask(address)
        server.shutdown()
        thread.join()
    assert (found.returncode, found.stderr) == (0, "")
    assert f"'user/model' is not here, and {address} cannot be reached (" in ask(address).stderr


@pytest.mark.parametrize("fetch", [lambda: HubModel("user/model").fetch(["*.json"]), lambda: find_config("user/model")])
def test_a_connection_that_is_lost_is_one_line(monkeypatch, fetch):
    """Of whatever type the error of the HTTP library is."""

    class RemoteProtocolError(Exception):
        pass

    def lost(*_, **__):
        raise RemoteProtocolError("peer closed connection")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lost)
    with pytest.raises(HubError, match=r"'user/model' is not a folder here .*: peer closed connection"):
        fetch()
