"""Scripts as the command line runs them, many in little time: a process that has imported what they need forks for each.

What a script gets is real: its own process, arguments, streams, environment and exit status. `python -m tests.command_line`
is that process; it takes one JSON object a line, and answers with the exit status.
"""

import contextlib
import json
import os
import pathlib
import runpy
import subprocess
import sys
import traceback
from collections.abc import Iterator

from tests.conftest import ROOT


class CommandLine:
    """Runs scripts through one forking process."""

    def __init__(self, server: subprocess.Popen, folder: pathlib.Path):
        self._server, self._streams = server, (folder / "stdout", folder / "stderr")

    def run(self, script: str, *options, **env: str) -> subprocess.CompletedProcess:
        words = [str(ROOT / "scripts" / script), *map(str, options)]
        request = {"words": words, "streams": list(map(str, self._streams)), "env": env}
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        status = int(self._server.stdout.readline())
        return subprocess.CompletedProcess(words, status, *(path.read_text() for path in self._streams))


@contextlib.contextmanager
def command_line(folder: pathlib.Path) -> Iterator[CommandLine]:
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "tests.command_line"]
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as server:
        yield CommandLine(server, folder)
        server.stdin.close()


def _serve() -> None:
    from transformers import AutoTokenizer  # noqa: F401

    import trm_jax.batching
    import trm_jax.convert
    import trm_jax.evaluate
    import trm_jax.train_loop  # noqa: F401

    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            _become(json.loads(line))
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _become(request: dict) -> None:
    """Is the script, and ends."""
    for number, path in zip((1, 2), request["streams"], strict=True):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.environ.update(request["env"])
    sys.argv, status = request["words"], 0
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        status = end.code or 0
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status if isinstance(status, int) else 1)


if __name__ == "__main__":
    _serve()
