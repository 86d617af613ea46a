"""The figures of lm-evaluation-harness for GSM8K."""

import pytest

from trm_jax.evaluation import flexible_extract, is_exact_match, strict_match

TEXTS = [
    "so 4.\n#### 1,234",
    "#### -7. And #### 8",
    "####5",
    r"It is \boxed{42}.",
    "They pay $1,200.50.",
    "3 of 4, or 5",
    "no number at all...",
    "nothing",
    "",
    "#### abc",
    "-3",
]
SOLUTIONS = ["1 + 1233\n#### 1234", "#### -7", "5\n#### 5", "#### 42", "#### $1,200.50"]


@pytest.mark.parametrize(
    ("text", "strict", "flexible"),
    [
        ("so 4.\n#### 1,234", "1,234", "1,234"),
        ("#### -7. And #### 8", "-7.", "8"),
        (r"It is \boxed{42}.", "[invalid]", "42"),
        ("nothing", "[invalid]", "[invalid]"),
        ("wait...", "[invalid]", "..."),
    ],
)
def test_what_the_filters_find(text, strict, flexible):
    assert (strict_match(text), flexible_extract(text)) == (strict, flexible)


def test_commas_dollars_and_a_last_stop_do_not_count():
    assert is_exact_match("$1,234.", "#### 1234")
    assert not is_exact_match("1234.0", "#### 1234")


def test_both_are_as_in_lm_eval():
    pytest.importorskip("lm_eval", reason="lm_eval is not installed")
    import lm_eval.tasks
    import yaml
    from lm_eval.api.metrics import exact_match_hf_evaluate
    from lm_eval.filters.extraction import RegexFilter

    file = next(iter(lm_eval.tasks.__path__)) + "/gsm8k/gsm8k.yaml"
    with open(file) as stream:
        task = yaml.safe_load(stream)
    (metric,) = task["metric_list"]
    for ours, theirs in zip((strict_match, flexible_extract), task["filter_list"], strict=True):
        settings = {name: value for name, value in theirs["filter"][0].items() if name != "function"}
        (found,) = RegexFilter(**settings).apply([TEXTS], [{}])
        assert [ours(text) for text in TEXTS] == found
        for answer in found:
            for solution in SOLUTIONS:
                expected = exact_match_hf_evaluate(
                    [answer], [solution], regexes_to_ignore=metric["regexes_to_ignore"], ignore_case=True
                )
                assert is_exact_match(answer, solution) == bool(expected["exact_match"]), (answer, solution)
