"""Finds question and worked solution in a row, by the names that public data sets give to their columns."""

from collections.abc import Mapping, Sequence
from typing import Any

from trm_jax.data.answers import reference_answer
from trm_jax.data.readers import CHATS, DataError

Row = dict[str, str]  # `question`, and `answer`: the worked solution
Columns = tuple[str, str]  # names of the columns of question and solution

PAIRS: tuple[Columns, ...] = (
    ("question", "answer"),  # GSM8K, Orca-Math
    ("problem", "solution"),  # MATH, NuminaMath
    ("problem", "generated_solution"),  # OpenMathInstruct-2
    ("question", "generated_solution"),  # OpenMathInstruct-1
    ("problem", "answer"),  # MATH-500
    ("query", "response"),  # MetaMathQA
    ("question", "solution"),
    ("prompt", "completion"),
    INSTRUCTION := ("instruction", "output"),  # Alpaca, with an `input` that belongs to the question
)
STATED = ("answer", "expected_answer")  # columns with the bare answer, beside a solution that may not state it
NO_ANSWER = ("", "proof", "notfound")  # what NuminaMath has there if there is none
ROLES = {"user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant"}


def to_row(values: Mapping[str, Any], columns: Columns | None, where: str) -> Row:
    """A row with its columns renamed to `question` and `answer`; with None they are recognised. Raises DataError.

    Of a chat it takes the last answer and the user's turn before it. If the solution states no final answer and another
    column does, that is added behind `####`.
    """
    if columns is None:
        columns = next((pair for pair in PAIRS if set(pair) <= values.keys()), None)
    if columns is None:
        chat = next((values[name] for name in CHATS if name in values), None)
        if chat is None:
            raise DataError(
                f"{where}: columns {sorted(values)}: none of them is known as a question or a solution: name them with "
                "--question-column and --answer-column"
            )
        turns = _turns(chat, where)
        answers = [number for number, (role, _) in enumerate(turns) if role == "assistant"]
        end = answers[-1] if answers else 0
        texts = [_last(turns[:end], "user"), _last(turns, "assistant")]
        columns = ("the user's turn", "the assistant's turn")
    else:
        if missing := [name for name in columns if name not in values]:
            raise DataError(f"{where}: there is no column {missing[0]!r}; there are {sorted(values)}")
        texts = [
            _text(values.get(name), role, where) for name, role in zip(columns, ("user", "assistant"), strict=True)
        ]
    for name, text in zip(columns, texts, strict=True):
        _check(text, name, where)
    question, answer = (text.strip() for text in texts)
    if columns == INSTRUCTION and isinstance(values.get("input"), str) and values["input"].strip():
        question = f"{question}\n\n{values['input'].strip()}"
    beside = (values.get(name) for name in STATED if name not in columns)
    stated = next((str(value).strip() for value in beside if isinstance(value, str | int | float)), "")
    if stated.casefold() not in NO_ANSWER and reference_answer(answer) is None:
        answer = f"{answer}\n#### {stated}"
    return {"question": question, "answer": answer}


def _text(value: Any, role: str, where: str) -> Any:
    """What a column holds, as a text: numbers are written out, and of a list of turns the role's last one is taken."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return _last(_turns(value, where), role) if isinstance(value, list) else value


def _turns(chat: Any, where: str) -> list[tuple[str | None, Any]]:
    """Role and text of each turn."""
    if not isinstance(chat, Sequence) or not all(isinstance(turn, Mapping) for turn in chat):
        raise DataError(f"{where}: the chat is no list of turns")
    return [(ROLES.get(turn.get("role", turn.get("from"))), turn.get("content", turn.get("value"))) for turn in chat]


def _last(turns: Sequence[tuple[str | None, Any]], role: str) -> Any:
    return next((text for of, text in reversed(turns) if of == role), None)


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
