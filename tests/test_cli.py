"""What a script says when something ends it that the user can do something about."""

import dataclasses
import sys

import pytest

from trm_jax import cli


@dataclasses.dataclass(frozen=True)
class Small(cli.CommonOptions):
    """Options of a script that can do with less memory."""

    rows: int = 1
    max_length: int = 1


FULL = "RESOURCE_EXHAUSTED: Error writing /disk/c/0: No space left on device [os_error_code='28']"


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        (Small, ValueError(FULL), f"No space left on device ({FULL})"),
        (Small, MemoryError("16 GiB"), "not enough memory; a smaller --rows or --max-length needs less (16 GiB)"),
        (cli.CommonOptions, RuntimeError("RESOURCE_EXHAUSTED: a"), "not enough memory (RESOURCE_EXHAUSTED: a)"),
        (Small, FileNotFoundError(2, "No such file", "a.toml"), "a.toml: No such file"),
    ],
)
def test_the_message_names_what_can_be_done(monkeypatch, capsys, options, error, says):
    def main(options):
        raise error

    monkeypatch.setattr(sys, "argv", ["script.py"])
    with pytest.raises(SystemExit) as ended:
        cli.run(main, options, None)
    assert ended.value.code == cli.BAD_INPUT
    assert capsys.readouterr().err == f"script.py: {says}\n"
