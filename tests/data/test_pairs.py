"""Pairs of answers, each with the other's side behind a bar: one table of those that differ, one of those that do not.

What is left open, because it may be read both ways: `5 less`, `5 short`, `5 minimum` pass as 5, `5'` may be quoted, and
`12,34,567` is refused, being a list or an Indian number.
"""

import time

import pytest

from trm_jax.data.answers import find_answer, reference_answer
from trm_jax.data.judges import same_answer

DIFFERENT = r"""
5 dollars|5 cents
3 days|3 weeks
5 BC|5 AD
12 noon|12 midnight
5 gross|5
5 score|5
5 grand|5
no 5|5
5 without 2|5
5 excluding tax|5
5 is false|5
anything but 5|5
up to 5|5
5 up|5
above 5|5
5 above zero|5
over 5|5
nearly 5|5
almost 5|5
under 5|5
5 choose two|5
5 mega|5
5 giga|5
about 5 or so|6
at least 5|5
at most 5|5
5 at most|5
5 wrong|5
incorrect: 5|5
unlike 5|5
5 each|10
between 5|5
fewer than 5|5
N|n
2N|2n
0.333...|0.333
0.333...|1/4
\frac123|1/23
1/3x|\frac{1}{3x}
pair of 5|5
5 pairs|10
5%|5 dollars
$5|5 cents
5 km|5 m
5 cm|5 m
5 hours|5 minutes
5 feet|5 inches
5 kg|5 lbs
5 am|5 pm
5 apples|5 oranges
5 eggs per day|5 eggs per week
$5|€5
5 m^2|5 m^3
5 m^2|5 m
5 square feet|5 feet
(A)|(B)
A|a+1
5^\circ C|5^\circ F
5 degrees|5 radians
\infty|-\infty
1e5|1e6
5 (mod 7)|5
5 \pmod 7|5
5 base 7|5
5_7|5
101_2|101
101_2|101_3
\overline{5}|5
-5 below|5
minus five|5
twenty|30
twenty five|20
thirty-one|30
one hundred|100000
a hundred|1
five hundred|5
\theta = 30|\phi = 30
x_1 = 5|x_2 = 5
\angle ABC = 30|\angle ABD = 30
\ang{30}|31
1 and 2|1 and 3
1 and 2|3
1 and 2|12
1,2|12
x=1, x=2|x=1, y=2
\pm 2|2
\pm 2|-2
(2,\infty)|x \geq 2
5<x|x<5
x<5|5>y
3÷4|4/3
12,34,567|1,234,568
\arcsin x|\sin x
x^-1|x
x^{-1}|x
Yes|No
True|False
even|odd
Monday|Tuesday
3:30 PM|3:30 AM
3:30|3:31
3:30|3
2:3|3:2
2:3|2/3x
\text{not } 5|5
ABC|abc
\sqrt[3]{8}|\sqrt{8}
2 + 3i|2 - 3i
3i|3
5 trillionths|5
five sixths|5
5 percent|5 percentage points off
5 dozen|5
5 pairs|5 dozen
1.5 million|1.5 billion
5k|5
5K|5
$5M|$5
5 mm|5 cm
5 ml|5 l
5 million dollars|5 million cents
10 plus|10
10+|10
>5|5
~5|6
5-|5
<5|5
5 and up|5
5 and more|5
5ish|5
5 approximately|6
5 out of 10|5
5 in 10|5
5 of 10|5
5/10 of it|5
5 to 1|5
5 to 10|5
5 through 10|10
5th|6
5 per 100|5
5 per thousand|5
5 times ten|5
5 ten|5
5 years ago|-6
5 nines|5
5 zero|5
5 degrees below|5
5 units less than x|5
5 more than x|5
x more than 5|5
5 minus|5
neither 5|5
nor 5|5
none of 5|5
0 of 5|5
all but 5|5
other than 5|5
5 too many|5
besides 5|5
5 cannot be|5
5 isn't right|5
can't be 5|5
5 is impossible|5
non-5|5
\neg 5|5
\lnot 5|5
\bar{5}|5
\lfloor 5.5 \rfloor|5.5
\lceil 5.5 \rceil|5.5
|5-7||5-7
5!|5
5 factorial|5
5C2|5
5 P 2|5
5 squared|5
square of 5|5
cube of 5|5
5 to the power two|5
log 5|5
five and a half|5
half|1
half a dozen|12
half a dozen|1/2
a dozen|12.5
1 1/2|11/2
-1 1/2|-1/2
0.5|.05
1,5|15
1.500|1500
1.234,5|1234.5
5e-3|5e3
5.|50
3x+y=10|y=3x+10
2x+y=3|y=2x+3
3x + y = 10|f(x)=3x+10
2y=x|y=2x
-y=x+1|y=-x+1
10²|10³
(x+1)²|(x+1)³
½|¼
x₁|x₂
①②|①③
五|六
二十五|三十六
三分之一|三分之二
5! ways|5
There are 4! ways|4
\frac{1}{2}bh|\frac12
\frac{1}{2}gt^2|\frac12
\frac{3}{4}s^2|\frac34
2 xy|2
4 mn|4
5 t|5
4 a b|4
AB=5|AC=5
ab=1|x=1
f(2)=5|f(3)=5
\sqrt{a}+\sqrt{b}=\sqrt{c}|\sqrt{a}+\sqrt{c}=\sqrt{b}
xy=0|x=0
x<-1 and x>1|x<-1 or x>1
1/2\pi|\frac{1}{2\pi}
1/2\pi|\frac{1}{2}\pi
x^\frac{1}{2}|x^1/2
May 5|June 5
May 5|5
5 January|5
5 m/s|5 s/m
¥5|$5
5米|5厘米
5平方米|5米
5成|5
5半|5
5以上|5
5 twelfths|5
three quarters|3
55 hex|55
$5m|$5
arcsin 5|5
gcd 5|5
exceeds 5|5
(A) 12|(B) 12
(A) 12|(A) 13
(A) 12|B
10\pi \text{ cm}|10\pi \text{ cm}^2
10\pi \text{ cm}|10\pi \text{ inches}
(x, y) = (3, 2)|(y, x) = (3, 2)
a_n = 3n+1|b_n = 3n+1
1<x<3|(1,3]
ab|ac
""".strip().splitlines()
SAME = r"""
twenty-five|25
twenty five|25
thirty|30
one hundred|100
ninety-nine|99
\theta = 30|30
x_1 = 5|5
\angle ABC = 30^\circ|30
\ang{30}|30
\underline{42}|42
15 sq. ft.|15
1 and 2|1, 2
1\text{ and }2|1,2
x=1, x=2|1,2
x = 1 or x = 2|1, 2
1 or 2|1,2
\pm 2|2,-2
(2,\infty)|x>2
5<x|x>5
11,\! 111|11111
3÷4|3/4
x^-1|1/x
\arcsin x|\sin^{-1} x
\arcsin x|\arcsin x
\frac{1}{3}x|x/3
Saturday|\text{Saturday}
Yes|yes
seven|7
3:30 PM|3:30 pm
3:30 PM|3:30 p.m.
5 dollars|$5
5 dollars|5 dollar
5 km|5 kilometers
5 cm|5 \text{ centimeters}
5 cm|5
5 m/s|5 meters per second
5 hours|5 hrs
5 minutes|5 min
5 feet|5 ft
5 pounds|5 lbs
5 apples|5 red apples
5 apples|5 apple
50\%|50 percent
5^\circ|5 degrees
5^\circ\text{C}|5 degrees Celsius
5 sq ft|5 square feet
5 m^2|5 square meters
5 \text{ cm}^2|5 cm^2
5 mph|5 miles per hour
18 eggs|18\text{ eggs}
$18|18 dollars
18 dollars per day|$18/day
18 USD|$18
B|(b)
b|B
\text{(B)}|B
2:3|2 : 3
x \in [1,2]|[1,2]
5 people|5 persons
5 men|5 man
5 cents|5¢
0.333...|1/3
\sqrt2|\sqrt{2}
5\sqrt2|5\sqrt{2}
2i+3|3+2i
\text{even}|Even
10 a.m.|10 AM
101_2|101_{2}
\dfrac{1}{2}|0.5
10\pi \text{ cm}^2|10\pi
36\pi \text{ cubic inches}|36\pi
5\sqrt{2}\text{ units}|5\sqrt{2}
\sqrt{2} \mathrm{~cm}|\sqrt{2}
\frac{\pi}{2}\text{ radians}|\frac{\pi}{2}
C. 12|C
B) 12|B
(B) 12|B
\text{B: } 12|(B)
\textbf{(C)}\ 12|C
5 \mathrm{~km} / \mathrm{h}|5 km/h
5 \mathrm{~m} / \mathrm{s}|5
a_n = 3n+1|3n+1
T_n=\frac{n}{n+1}|\frac{n}{n+1}
(x, y) = (3, 2)|(3,2)
(a,b,c)=(1,2,3)|(1,2,3)
3x+y=10|y=-3x+10
3<x<4|(3,4)
-2\le x\le 2|[-2,2]
1<x\leq 3|(1,3]
\frac{ab}{a+b}|\frac{ab}{b+a}
4ab|4 a b
\frac{1}{2}ab|\frac{ab}{2}
f(2)=5|5
""".strip().splitlines()
# Sentences whose answer is 5.
FIVE = """
The score is 5
The final score: 5
The grand total is 5
gross income is $5
The down payment is 5
He ends up with 5
The price before tax is 5
The price after the discount is $5
5 left over
5 more apples
5 fewer apples
5 hours after noon
a total of 5
a minimum of 5
He saves 5 dollars a week
5 dollars per person
about 5
approximately 5
only 5
exactly 5 eggs
5 apples in total
5 each
She will have 5 left
Natalia sold 5 clips in May
The answer is therefore 5
No. of apples = 5
The number of apples is 5
Each gets 5
5 (apples)
5 boys and girls
5 hours a day
5 days from now
5 years later
5 km away
5 miles east
5 pounds of flour
5 sq. ft.
5 a.m.
the remaining 5 apples
They spent $5 on it altogether
$5.00 per hour
5 pages per night
The total cost without tax is 5
""".strip().splitlines()


@pytest.mark.parametrize(("pairs", "same"), [(DIFFERENT, False), (SAME, True)])
def test_pairs(pairs, same):
    """In both orders."""
    for pair in pairs:
        one, _, other = pair.rpartition("|")
        assert same_answer(one, other) is same_answer(other, one) is same, pair


def test_absolute_values():
    assert not same_answer("|x-1|+|y|=2", "|x|+|y|=2")
    assert not same_answer("|x+y|=1", "|x-y|=1")
    assert same_answer("|x+y|", "|y+x|")


@pytest.mark.parametrize("sentence", FIVE)
def test_words_that_do_not_touch_a_number(sentence):
    assert same_answer(sentence, "5")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("The answer is \\text{(C)}.", "\\text{(C)}"),
        ("the answer is option B", "B"),
        ("The answer is 18 - done.", "18"),
        ("the answer is 10:30 am.", "10:30 am"),
        ("答：18", "18"),
        ("答案是：18", "18"),
        ("故选：B。", "B"),
        ("The answer is 12. Wait, that is wrong, the answer is 15.", "15"),
        ("The answer is A) 18", "A) 18"),
        ("The answer is: Saturday", "Saturday"),
    ],
)
def test_answers_behind_words(text, answer):
    found = find_answer(f"3 + 4 = 7. {text}")
    assert (found.text, found.form) == (answer, "marked")


def test_a_word_alone_is_an_answer_but_a_sentence_is_not():
    for answer in ("Saturday", "Yes", "seven", "twenty-five", "3:30 PM", "(C)", "\\text{even}"):
        assert reference_answer(answer) == answer
    for text in ("She sold half of them.", "no idea", ""):
        assert reference_answer(text) is None


def test_numbers_between_chinese_words():
    for text, number in (("所以，一共有18个苹果。", "18个苹果"), ("答：小明有18元。", "18元"), ("不到18个。", None)):
        found = find_answer(text)
        assert (found and found.text) == number


ENDLESS = [
    ("\\sin(x+y)=\\sin x+\\sin y", "\\cos(x+y)=\\cos x+\\cos y"),
    ("\\sin^{99} x", "\\cos^{99} x"),
    ("x^5 + \\sqrt{x}+\\sqrt[3]{x} = 7", "x^5 + \\sqrt{x}+\\sqrt[3]{x} = 8"),
    ("||||x|-1|-2|-3|=1", "||||x|-1|-2|-3|=2"),
    ("\\binom{x}{99}=1", "\\binom{x}{98}=1"),
    ("(\\sin x+\\cos x+\\tan x)^{12}", "(\\sin x+\\cos x)^{12}"),
    ("2^x+3^x+5^x=10", "2^x+3^x+5^x=11"),
    ("0." + "3" * 30_000, "5"),
]


@pytest.mark.parametrize(("one", "other"), ENDLESS, ids=range(len(ENDLESS)))
def test_what_has_no_end_is_not_computed(one, other):
    started = time.process_time()
    assert not same_answer(one, other)
    assert time.process_time() - started < 5


@pytest.mark.parametrize("text", ["\\boxed{", "the answer is "])
def test_a_number_without_end_is_read_in_no_time(text):
    started = time.process_time()
    find_answer(text + "1" * 30_000)
    assert time.process_time() - started < 5
