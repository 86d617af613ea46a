"""A conversation in the terminal, with heads that answer at once."""

import json

import pytest

from trm_jax.decoding import Sampling
from trm_jax.errors import UserError
from trm_jax.serving import Conversation, EngineError, Settings, talk
from trm_jax.serving import conversation as conversations


class Echo:
    """Heads that answer with their name and what they were given."""

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
    "line", ["/help", "/head all", "/steps x", "/steps 0", "/seed -1", "/temperature warm", "/nothing", "/save"]
)
def test_what_is_no_command_shows_those_that_are(conversation, capsys, line):
    assert said(conversation, line, capsys=capsys)[0].startswith("/clear")


def test_what_cannot_be_done_is_said_and_the_conversation_goes_on(conversation, capsys, tmp_path, monkeypatch):
    printed = said(
        conversation, "/temperature -1", f"/save {tmp_path / 'no' / 'talk.json'}", "/save 'a", "a", capsys=capsys
    )
    assert "temperature -1.0 below 0" in printed[0]
    assert "No such file" in printed[1]
    assert "No closing quotation" in printed[2]
    assert printed[3].startswith("trm 10")
    monkeypatch.setattr(conversations, "encode_chat", lambda tokenizer, messages: [0] * 99)
    with pytest.raises(EngineError, match="99 tokens is longer than the 50 that fit"):
        Conversation(None, longest=50).ask("long")


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
