"""A conversation in the terminal."""

import contextlib
import dataclasses
import json
import pathlib
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator

from trm_jax.decoding import Sampling
from trm_jax.errors import UserError
from trm_jax.serving.columns import GAP, LEAST_WIDTH, Token, rows_of, side_by_side, wrap
from trm_jax.serving.conversation import Conversation
from trm_jax.serving.heads import NAMES, Answer, Heads

HELP = """/clear           forget what was said
/head NAME       answer by backbone, trm or both, and go on with what trm has said
/steps N         supervision steps a token; without N those of the model
/temperature T   0: the most likely token
/seed N          of the draws
/save FILE       write what was said, as JSON
/quit            end; so does Ctrl-D, and Ctrl-C stops an answer"""


@dataclasses.dataclass
class Settings:
    """What can be changed in a conversation."""

    head: str  # trm, backbone or both
    limit: int  # tokens of an answer
    sampling: Sampling
    steps: int | None = None

    @property
    def heads(self) -> list[str]:
        """The heads that answer; of two it is the last whose answer the conversation goes on with."""
        return ["backbone", "trm"] if self.head == "both" else [self.head]


def terminal_width() -> int | None:
    """The width of the terminal that standard output goes to; None if it goes elsewhere, or two columns have no room.

    Example: `answer_all(heads, prompt, settings, print, terminal_width())`.
    """
    width = shutil.get_terminal_size().columns
    return width if sys.stdout.isatty() and width >= LEAST_WIDTH else None


def answer_all(
    heads: Heads, prompt: list[int], settings: Settings, write: Callable[[str], None], width: int | None = None
) -> dict[str, Answer]:
    """Lets the chosen heads answer, and writes their texts as they come; Ctrl-C stops an answer.

    Where there is a terminal, of this `width`, two heads answer side by side, and with early exit the supervision steps of
    each token stand below it; elsewhere the heads answer one after the other, and the steps are listed behind the text.

    Example: `answer_all(heads, prompt, Settings("both", 512, GREEDY), print)["trm"].text`.
    """
    answers = {head: Answer() for head in settings.heads}
    running = {
        head: heads.answer(head, prompt, settings.limit, settings.sampling, answer, settings.steps)
        for head, answer in answers.items()
    }
    below = {head: head == "trm" and heads.exits_early for head in answers}
    if width is not None and (len(answers) > 1 or any(below.values())):
        _write_columns(answers, running, below, settings.limit, write, width)
    else:
        _write_in_turn(answers, running, settings.limit, write)
    return answers


def _write_in_turn(answers: dict[str, Answer], running: dict[str, Iterator[str]], limit: int, write) -> None:
    for head, answer in answers.items():
        if len(answers) > 1:
            write(f"[{NAMES[head]}]\n")
        stopped = False
        try:
            for piece in running[head]:
                write(piece)
        except KeyboardInterrupt:
            running[head].close()
            stopped = True
        write(f"{_note(answer, stopped, limit)}\n")
        if len(set(answer.steps)) > 1:
            write(f"[supervision steps: {' '.join(map(str, answer.steps))}]\n")


def _write_columns(
    answers: dict[str, Answer],
    running: dict[str, Iterator[str]],
    below: dict[str, bool],
    limit: int,
    write: Callable[[str], None],
    width: int,
) -> None:
    """All heads at once. A line is written when no column's can change any more, so that the cursor never moves back."""
    width = (width - len(GAP) * (len(answers) - 1)) // len(answers)
    if len(answers) > 1:
        titles = [[NAMES[head] + (", steps below" if below[head] else ""), "-" * width] for head in answers]
        write("\n".join(side_by_side(titles, width)) + "\n")
    notes, written = {}, 0

    def write_lines() -> None:
        nonlocal written
        columns = {head: wrap(_tokens(answer, below[head], notes.get(head)), width) for head, answer in answers.items()}
        done = [len(columns[head]) - 1 for head in running] or [max(map(len, columns.values()))]
        for place in range(written, min(done)):
            lines = [column[place] if place < len(column) else [] for column in columns.values()]
            write("\n".join(side_by_side(list(map(rows_of, lines)), width)) + "\n")
            written = place + 1

    try:
        while running:
            for head in list(running):
                if next(running[head], None) is None:
                    notes[head] = _note(answers[head], False, limit)
                    del running[head]
            write_lines()
    except KeyboardInterrupt:
        for head in list(running):
            running.pop(head).close()
            notes[head] = _note(answers[head], True, limit)
        write_lines()


def _tokens(answer: Answer, with_steps: bool, note: str | None) -> list[Token]:
    steps = answer.steps if with_steps else [None] * len(answer.pieces)
    return [*map(Token, answer.pieces, steps), *([Token(note)] if note else [])]


def _note(answer: Answer, stopped: bool, limit: int) -> str:
    """What is said behind an answer that did not end by itself."""
    return " [stopped]" if stopped else f" [cut at {limit} tokens]" if answer.end == "length" else ""


def talk(heads: Heads, conversation: Conversation, settings: Settings, read: Callable[[], str] | None = None) -> None:
    """Asks and answers until the user ends it. `read` gives the next line; without it the terminal does, with a history.

    Example: `talk(heads, Conversation(tokenizer, 512), settings)`.
    """
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  which `input` uses
    print("a question, or /help")
    while True:
        try:
            line = (read or (lambda: input("> ")))().strip()
        except EOFError:
            print()
            return
        except KeyboardInterrupt:  # what is typed is dropped
            print("\n/quit or Ctrl-D ends")
            continue
        except UnicodeDecodeError:
            print("that is not UTF-8")
            if sys.stdin.isatty():
                continue
            return
        if line == "/quit":
            return
        try:
            if line.startswith("/"):
                print(command(line, conversation, settings))
            elif line:
                answers = answer_all(heads, conversation.ask(line), settings, _write, terminal_width())
                if text := answers[settings.heads[-1]].text:
                    conversation.answered(text)
        except (UserError, OSError) as error:
            print(error)


def command(line: str, conversation: Conversation, settings: Settings) -> str:
    """Does what a line that begins with / asks for, and returns what to say about it. Raises UserError, OSError."""
    try:
        name, *values = shlex.split(line)
    except ValueError as error:
        raise UserError(f"{line}: {error}") from None
    value = values[0] if values else None
    try:
        match name, value:
            case "/clear", _:
                conversation.messages.clear()
                return "forgotten"
            case "/head", "backbone" | "trm" | "both":
                settings.head = value
                return f"answers by {value}"
            case "/steps", _ if value is None or int(value) > 0:
                settings.steps = value and int(value)
                return f"{value or 'the usual'} supervision steps"
            case "/temperature", str():
                settings.sampling = dataclasses.replace(settings.sampling, temperature=float(value))
                return f"temperature {value}"
            case "/seed", str() if int(value) >= 0:
                settings.sampling = dataclasses.replace(settings.sampling, seed=int(value))
                return f"seed {value}"
            case "/save", str():
                pathlib.Path(value).expanduser().write_text(
                    json.dumps(conversation.messages, ensure_ascii=False, indent=1) + "\n"
                )
                return f"saved in {value}"
    except UserError:
        raise
    except ValueError:  # of what is no number
        pass
    return HELP if name == "/help" else f"{line}: it is none of these\n{HELP}"


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
