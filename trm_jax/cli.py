"""The command line of the scripts: parses options, and reports every mistake that the user can correct in one line."""

import contextlib
import dataclasses
import errno
import io
import logging
import os
import pathlib
import re
import select
import signal
import sys
import traceback
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

import tyro

from trm_jax import demo, processes
from trm_jax.errors import UserError

Options = TypeVar("Options", bound="CommonOptions")

OUTPUT = 1  # the file descriptor of standard output
BAD_INPUT, INTERRUPTED, READER_GONE = 2, 130, 141  # exit statuses; the last is that of a command that SIGPIPE ends
NO_ROOM = errno.ENOSPC, errno.EDQUOT, errno.EMFILE  # that TensorStore calls exhausted resources, as JAX does memory
LESS_MEMORY = "batch_size", "rows", "max_length", "max_new_tokens"  # options by which a script needs less of it
OF_DRAWS = "is of draws, which need a --temperature above zero"
OF_RECURSION = "is of the recursion, which --head backbone leaves out"
BOX = re.compile("[│╭╮╰╯]")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CommonOptions:
    """Options that every script has."""

    debug: bool = False
    """Show where in the program an error arose."""

    def require(self, least: int, *names: str) -> None:
        """Raises UserError if one of these options is given and below `least`."""
        for name in names:
            value = getattr(self, name)
            if value is not None and value < least:
                raise UserError(f"--{name.replace('_', '-')} is {value}; it must be at least {least}")

    def refuse(self, reason: str, *names: str) -> None:
        """Raises UserError if one of these options is given, though it could have no effect; `reason` says why."""
        usual = {field.name: field.default for field in dataclasses.fields(self)}
        for name in names:
            if getattr(self, name) != usual[name]:
                raise UserError(f"--{name.replace('_', '-')} {reason}: leave it out")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ComputeOptions(CommonOptions):
    """Options of every script that computes."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; auto stops if there is an NVIDIA GPU that JAX does not see."""
    dtype: Literal["bfloat16", "float32"] | None = None
    """Type to compute in; weights that are trained are float32 (default: bfloat16, float32 on a CPU)."""
    attention: Literal["auto", "xla"] = "auto"
    """On a CUDA GPU: auto takes fused kernels where they work, xla does without them."""
    mesh: str | None = None
    """How several devices share the work, such as data=4,fsdp=2,tensor=1 (default: all of them on data)."""

    def prepare(self, each_process: bool = False) -> str:
        """Chooses device, attention and mesh, before JAX is first used; returns the type to compute in.

        With `each_process` each of several processes has a mesh of its own devices.
        """
        from trm_jax.hardware import choose_device, choose_mesh
        from trm_jax.model import choose_attention

        dtype = choose_device(self.device, self.dtype)
        choose_attention(self.attention)
        choose_mesh(self.mesh, each_process)
        return dtype


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProcessOptions(CommonOptions):
    """Options of every script that several processes, on one host or more, can run together."""

    distributed: bool = False
    """This is one of several processes that Slurm, Open MPI or another launcher has started; docs/cluster.md."""
    coordinator: str | None = None
    """Without such a launcher: HOST:PORT at which process 0 waits for the others."""
    num_processes: int | None = None
    """Without such a launcher: how many processes there are."""
    process_id: int | None = None
    """Without such a launcher: the number of this one, from 0."""

    def join(self) -> None:
        """Joins the other processes, if these options name any; before JAX is asked for a device. Raises UserError."""
        plain = self.coordinator, self.num_processes, self.process_id
        if self.distributed and plain != (None, None, None):
            raise UserError("--distributed asks the launcher: leave --coordinator, --num-processes, --process-id out")
        if self.distributed:
            processes.join(processes.found_place())
        elif plain != (None, None, None):
            processes.join(self._place(*plain))

    @staticmethod
    def _place(coordinator: str | None, count: int | None, number: int | None) -> processes.Place:
        if coordinator is None or count is None or number is None:
            raise UserError("--coordinator, --num-processes and --process-id go together")
        host, _, port = coordinator.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
            raise UserError(f"--coordinator {coordinator}: that is no HOST:PORT, such as node1:9911")
        if not 0 <= number < count:
            raise UserError(f"--process-id {number}: the numbers of {count} processes run from 0 to {count - 1}")
        return processes.Place(host, int(port), count, number)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnswerOptions(ComputeOptions):
    """Options of every script that puts questions to a model."""

    limit: int | None = None
    """Only the first so many questions."""
    batch_size: int | None = None
    """Rows generated together (default: as many as fit into the memory, at most 64)."""
    max_new_tokens: int | None = None
    """Tokens of the longest completion (default 512, or half of what the backbone reads; demo 48)."""

    question_column: str | None = None
    """Column of the question, where its name is not recognised."""
    answer_column: str | None = None
    """Column of the solution or answer, where its name is not recognised."""

    @property
    def columns(self) -> tuple[str, str] | None:
        """The columns of question and answer, where they are given."""
        if (self.question_column is None) != (self.answer_column is None):
            raise UserError("--question-column and --answer-column go together")
        return (self.question_column, self.answer_column) if self.question_column and self.answer_column else None

    def longest(self, data: str, most: int) -> int:
        """Tokens of the longest completion by a backbone that reads at most so many tokens."""
        return self.max_new_tokens or longest_completion(data, most)


def longest_completion(data: str, most: int) -> int:
    """The default of the longest completion, in tokens: half of what the backbone reads, but no more than 512."""
    return demo.DEFAULTS["max_new_tokens"] if data == "demo" else min(512, most // 2)


def options_of(
    config: type,
    *,
    leave_out: Collection[str] = (),
    renamed: Mapping[str, str] | None = None,
    chosen_by_preset: Mapping[str, str] | None = None,
    for_demo: Mapping[str, Any] | None = None,
) -> type:
    """Makes a base class of options, one for each field of a config dataclass; an option that is not given is None.

    The help texts are the docstrings of the fields, with the defaults. Example:
    `class Options(cli.ComputeOptions, cli.options_of(TrainConfig, leave_out=["dtype"])): ...`

    Args:
        leave_out: fields that get no option.
        renamed: names of the options that are not called like their fields, by field.
        chosen_by_preset: fields whose default depends on the preset, and how. Other fields of type bool become flags.
        for_demo: other defaults, which the script has for the demo's data.
    """
    fields, chosen_by_preset, for_demo = [], chosen_by_preset or {}, for_demo or {}
    for field in dataclasses.fields(config):
        if field.name in leave_out:
            continue
        is_flag = field.type is bool and field.name not in chosen_by_preset
        usual = [] if field.default in (None, ()) else [_in_text(field.default)]
        if field.name in chosen_by_preset:
            usual = [chosen_by_preset[field.name]]
        if field.name in for_demo:
            usual.append(f"demo {for_demo[field.name]}")
        text = config.__pydantic_fields__[field.name].description.removesuffix(".")
        text += f" (default {'; '.join(usual)})." if usual and not is_flag else "."
        kind = Annotated[bool if is_flag else field.type | None, tyro.conf.arg(help=text, help_behavior_hint="")]
        default = dataclasses.field(default=False if is_flag else None)
        fields.append(((renamed or {}).get(field.name, field.name), kind, default))
    return dataclasses.make_dataclass(f"{config.__name__}Options", fields, frozen=True, kw_only=True)


def given(options: Any, config: type, renamed: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The values that the command line gave for options made by `options_of`, by the names of the config's fields."""
    names = {field.name: (renamed or {}).get(field.name, field.name) for field in dataclasses.fields(config)}
    found = {field: getattr(options, name, None) for field, name in names.items()}
    return {field: value for field, value in found.items() if value is not None}


def usual(config: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Selects those of the values for which a config has a field."""
    return {field.name: values[field.name] for field in dataclasses.fields(config) if field.name in values}


def _in_text(default: Any) -> str:
    return " ".join(map(str, default)) if isinstance(default, tuple) else str(default)


def run(main: Callable[[Options], None], options: type[Options], description: str | None) -> None:
    """Calls `main` with the options of the command line.

    A UserError, a file that cannot be read or written, and a device without enough memory end the script with one line on
    standard error and exit status 2. Where nobody reads the output any more, as behind `| head`, it ends in silence. Any
    other exception is a fault of the program and keeps its traceback. Whatever ends one of several processes ends all of
    them.
    """
    script = pathlib.Path(sys.argv[0]).name
    parsed = _parse(options, description, script)
    logging.basicConfig(format="%(message)s")
    logging.getLogger("trm_jax").setLevel(logging.INFO)
    try:
        _require_texts(sys.argv[1:])
        main(parsed)
        print(end="", flush=True)  # here, where it is known what to do if nobody reads any more
        processes.part()
    except KeyboardInterrupt:
        _end(script, "interrupted; what was saved stays", INTERRUPTED)
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            processes.end_all("nobody reads the output any more", READER_GONE)
            os.dup2(os.open(os.devnull, os.O_WRONLY), OUTPUT)  # what is still to be written would fail again
            sys.exit(READER_GONE)
        message = _message(error, parsed)
        if message is None:
            processes.end_by_fault(error)
            raise
        if parsed.debug:
            traceback.print_exception(error)
        _end(script, message, BAD_INPUT)


def _nobody_reads() -> bool:
    """Whether standard output is a pipe whose other end is closed; it may be another pipe that is broken."""
    poll = select.poll()
    poll.register(OUTPUT, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _require_texts(arguments: Sequence[str]) -> None:
    """Raises UserError if a value is an empty text, as of a shell variable that is not set: it is no value of any option.

    Not even of a path, which would be the current folder.
    """
    option = "an argument"
    for argument in arguments:
        name, equals, value = argument.partition("=")
        is_option = argument.startswith("--")
        option = name if is_option else option
        if not (value if is_option and equals else argument).strip():
            raise UserError(f"{option} is empty: give it a value, or leave it out")


def _parse(options: type[Options], description: str | None, script: str) -> Options:
    errors = io.StringIO()
    before = signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `--help | head` ends as other commands do
    try:
        with contextlib.redirect_stderr(errors):
            return tyro.cli(options, description=description)
    except SystemExit as end:
        if end.code != BAD_INPUT:
            sys.stdout.flush()
            raise
    finally:
        signal.signal(signal.SIGPIPE, before)
    # tyro prints a box with the message, a horizontal rule and a part of the help: only the message is kept. If there is
    # no box, all of the output is the message.
    said = errors.getvalue()
    message = BOX.sub("", "\n".join(said.splitlines()[1:])).partition("───")[0].strip()
    _end(script, f"{message or said} (see --help)", BAD_INPUT)


def _message(error: Exception, options: Any) -> str | None:
    """The message for the user; None if the error is a fault of the program."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error)
    if reason := next((os.strerror(code) for code in NO_ROOM if os.strerror(code) in str(error)), None):
        return f"{reason} ({error})"
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
        smaller = [f"--{name.replace('_', '-')}" for name in LESS_MEMORY if hasattr(options, name)]
        advice = f"; a smaller {' or '.join(smaller)} needs less" if smaller else ""
        return f"not enough memory{advice} ({error})"
    return None


def _end(script: str, message: str, status: int) -> None:
    message = " ".join(message.split())
    processes.end_all(message, status)
    print(f"{script}: {message}", file=sys.stderr)
    if status == INTERRUPTED:
        # XLA may still be at work in threads of its own, and crashes when the interpreter takes its memory away.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)
