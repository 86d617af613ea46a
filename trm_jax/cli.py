"""The command line of the scripts: options parsed, and every mistake that a person can mend said in one line."""

import contextlib
import dataclasses
import io
import logging
import pathlib
import re
import sys
import traceback
from collections.abc import Callable
from typing import TypeVar

import tyro

from trm_jax.errors import UserError

Options = TypeVar("Options", bound="CommonOptions")

BAD_INPUT, INTERRUPTED = 2, 130  # exit statuses
BOX = re.compile("[│╭╮╰╯]")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CommonOptions:
    """What every script takes."""

    debug: bool = False
    """Show where in the program an error arose."""

    def require(self, least: int, *names: str) -> None:
        """Raises UserError if one of these options is given and below `least`."""
        for name in names:
            value = getattr(self, name)
            if value is not None and value < least:
                raise UserError(f"--{name.replace('_', '-')} is {value}; it must be at least {least}")


def run(main: Callable[[Options], None], options: type[Options], description: str | None) -> None:
    """Calls `main` with the options of the command line.

    A UserError, a file that cannot be read or written, and a device without enough memory end the script with one line on
    standard error and exit status 2. Any other exception is a fault of the program and keeps its traceback.
    """
    script = pathlib.Path(sys.argv[0]).name
    parsed = _parse(options, description, script)
    logging.basicConfig(format="%(message)s")
    logging.getLogger("trm_jax").setLevel(logging.INFO)
    try:
        main(parsed)
    except KeyboardInterrupt:
        _end(script, "interrupted; what was saved stays, the same command goes on", INTERRUPTED)
    except Exception as error:
        message = _message(error)
        if message is None:
            raise
        if parsed.debug:
            traceback.print_exception(error)
        _end(script, message, BAD_INPUT)


def _parse(options: type[Options], description: str | None, script: str) -> Options:
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            return tyro.cli(options, description=description)
    except SystemExit as end:
        if end.code != BAD_INPUT:
            raise
    # A box of several lines, its message above a rule: what follows the rule is the help that --help gives.
    message = BOX.sub("", "\n".join(errors.getvalue().splitlines()[1:])).partition("───")[0]
    _end(script, f"{message.strip()} (see --help)", BAD_INPUT)


def _message(error: Exception) -> str | None:
    """The line for a person; None if the error is the program's own."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error)
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
        return f"not enough memory; a smaller --batch-size, or shorter texts, need less ({error})"
    return None


def _end(script: str, message: str, status: int) -> None:
    print(f"{script}: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(status)
