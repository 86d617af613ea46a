"""Pairs of answers whose truth is known from how they are made: numbers in ten dresses, and formulas as MATH has them."""

import itertools
from collections.abc import Iterator
from typing import NamedTuple


class Pair(NamedTuple):
    found: str
    expected: str
    same: bool


DRESSES = [
    "{n}",
    "\\${n}",
    "${n}.",
    "{n} dollars",
    "{n}\\text{{ eggs}}",
    "**{n}**",
    "x = {n}",
    "{n}\\%",
    "\\text{{{n}}}",
    "\\left({n}\\right)",
]
OTHER_NUMBERS = [
    "{more}",
    "-{n}",
    "1{n}",
    "0.{n}",
    "{n}^2",
    "{n} or {more}",
    "{n} million",
    "{n}x",
    "{n}\\text{{ apples and }}{more}\\text{{ pears}}",
    "{n}/{more}",
]


def dressed(reference: str) -> Iterator[Pair]:
    """A whole or decimal number of a data set in ten dresses; another number in the same ten; and ten that contain it."""
    plain = reference.replace(",", "")
    more = f"{float(plain) + 1:g}" if "." in plain else str(int(plain) + 1)
    for dress in DRESSES:
        yield Pair(dress.format(n=plain), reference, True)
        yield Pair(dress.format(n=more), reference, False)
    if float(plain) > 1:  # 0 million is 0, and 1² is 1
        for other in OTHER_NUMBERS:
            yield Pair(other.format(n=plain.lstrip("-"), more=more.lstrip("-")), reference, False)


# A formula, others that say the same, and one that does not. {a} < {b} < {c} are whole numbers, p and q primes.
FORMULAS = [
    ("\\frac{{{p}}}{{{q}}}", ["\\dfrac{{{p}}}{{{q}}}", "{p}/{q}", "\\tfrac{{{p}}} {{{q}}}"], "\\frac{{{q}}}{{{p}}}"),
    ("-\\frac{{{p}}}{{{q}}}", ["\\frac{{-{p}}}{{{q}}}", "-{p}/{q}"], "\\frac{{{p}}}{{{q}}}"),
    ("{a}\\sqrt{{{p}}}", ["{a} \\sqrt {{{p}}}", "\\sqrt{{{p}}} \\cdot {a}"], "{b}\\sqrt{{{p}}}"),
    ("\\sqrt{{{p}}}", ["\\sqrt{{{p}}} ", "{p}^{{1/2}}"], "{p}"),
    ("\\frac{{\\sqrt{{{p}}}}}{{{q}}}", ["\\sqrt{{{p}}}/{q}", "\\frac{{1}}{{{q}}}\\sqrt{{{p}}}"], "\\sqrt{{{p}/{q}}}"),
    ("{a} + {b}\\sqrt{{{p}}}", ["{b}\\sqrt{{{p}}} + {a}", "{a}+{b}\\sqrt{{{p}}}"], "{a} - {b}\\sqrt{{{p}}}"),
    ("{a}\\pi", ["{a} \\pi", "\\pi \\cdot {a}"], "{a}"),
    ("\\frac{{{p}\\pi}}{{{q}}}", ["\\frac{{{p}}}{{{q}}}\\pi", "{p}\\pi/{q}"], "\\frac{{{q}\\pi}}{{{p}}}"),
    ("({a},{b})", ["({a}, {b})", "\\left({a},{b}\\right)", "\\left( {a}, {b} \\right)"], "({b},{a})"),
    ("({a},{b},{c})", ["({a}, {b}, {c})"], "({a},{c},{b})"),
    ("[{a},{b}]", ["[{a}, {b}]", "\\left[{a},{b}\\right]"], "({a},{b})"),
    ("[{a},{b})", ["[{a}, {b})", "\\left[{a}, {b}\\right)"], "[{a},{b}]"),
    ("({a},\\infty)", ["({a}, \\infty)", "\\left({a},\\infty\\right)"], "[{a},\\infty)"),
    ("(-\\infty,{a})\\cup({b},\\infty)", ["(-\\infty, {a}) \\cup ({b}, \\infty)"], "(-\\infty,{a}]\\cup({b},\\infty)"),
    ("\\{{{a},{b}\\}}", ["\\{{{a}, {b}\\}}", "\\{{{b},{a}\\}}"], "\\{{{a},{c}\\}}"),
    ("{a}x+{b}", ["{b}+{a}x", "{a}x + {b}"], "{b}x+{a}"),
    ("x^2-{a}x+{b}", ["x^{{2}} - {a}x + {b}", "{b} - {a}x + x^2"], "x^2+{a}x+{b}"),
    ("(x-{a})(x+{b})", ["(x+{b})(x-{a})", "(x - {a})(x + {b})"], "(x+{a})(x+{b})"),
    ("x^{a}", ["x^{{{a}}}", "x ^ {a}"], "x^{b}"),
    ("\\frac{{{p}}}{{x+{q}}}", ["{p}/(x+{q})", "\\frac{{{p}}}{{{q}+x}}"], "\\frac{{{p}}}{{x-{q}}}"),
    ("{p}^{{{a}}}", ["{p}^{a}", "{p} ^ {a}"], "{p}^{{{b}}}"),
    ("y = {a}x + {b}", ["y={a}x+{b}", "{a}x+{b}"], "y = {b}x + {a}"),
    ("x \\le {a}", ["x \\leq {a}", "x\\leq {a}"], "x \\ge {a}"),
    ("\\log_{a} {b}", ["\\log_{{{a}}} {b}", "\\log_{{{a}}}{b}"], "\\log_{b} {a}"),
    (
        "\\begin{{pmatrix}} {a} & {b} \\\\ {c} & {p} \\end{{pmatrix}}",
        ["\\begin{{pmatrix}}{a}&{b}\\\\{c}&{p}\\end{{pmatrix}}"],
        "\\begin{{pmatrix}}{b}&{a}\\\\{c}&{p}\\end{{pmatrix}}",
    ),
    (
        "\\begin{{pmatrix}} {a} \\\\ {b} \\end{{pmatrix}}",
        ["\\begin{{pmatrix}}{a}\\\\ {b}\\end{{pmatrix}}"],
        "\\begin{{pmatrix}} {a} & {b} \\end{{pmatrix}}",
    ),
    ("\\text{{(B)}}", ["B", "(B)", "\\textbf{{(B)}}"], "C"),
]
NUMBERS = [
    (2, 3, 5, 7, 11),
    (3, 4, 7, 5, 13),
    (4, 6, 9, 3, 17),
    (5, 8, 9, 2, 7),
    (2, 7, 8, 13, 5),
    (3, 5, 9, 11, 19),
    (6, 7, 9, 17, 3),
]


def formulas() -> Iterator[Pair]:
    """Formulas as in MATH, each beside others that are the same and one that is not, in seven sets of numbers."""
    for (expected, same, other), numbers in itertools.product(FORMULAS, NUMBERS):
        values = dict(zip("abcpq", numbers, strict=True))
        yield from (Pair(one.format(**values), expected.format(**values), True) for one in same)
        yield Pair(other.format(**values), expected.format(**values), False)
