"""Parts of a check that go wrong: what they found before stays, and the next part runs."""

import os
import pathlib
import subprocess
import sys
import time

from trm_jax.gpu_check import Finding, Part, run_parts, table


def sound():
    yield Finding("flags", os.environ.get("XLA_FLAGS", ""), True)


def raises():
    yield Finding("first", "1")
    raise ValueError("no such thing\nand more")


def dies():
    yield Finding("first", "1")
    os._exit(3)


def hangs():
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    yield Finding("child", str(child.pid))
    time.sleep(600)


def findings(*parts: Part, seconds: float = 60) -> list[tuple[str, str, bool | None]]:
    return [(part.name, finding.what, finding.holds) for part, finding in run_parts(parts, seconds)]


def test_an_error_and_a_death_are_findings_and_the_next_part_runs():
    found = list(run_parts([Part("a", 60, raises), Part("b", 60, dies), Part("c", 60, sound, "--xla_one=2")], 180))
    assert [(part.name, finding.what, finding.holds) for part, finding in found] == [
        ("a", "first", None),
        ("a", "error", False),
        ("b", "first", None),
        ("b", "died", False),
        ("c", "flags", True),
    ]
    assert found[1][1].found == "ValueError: no such thing"
    assert found[3][1].found == "exit code 3"
    assert found[4][1].found.endswith("--xla_one=2")
    assert "--xla_one=2" not in os.environ.get("XLA_FLAGS", "")


def test_a_part_that_takes_too_long_is_cut_with_the_processes_that_it_started():
    found = list(run_parts([Part("a", 10, hangs), Part("b", 60, sound)], 60))
    assert [(part.name, finding.what) for part, finding in found] == [("a", "child"), ("a", "cut"), ("b", "flags")]
    status = pathlib.Path("/proc", found[0][1].found, "stat")
    assert not status.exists() or status.read_text().split()[2] == "Z"


def test_what_has_no_time_left_is_left_out():
    assert findings(Part("a", 60, sound), seconds=0) == [("a", "left out", False)]


def test_the_table_says_what_does_not_hold():
    part = Part("p", 1, sound)
    found = [(part, Finding("a|b", "1")), (part, Finding("c", "2", True)), (part, Finding("d", "3", False))]
    assert table(found).splitlines()[2:] == ["| p | a\\|b | 1 |  |", "| p | c | 2 | yes |", "| p | d | 3 | **no** |"]
