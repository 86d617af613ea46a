"""Text that comes token by token: whole characters, and nothing of what is behind a stop string."""

import hypothesis.strategies as st
from hypothesis import given

from trm_jax.serving import TextStream


class Bytes:
    """A tokenizer whose tokens are the bytes of UTF-8."""

    def decode(self, tokens, skip_special_tokens):
        return bytes(tokens).decode("utf-8", errors="replace")


texts = st.text(st.sampled_from("ab\n1é苹🍎"), max_size=30)


@given(texts, st.lists(st.text(st.sampled_from("ab\n1苹"), min_size=1, max_size=3), max_size=2), st.integers(1, 5))
def test_the_pieces_are_the_text_before_the_stop_string_that_ends_first(text, stops, size):
    tokens, stream = list(text.encode()), TextStream(Bytes(), stops)
    pieces = [stream.add(tokens[start : start + size]) for start in range(0, len(tokens), size)]
    found = [(text.index(stop) + len(stop), text.index(stop)) for stop in stops if stop in text]
    assert "".join([*pieces, stream.end()]) == text[: min(found, default=(0, len(text)))[1]]
    assert stream.stopped == bool(found)
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)


def test_an_answer_that_ends_within_a_character_says_so():
    stream = TextStream(Bytes())
    assert stream.add("苹".encode()[:2]) == ""
    assert stream.end() == "\N{REPLACEMENT CHARACTER}"


def test_text_is_not_held_back_longer_than_needed():
    stream = TextStream(Bytes(), ["\n\n"])
    assert stream.add(b"a\n") == "a"
    assert stream.add(b"b") == "\nb"
