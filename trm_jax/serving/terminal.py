"""A conversation in the terminal."""

import contextlib
import dataclasses
import json
import pathlib
import shlex
import sys
from collections.abc import Callable

from trm_jax.decoding import Sampling
from trm_jax.errors import UserError
from trm_jax.serving.conversation import Conversation
from trm_jax.serving.heads import NAMES, Answer, Heads

HELP = """/clear           forget what was said
/head NAME       answer by backbone, trm or both
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


def answer_all(heads: Heads, prompt: list[int], settings: Settings, write: Callable[[str], None]) -> dict[str, Answer]:
    """Lets the chosen heads answer, one after the other, and writes their texts as they come; Ctrl-C stops an answer.

    Example: `answer_all(heads, prompt, Settings("both", 512, GREEDY), print)["trm"].text`.
    """
    answers = {}
    for head in settings.heads:
        answer = answers[head] = Answer()
        if len(settings.heads) > 1:
            write(f"[{NAMES[head]}]\n")
        pieces = heads.answer(head, prompt, settings.limit, settings.sampling, answer, settings.steps)
        try:
            for piece in pieces:
                write(piece)
        except KeyboardInterrupt:
            pieces.close()
            write(" [stopped]")
        write("\n" if answer.end != "length" else f" [cut at {settings.limit} tokens]\n")
        if len(set(answer.steps)) > 1:
            write(f"[supervision steps: {' '.join(map(str, answer.steps))}]\n")
    return answers


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
        except (EOFError, KeyboardInterrupt):
            print()
            return
        if line == "/quit":
            return
        try:
            if line.startswith("/"):
                print(command(line, conversation, settings))
            elif line:
                answers = answer_all(heads, conversation.ask(line), settings, _write)
                conversation.answered(answers[settings.heads[-1]].text)
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
                pathlib.Path(value).write_text(json.dumps(conversation.messages, ensure_ascii=False, indent=1) + "\n")
                return f"saved in {value}"
    except UserError:
        raise
    except ValueError:  # of what is no number
        pass
    return HELP


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
