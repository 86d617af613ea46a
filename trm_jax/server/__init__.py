"""The engine behind an address that clients of OpenAI's interface understand; needs the extra `serve`."""

from trm_jax.server.address import open_socket, require_key, run
from trm_jax.server.app import Served, make_app
