"""Scripts as a user runs them, many in little time: a process that has imported what they need forks for each.

What a script gets is real: a process of its own, arguments, streams and exit status. Run as a module, this file is the
process that forks; it takes one JSON object a line, and answers with the number of the process and its exit status.
"""

import atexit
import functools
import json
import os
import pathlib
import runpy
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback

ROOT = pathlib.Path(__file__).parents[2]
# Options of train.py for a training on the demo of one shape, and so of one program.
SMALL = (
    "--latent-updates 1 --recursions 1 --supervision-steps 1 --num-samples 4 --batch-size 4 --epochs 1000 --held-out 0 "
    "--eval-limit 0"
).split()
ISOLATED = ["unshare", "--net"]


def run(script: str, *options, timeout: float = 300, network: bool = True, **env: str) -> subprocess.CompletedProcess:
    """Runs a script of this package to its end.

    Without a `network` it has no way out, not even to the machine itself. `env` does not reach what libraries read when they
    are imported.
    """
    with Started(script, *options, network=network, **env) as started:
        return started.end(timeout)


class Started:
    """A script of this package that runs, until this context is left."""

    def __init__(self, script: str, *options, network: bool = True, beside: int = 0, **env: str):
        """What is to run at the same time is started with another number `beside`."""
        self.words = [str(ROOT / "scripts" / script), *map(str, options)]
        self._folder = tempfile.TemporaryDirectory()
        self._streams = [os.path.join(self._folder.name, name) for name in ("stdout", "stderr")]
        self._server, self._ended = _server(network, beside), None
        request = {"words": self.words, "streams": self._streams, "env": env}
        self._server.stdin.write(json.dumps(request).encode() + b"\n")
        self.pid = int(self._server.stdout.readline())

    def __enter__(self):
        return self

    def __exit__(self, *error) -> None:
        if not self.has_ended():
            os.kill(self.pid, signal.SIGKILL)
        self.end(60)
        self._folder.cleanup()

    def printed(self) -> str:
        """Its standard output so far."""
        path = pathlib.Path(self._streams[0])
        return path.read_text() if path.exists() else ""

    def has_ended(self) -> bool:
        return self._ended is not None or bool(select.select([self._server.stdout], [], [], 0)[0])

    def end(self, timeout: float) -> subprocess.CompletedProcess:
        """Waits for it."""
        if self._ended is None:
            if not select.select([self._server.stdout], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.words, timeout)
            status = int(self._server.stdout.readline())
            said = (pathlib.Path(path).read_text() for path in self._streams)
            self._ended = subprocess.CompletedProcess(self.words, status, *said)
        return self._ended


def can_take_the_network_away() -> bool:
    """Whether there is `unshare`, and the right to use it."""
    return (
        shutil.which("unshare") is not None and not subprocess.run([*ISOLATED, "true"], capture_output=True).returncode
    )


@functools.cache
def _server(network: bool, number: int) -> subprocess.Popen:
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "HF_HUB_OFFLINE": "1" if network else "0"}
    command = [*([] if network else ISOLATED), sys.executable, "-m", "tests.support.command_line"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "bufsize": 0}  # `select` sees no buffers
    server = subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True, **pipes)
    atexit.register(server.kill)
    return server


def _serve() -> None:
    from transformers import AutoTokenizer  # noqa: F401

    import trm_jax.conversion
    import trm_jax.experiments  # noqa: F401

    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            _become(json.loads(line))
        print(child, flush=True)
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
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status if isinstance(status, int) else 1)


if __name__ == "__main__":
    _serve()
