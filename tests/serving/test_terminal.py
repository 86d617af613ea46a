"""A conversation in the terminal, with heads that answer at once."""

import json
import types

import pytest

from trm_jax.decoding import Sampling
from trm_jax.errors import UserError
from trm_jax.serving import Conversation, EngineError, Settings, answer_all, talk, terminal, terminal_width
from trm_jax.serving import conversation as conversations


class Echo:
    """Heads that answer with their name and what they were given."""

    exits_early = False

    def answer(self, head, prompt, limit, sampling, answer, steps):
        for piece in (f"{head} ", f"{len(prompt)} {steps} {sampling.temperature:g} {sampling.seed}"):
            answer.text += piece
            yield piece
        answer.end = "stop"


@pytest.fixture
def conversation(monkeypatch):
    """A prompt has ten tokens a message."""
    monkeypatch.setattr(conversations, "encode_chat", lambda tokenizer, messages: [0] * 10 * len(messages))
    return Conversation(None, longest=50)


def said(conversation, *lines: str, capsys) -> list[str]:
    """What is printed for these lines, behind the greeting."""
    rest = iter([*lines, "/quit"])
    talk(Echo(), conversation, Settings("trm", 8, Sampling()), read=lambda: next(rest))
    return capsys.readouterr().out.splitlines()[1:]


def test_turns_follow_each_other_and_the_oldest_are_forgotten(conversation, capsys):
    lengths = [line.split()[1] for line in said(conversation, *["more"] * 5, capsys=capsys)]
    assert lengths == ["10", "30", "50", "50", "50"]
    assert [message["role"] for message in conversation.messages] == ["user", "assistant"] * 3


def test_commands(conversation, capsys, tmp_path):
    saved = tmp_path / "talk.json"
    lines = ["/steps 3", "/temperature 0.5", "/seed 7", "/head both", "a", "/clear", "/steps", "b", f"/save {saved}"]
    printed = said(conversation, *lines, capsys=capsys)
    first = ["[backbone alone]", "backbone 10 3 0.5 7", "[backbone + TRM]", "trm 10 3 0.5 7"]
    assert printed[4:8] == first
    assert printed[-2] == "trm 10 None 0.5 7"
    assert [message["content"] for message in json.loads(saved.read_text())] == ["b", "trm 10 None 0.5 7"]


@pytest.mark.parametrize(
    "line", ["/head all", "/steps x", "/steps 0", "/seed -1", "/temperature warm", "/nothing", "/save"]
)
def test_what_is_no_command_shows_those_that_are(conversation, capsys, line):
    wrong, *known = said(conversation, line, capsys=capsys)
    assert wrong == f"{line}: it is none of these"
    assert known == said(conversation, "/help", capsys=capsys) == terminal.HELP.splitlines()


def test_what_cannot_be_done_is_said_and_the_conversation_goes_on(conversation, capsys, tmp_path, monkeypatch):
    printed = said(
        conversation, "/temperature -1", f"/save {tmp_path / 'no' / 'talk.json'}", "/save 'a", "a", capsys=capsys
    )
    assert "temperature -1.0 below 0" in printed[0]
    assert "No such file" in printed[1]
    assert "No closing quotation" in printed[2]
    assert printed[3].startswith("trm 10")
    monkeypatch.setattr(conversations, "encode_chat", lambda tokenizer, messages: [0] * 99)
    before = conversation.messages[:]
    assert "99 tokens is longer than the 50 that fit" in said(conversation, "long", capsys=capsys)[0]
    assert conversation.messages == before


def test_a_question_without_an_answer_is_forgotten(conversation, capsys):
    class Broken(Echo):
        def answer(self, *given):
            raise EngineError("the engine has failed")
            yield

    rest = iter(["a", "/quit"])
    talk(Broken(), conversation, Settings("trm", 8, Sampling()), read=lambda: next(rest))
    assert "the engine has failed" in capsys.readouterr().out
    assert said(conversation, "b", capsys=capsys)[0].startswith("trm 10")


def test_ctrl_c_at_the_prompt_drops_what_is_typed(conversation, capsys):
    rest = iter([KeyboardInterrupt, "a", EOFError])

    def read():
        found = next(rest)
        if isinstance(found, str):
            return found
        raise found

    talk(Echo(), conversation, Settings("trm", 8, Sampling()), read)
    assert capsys.readouterr().out.splitlines()[1:] == ["", "/quit or Ctrl-D ends", "trm 10 None 0 0", ""]


def test_ctrl_c_stops_the_answer_and_not_the_conversation(conversation, capsys):
    class Interrupted(Echo):
        def answer(self, head, prompt, limit, sampling, answer, steps):
            answer.text = "so"
            yield "so"
            raise KeyboardInterrupt

    rest = iter(["a", "/quit"])
    talk(Interrupted(), conversation, Settings("trm", 8, Sampling()), read=lambda: next(rest))
    assert "so [stopped]" in capsys.readouterr().out
    assert conversation.messages[-1] == {"role": "assistant", "content": "so"}
    assert issubclass(EngineError, UserError)


class Spelled:
    """Heads that answer with these tokens, one a piece, and their supervision steps; None is Ctrl-C."""

    def __init__(self, exits_early: bool, end: str = "stop", **told):
        self.exits_early, self._end, self._told = exits_early, end, told

    def answer(self, head, prompt, limit, sampling, answer, steps):
        for told in self._told[head]:
            if told is None:
                raise KeyboardInterrupt
            answer.pieces.append(told[0])
            answer.steps.append(told[1])
            answer.text += told[0]
            yield told[0]
        answer.end = self._end


BACKBONE = [("Tom", 0), (" has", 0), (" 4", 0), (" apples", 0), (" and nothing else that counts", 0), (".", 0), ("", 0)]
TRM = [("7", 16), (" apples", 3), (".", 2), ("", 2)]
RULE = f"{'-' * 28} | {'-' * 28}"


def shown(heads, head: str = "both", width: int | None = 60) -> list[str]:
    """The lines that are written; each of several columns is 28 cells wide."""
    written = []
    answer_all(heads, [], Settings(head, 8, Sampling()), written.append, width)
    return "".join(written).splitlines()


def test_two_heads_answer_side_by_side_with_the_steps_below():
    assert shown(Spelled(True, backbone=BACKBONE, trm=TRM)) == [
        "backbone alone               | backbone + TRM, steps below",
        RULE,
        "Tom has 4 apples and         | 7 apples.",
        "                             | 1",
        "                             | 6 3     22",
        "nothing else that counts.    |",
    ]


def test_without_early_exit_there_are_no_steps_to_show():
    assert shown(Spelled(False, backbone=TRM, trm=TRM))[0] == "backbone alone               | backbone + TRM"
    assert shown(Spelled(False, backbone=TRM, trm=TRM))[2:] == ["7 apples.                    | 7 apples."]
    assert shown(Spelled(False, trm=TRM), "trm")[0] == "7 apples."
    assert shown(Spelled(True, trm=TRM), "trm") == ["7 apples.", "1", "6 3     22"]


def test_without_a_terminal_the_heads_answer_in_turn():
    assert shown(Spelled(True, backbone=TRM[:1], trm=TRM), width=None) == [
        "[backbone alone]",
        "7",
        "[backbone + TRM]",
        "7 apples.",
        "[supervision steps: 16 3 2 2]",
    ]


def test_what_did_not_end_by_itself_is_said_in_its_column():
    """Ctrl-C stops both, and what has come by then is shown."""
    [*_, last] = shown(Spelled(False, backbone=TRM, trm=[*TRM[:2], None]))
    assert last == "7 apples. [stopped]          | 7 apples [stopped]"
    [*_, last] = shown(Spelled(False, "length", backbone=TRM, trm=TRM[:1]))
    assert last == "7 apples. [cut at 8 tokens]  | 7 [cut at 8 tokens]"


def test_a_line_is_written_once_both_columns_have_it():
    """Not at the end only: a slow model would look as if it hung."""
    written, before = [], []

    class Watched(Spelled):
        def answer(self, head, *given):
            for piece in super().answer(head, *given):
                before.append(len(written))
                yield piece

    told = [("a\n", 2), ("b\n", 2), ("c\n", 2)]
    answer_all(Watched(False, backbone=told, trm=told), [], Settings("both", 8, Sampling()), written.append, 60)
    assert before == [1, 1, 2, 2, 3, 3]  # the titles are written first


@pytest.mark.parametrize(("is_terminal", "columns", "width"), [(True, 60, 60), (True, 59, None), (False, 100, None)])
def test_columns_need_a_terminal_with_room_for_them(monkeypatch, is_terminal, columns, width):
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr(terminal.sys, "stdout", types.SimpleNamespace(isatty=lambda: is_terminal))
    assert terminal_width() == width
