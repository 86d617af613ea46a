"""GSM8K's answers as lm-evaluation-harness grades them, so that a figure can be laid beside published ones.

Source: its task `gsm8k`, version 3 (lm_eval/tasks/gsm8k/gsm8k.yaml): two filters, then `exact_match`.
"""

import re

STRICT = re.compile(r"#### (\-?[0-9\.\,]+)")  # the first one counts
FLEXIBLE = re.compile(r"(-?[$0-9.,]{2,})|(-?[0-9]+)")  # the last one counts
IGNORED = [re.compile(pattern) for pattern in (",", r"\$", "(?s).*#### ", r"\.$")]
NONE = "[invalid]"  # what lm-eval puts where a filter finds nothing


def strict_match(text: str) -> str:
    """The number behind the first `####`.

    Example: `strict_match("so 4. #### 1,234")` is `"1,234"`.
    """
    found = STRICT.search(text)
    return found[1].strip() if found else NONE


def flexible_extract(text: str) -> str:
    """The last thing that looks like a number.

    Example: `flexible_extract("3 and 4 make $7.")` is `"$7."`.
    """
    found = FLEXIBLE.findall(text)
    return next(part for part in found[-1] if part).strip() if found else NONE


def is_exact_match(answer: str, solution: str) -> bool:
    """Whether an answer and a worked solution, which ends in `#### ANSWER`, are the same text but for commas and the like.

    Example: `is_exact_match("$1,234.", "1 + 1233 = 1234\\n#### 1234")` is true.
    """
    return _plain(answer) == _plain(solution)


def _plain(text: str) -> str:
    for pattern in IGNORED:
        text = pattern.sub("", text)
    return text.lower()
