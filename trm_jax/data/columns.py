"""Finds question and worked solution in a row, by the names that public data sets give to their columns."""

import decimal
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from trm_jax.data.answers import reference_answer
from trm_jax.errors import UserError

# `question`; `answer`, the worked solution; and `stated`, what another column states as its result.
Row = dict[str, str]
Columns = tuple[str, str]  # names of the columns of question and solution

PAIRS: tuple[Columns, ...] = (
    ("question", "solution"),  # LIMO, whose `answer` beside it is bare
    ("question", "generated_solution"),  # OpenMathInstruct-1
    ("question", "answer"),  # GSM8K, Orca-Math
    ("problem", "solution"),  # MATH, NuminaMath
    ("problem", "generated_solution"),  # OpenMathInstruct-2
    ("problem", "answer"),  # MATH-500
    ("query", "response"),  # MetaMathQA
    ("prompt", "completion"),
    ("prompt", "response"),
    ("instruction", "output"),  # Alpaca
    ("instruction", "response"),  # Dolly
)
CHATS = ("messages", "conversations")  # columns that hold a list of turns
# Columns that belong to a question in this one, before it (SVAMP, ASDiv) and behind it.
BEFORE = {"question": ("body",)}
BEHIND = {"instruction": ("input", "context"), "question": ("context",)}
CHOICES = ("choices", "options")  # without these a question cannot be answered
STATED = ("answer", "expected_answer")  # columns with the bare answer, beside a solution that may not state it
NO_ANSWER = ("proof", "notfound")  # what NuminaMath has there if there is none
ROLES = {"user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant"}


class DataError(UserError):
    """A data set that cannot be trained or evaluated on; the message says where and what to do."""


def is_row(values: Mapping[str, Any]) -> bool:
    """Whether the names of columns are those of a row."""
    names = _without_case(values).keys()
    return any(set(pair) <= names for pair in PAIRS) or any(name in names for name in CHATS)


def to_row(values: Mapping[str, Any], columns: Columns | None, where: str) -> Row:
    """A row with its columns renamed to `question` and `answer`; with None they are recognised. Raises DataError.

    Names of columns are compared without case. Of a chat it takes the last answer and the user's turn before it. If another
    column states the final answer, a solution that states none gets it behind `####`; where nobody named the columns, the
    row has it as `stated` too.
    """
    there, values, recognised = sorted(values), _without_case(values), columns is None
    if recognised:
        columns = next((pair for pair in PAIRS if set(pair) <= values.keys()), None)
    if columns is None:
        chat = next((values[name] for name in CHATS if name in values), None)
        if chat is None:
            raise DataError(
                f"{where}: columns {there}: none of them is known as a question or a solution: name them with "
                "--question-column and --answer-column"
            )
        turns = _turns(chat, where)
        answers = [number for number, (role, _) in enumerate(turns) if role == "assistant"]
        end = answers[-1] if answers else 0
        texts = [_last(turns[:end], "user", where), _last(turns, "assistant", where)]
        columns = ("the user's turn", "the assistant's turn")
    else:
        if missing := [name for name in columns if name.casefold() not in values]:
            raise DataError(f"{where}: there is no column {missing[0]!r}; there are {there}")
        columns = columns[0].casefold(), columns[1].casefold()
        texts = [_text(values[name], role, where) for name, role in zip(columns, ("user", "assistant"), strict=True)]
    for name, text in zip(columns, texts, strict=True):
        _check(text, name, where)
    question, answer = (text.strip() for text in texts)
    if recognised and (choices := next((name for name in CHOICES if _offers(values.get(name))), None)):
        raise DataError(
            f"{where}: the choices are in {choices!r}, where a question does not show them: write them into the question, "
            "and name the columns with --question-column and --answer-column"
        )
    before, behind = (_beside(values, parts.get(columns[0], ()), where) for parts in (BEFORE, BEHIND))
    question = "\n\n".join([*before, question, *behind])
    beside = _beside(values, [name for name in STATED if name not in columns], where)
    stated = next((text for text in beside if text.casefold() not in NO_ANSWER), None)
    if stated is not None and reference_answer(answer) is None:
        answer = f"{answer}\n#### {stated}"
    row = {"question": question, "answer": answer}
    return row if stated is None or not recognised else row | {"stated": stated}


def is_wrong(values: Mapping[str, Any]) -> bool:
    """Whether a row says that its solution is wrong, as OpenMathInstruct's may: nobody should learn from it."""
    return str(written(_without_case(values).get("is_correct"))).strip().casefold() in ("false", "0", "no")


def written(value: Any) -> Any:
    """A number as a person writes it, `72` for 72.0 and no exponents; anything else as it is.

    It reads the shortest digits of a float, so that 0.1 stays 0.1. Numbers that are infinite or none give None.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | decimal.Decimal):
        return value
    number = decimal.Decimal(str(value))
    if not number.is_finite():
        return None
    text = format(number, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def _without_case(values: Mapping[str, Any]) -> dict[str, Any]:
    """The columns by their names in lower case; of two that differ in case alone the one in lower case counts."""
    return {name.casefold(): values[name] for name in sorted(values)}


def _offers(choices: Any) -> bool:
    """Whether a column holds choices: a list of them, their texts beside their letters (ARC), or a text."""
    if isinstance(choices, Mapping):
        return any(map(_offers, choices.values()))
    return isinstance(choices, str | Sequence) and len(choices) > 0


def _beside(values: Mapping[str, Any], names: Sequence[str], where: str) -> Iterator[str]:
    """What those of these columns hold that hold a text or a number."""
    for name in names:
        text = written(values.get(name))
        if isinstance(text, str) and text.strip():
            _check(text, name, where)
            yield text.strip()


def _text(value: Any, role: str, where: str) -> Any:
    """What a column holds, as a text: numbers are written out, and of a list of turns the role's last one is taken."""
    return _last(_turns(value, where), role, where) if isinstance(value, list) else written(value)


def _turns(chat: Any, where: str) -> list[tuple[str | None, Any]]:
    """Role and content of each turn."""
    if not isinstance(chat, Sequence) or not all(isinstance(turn, Mapping) for turn in chat):
        raise DataError(f"{where}: the chat is no list of turns")
    roles = [str(turn.get("role", turn.get("from"))).casefold() for turn in chat]
    contents = [turn.get("content", turn.get("value")) for turn in chat]
    return [(ROLES.get(role), content) for role, content in zip(roles, contents, strict=True)]


def _last(turns: Sequence[tuple[str | None, Any]], role: str, where: str) -> Any:
    """The last turn of a role. If its content is a list of parts, it is their texts, one below the other."""
    content = next((content for of, content in reversed(turns) if of == role), None)
    if not isinstance(content, list):
        return content
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
        if kind != "text" or not isinstance(part.get("text"), str):
            raise DataError(f"{where}: a turn has a part of type {kind!r}; only parts that are a text can be read")
    return "\n".join(part["text"] for part in content)


def _check(text: Any, name: str, where: str) -> None:
    if not isinstance(text, str):
        raise DataError(f"{where}: {name!r} must be a text")
    if not text.strip():
        raise DataError(f"{where}: {name!r} is empty")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{where}: {name!r} holds half a character (a lone surrogate, {text[error.start]!a}), which no text can have"
        ) from None
