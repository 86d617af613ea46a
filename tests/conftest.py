"""How JAX is set up for all tests, and the models and folders that many of them share."""

import importlib.metadata
import os
import pathlib
import subprocess
import sys
import time

from tests.support.command_line import ROOT, run

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Two devices: what is placed on the first one by chance only would show. What is compiled runs for a moment, so XLA need not
# spend time on its machine code: the passes that decide on fusions, buffers and copies are still those of every user.
FLAGS = ["--xla_force_host_platform_device_count=2", "--xla_backend_optimization_level=0"]
# A program in one piece: in 32 it takes four times as many memory maps, of which a process may have 65,530. Where there are
# no more, XLA crashes while it compiles, and it did in workers that had run many tests.
FLAGS.append("--xla_cpu_parallel_codegen_split_count=1")
if importlib.metadata.version("jaxlib").startswith("0.10."):  # later versions do not know the flag
    FLAGS.append("--xla_cpu_use_fusion_emitters=false")
os.environ.setdefault("XLA_FLAGS", " ".join(FLAGS))
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the oracle's: on busy cores PyTorch's threads wait for each other
# An array that is stretched along axes which it does not have is a mistake more often than not.
os.environ.setdefault("JAX_NUMPY_RANK_PROMOTION", "raise")
# Most of a test's time is compilation, of programs that other tests, workers and scripts need too.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".pytest_cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

import filelock
import hypothesis
import pytest

from tests.support.models import PRESETS, tiny_model
from trm_jax import demo
from trm_jax.conversion import convert
from trm_jax.model import QwenTRM

hypothesis.settings.register_profile("quick", deadline=None, max_examples=60)  # a busy machine is no fault of the code
hypothesis.settings.register_profile("thorough", deadline=None, max_examples=600)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))


def pytest_collection_modifyitems(items):
    """The longest tests first, so that no worker is left with one of them at the end."""
    long = ("tests/test_many_devices.py", "tests/gpu_check/test_parts.py", "tests/system/test_several_hosts.py")
    items.sort(key=lambda item: not item.nodeid.startswith(long))


@pytest.fixture(scope="session", params=PRESETS)
def model(request) -> QwenTRM:
    return tiny_model(request.param)


@pytest.fixture(scope="session")
def demo_model_folder(tmp_path_factory) -> pathlib.Path:
    """The embedded demo model, converted to float32."""
    folder = tmp_path_factory.mktemp("demo") / "model"
    convert(demo.MODEL, folder, "float32")
    return folder


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """A converted demo model, a run of three batches that was killed after its second and resumed, and what that printed.

    Made once for all workers.
    """
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    root = shared / "folders"
    with filelock.FileLock(shared / "folders.lock"):
        if not (root / "resumed.txt").exists():
            (root / "resumed.txt").write_text(_make_folders(root))
    return root, (root / "resumed.txt").read_text()


def _make_folders(root: pathlib.Path) -> str:
    converted = run("convert_qwen.py", "--output", root / "model")
    assert converted.returncode == 0, converted.stderr
    options = ["--model", root / "model", "--output", root / "train", "--max-batches", 3, "--batch-size", 8]
    options += ["--num-samples", 16, "--save-every", 1, "--eval-limit", 8, "--max-length", 96]
    command = [sys.executable, str(ROOT / "scripts/train.py"), *map(str, options)]
    process = subprocess.Popen(command, cwd=ROOT, env=os.environ, stderr=subprocess.DEVNULL)
    deadline = time.time() + 240
    while not (root / "train/checkpoints/2").is_dir() and process.poll() is None and time.time() < deadline:
        time.sleep(0.02)
    process.kill()
    process.wait()
    resumed = run("train.py", *options)
    assert resumed.returncode == 0, resumed.stderr
    return resumed.stdout
