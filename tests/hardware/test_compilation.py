"""Compilation is announced, happens once a shape, and is kept on disk."""

import subprocess
import sys
import weakref

import jax
import numpy as np
import pytest

from trm_jax.hardware.compilation import Programs
from trm_jax.hardware.devices import DeviceError, choose_device


def test_one_program_a_shape_and_each_is_announced():
    said = []
    programs = Programs(jax.jit(lambda x: 2 * x), lambda x: f"{x.size} numbers", said.append)
    for size in (3, 4, 3, 4):
        assert programs(np.ones(size, np.float32)).sum() == 2 * size
    assert len(programs) == 2
    assert [line.split(" in ")[0] for line in said] == [
        "compiling 3 numbers ...",
        "compiled  3 numbers",
        "compiling 4 numbers ...",
        "compiled  4 numbers",
    ]


def test_programs_that_are_prepared_are_all_there_before_the_first_call():
    said = []
    programs = Programs(jax.jit(lambda x: 2 * x), lambda x: f"{x.size} numbers", said.append)
    programs.prepare([(np.ones(size, np.float32),) for size in (3, 4, 5, 4)])
    assert len(programs) == 3
    assert said[:3] == [f"compiling {size} numbers ..." for size in (3, 4, 5)]
    assert sorted(line.partition("(")[2][:6] for line in said[3:]) == ["1 of 3", "2 of 3", "3 of 3"]
    said.clear()
    for size in (5, 3, 4):
        assert programs(np.ones(size, np.float32)).sum() == 2 * size
    assert said == []


def test_arguments_are_let_go_before_those_of_the_next_program_are_made():
    """Hidden states of all lengths at once took more memory than a training needs."""
    made = []

    def calls():
        for size in (3, 4, 5):
            assert all(one() is None for one in made[:-1])
            array = np.ones(size, np.float32)
            made.append(weakref.ref(array))
            yield (array,)
            del array

    Programs(jax.jit(lambda x: 2 * x)).prepare(calls())
    assert len(made) == 3


def test_a_device_cannot_be_chosen_once_jax_has_started_on_another(monkeypatch):
    """JAX says nothing, and would go on computing on the GPU."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    with pytest.raises(DeviceError, match="JAX has started on the gpu"):
        choose_device("cpu")


@pytest.mark.parametrize("error", [RuntimeError("Unknown backend"), AssertionError()])
def test_a_device_that_the_environment_asks_for_in_vain_is_named(monkeypatch, error):
    """JAX ends so, by its version and by what it lacks, for JAX_PLATFORMS=cuda where there is no GPU."""

    def fail():
        raise error

    monkeypatch.setattr(jax, "default_backend", fail)
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    with pytest.raises(DeviceError, match="no device for JAX_PLATFORMS=cuda"):
        choose_device()


def test_a_second_start_reads_what_the_first_compiled(tmp_path):
    code = (
        "import jax\n"
        "from trm_jax.hardware.devices import choose_device\n"
        "choose_device('cpu')\n"
        "jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)\n"
        "hits = []\n"
        "jax.monitoring.register_event_listener(lambda name, **_: hits.append(name) if 'cache_hits' in name else None)\n"
        "jax.jit(lambda x: (x @ x).sum())(jax.numpy.ones((5, 5)))\n"
        "print('hits', len(hits))"
    )
    import os

    environment = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    environment |= {"XDG_CACHE_HOME": str(tmp_path), "JAX_PLATFORMS": "cpu"}
    outputs = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True).stdout
        for _ in range(2)
    ]
    assert outputs[0].strip() == "hits 0"
    assert int(outputs[1].split()[1]) > 0
    assert any((tmp_path / "trm_jax").iterdir())
