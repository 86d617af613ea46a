"""The doctor finds what is wrong, never fails itself, and tells others nothing of this machine."""

import os
import pathlib
import re
import runpy
import subprocess
import sys

import pytest

from tests.support.command_line import ROOT
from trm_jax import doctor


def run_doctor(*options: str, **env: str) -> str:
    """What the script prints where only Python's own library can be imported."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | env
    command = [sys.executable, *(["-S"] if env else []), str(ROOT / "scripts/doctor.py"), *options]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=200)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_looks_at_everything():
    printed = run_doctor()
    for name in ("python ", "packages ", "gpu ", "cudnn ", "jax ", "memory ", "cache ", "disk ", "hub "):
        assert f"\n{name}" in f"\n{printed}"
    assert "(cpu)" in printed
    assert "could not be looked at" not in printed


def test_help_does_not_wait_for_an_examination(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "examine", None)
    monkeypatch.setattr(sys, "argv", ["doctor.py", "--help"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(ROOT / "scripts/doctor.py"), run_name="__main__")
    assert end.value.code == 0
    assert "--report" in capsys.readouterr().out


def test_nothing_installed_is_no_reason_to_fail(tmp_path):
    """-S leaves all installed packages out; there is neither a home nor a PATH."""
    printed = run_doctor("--report", HOME=str(tmp_path / "nowhere"), PATH="", HF_HUB_OFFLINE="1")
    assert "jax missing" in printed
    assert "- jax is not installed: pip install -e ." in printed
    assert "not asked, as HF_HUB_OFFLINE says" in printed
    assert_anonymous(printed)


def assert_anonymous(text: str) -> None:
    assert not re.search(r"(?<![\w:/])/\w", text)
    assert str(ROOT) not in text
    assert str(pathlib.Path.home()) not in text


def test_a_report_has_no_paths_and_no_names(monkeypatch):
    monkeypatch.setattr(doctor, "_user", lambda: "ada")
    monkeypatch.setattr(doctor.socket, "gethostname", lambda: "engine.example.org")
    text = "ada@engine: /home/ada/x.py, LD_LIBRARY_PATH=/opt/a:/opt/b, at ~/cache (engine.example.org) https://huggingface.co"
    assert doctor.without_names(f"{text} {pathlib.Path.home()}/my files") == (
        "USER@HOST: PATH, LD_LIBRARY_PATH=PATH:PATH, at PATH (HOST) https://huggingface.co PATH files"
    )
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=/home/ada/dump")
    assert_anonymous(doctor.describe({"environment": doctor.environment()}, anonymous=True))


def simulate(monkeypatch, cards=(), wheels=(), **versions: str) -> None:
    """A machine with these cards and packages."""
    monkeypatch.setattr(doctor, "_cards", lambda: [list(card) for card in cards])
    monkeypatch.setattr(doctor, "_cuda_wheels", lambda: dict(wheels))
    monkeypatch.setattr(doctor, "_version", lambda name: versions.get(name, "1"))


H100 = ("NVIDIA H100", "550.54", "81559", "81000")


@pytest.mark.parametrize(
    ("cards", "wheels", "says"),
    [
        ([H100], {}, "no CUDA wheel"),
        ([H100], {"jax-cuda13-plugin": "0.10.2"}, "needs driver 580 or newer, this is 550.54"),
        ([H100], {"jax-cuda12-plugin": "0.9.0"}, "does not belong to jaxlib 0.10.2"),
        ([(*H100[:3], "900")], {"jax-cuda12-plugin": "0.10.2"}, "most of the memory of NVIDIA H100 is taken"),
        ([H100], {"jax-cuda12-plugin": "0.10.2"}, None),
        ([], {}, None),
    ],
)
def test_what_helps_with_a_gpu(monkeypatch, cards, wheels, says):
    simulate(monkeypatch, cards, wheels, jaxlib="0.10.2")
    troubles = doctor.gpu().troubles
    assert (troubles == ()) if says is None else (says in troubles[0])


def test_a_gpu_that_jax_does_not_see(monkeypatch):
    simulate(monkeypatch, [H100])
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert "JAX does not see the GPU" in doctor.jax().troubles[0]
    assert "until that is unset" in doctor.environment().troubles[-1]


def test_versions_that_do_not_fit(monkeypatch):
    monkeypatch.setattr(doctor, "_requirements", lambda: ["jax>=0.10,<0.13", "gone>=1"])
    monkeypatch.setattr(doctor, "_version", {"jax": "0.9.0", "gone": None}.get)
    assert doctor.packages().troubles == (
        "jax 0.9.0 is not jax>=0.10,<0.13: pip install 'jax>=0.10,<0.13'",
        "gone is not installed: pip install -e . in the folder of trm_jax",
    )


@pytest.mark.parametrize("programs", [None, "", "there", "file/below"])
@pytest.mark.parametrize("ours", ["there", "file/below"])
def test_both_caches_are_looked_at_and_the_variable_in_force_is_named(monkeypatch, tmp_path, programs, ours):
    """Compiled programs lie where JAX's own variable says, converted backbones in our folder all the same."""
    for folder in ("programs/there", "ours/there/trm_jax/backbones"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "something").write_bytes(b"a")
    for kind in ("programs", "ours"):
        (tmp_path / kind / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "ours" / ours))
    if programs is None:
        monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    else:
        monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", programs and str(tmp_path / "programs" / programs))
    found = doctor.cache()
    variables = {"XDG_CACHE_HOME": ours, "JAX_COMPILATION_CACHE_DIR": programs}
    bad = [name for name, place in variables.items() if place == "file/below"]
    assert [re.search("set (\\w+) to", trouble)[1] for trouble in found.troubles] == bad
    assert found.found.count("1 files") == (ours, programs).count("there")
    assert ("no compiled programs are kept" in found.found) == (programs == "")


def test_a_check_that_fails_is_named_and_the_others_go_on(monkeypatch):
    def memory():
        raise RuntimeError("odd\nmachine")

    monkeypatch.setattr(doctor, "CHECKS", (memory, doctor.disk))
    found = doctor.examine()
    assert found["memory"].found == "could not be looked at (RuntimeError: odd machine)"
    assert "GB free here" in found["disk"].found


def test_a_hub_that_does_not_answer(monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert "set HF_HUB_OFFLINE=1" in doctor.hub().troubles[0]
