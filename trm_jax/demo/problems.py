"""Word problems in the form of GSM8K, made from a seed: short texts, small numbers, as many steps as asked for."""

import random
from collections.abc import Iterator

NAMES = "Ana Ben Carla Dan Eva Finn Gina Hugo Ida Jon Kim Leo Mia Noah Olga Paul Rosa Sam Tina Uma".split()
ITEMS = "apples balls books cards coins cups eggs keys nuts pens pears plums rings shells stamps stones".split()
MORE = ("{name} buys {b} more.", "{name} finds {b} more.", "A friend gives {name} {b} more.")
FEWER = ("{name} gives away {b}.", "{name} loses {b}.", "{name} sells {b}.")
TIMES = ("An uncle makes it {b} times as many.", "{name} trades and has {b} times as many.")


def _step(rng: random.Random, total: int, largest: int) -> tuple[str, str, int]:
    """One change of the total, by `largest` at most: its sentence, its arithmetic, the new total."""
    kind = rng.choice(("+", "+", "-", "-", "*"))
    if kind == "*" and total <= 9:
        b = rng.randint(2, 3)
        return rng.choice(TIMES).replace("{b}", str(b)), f"{total}*{b}", total * b
    if kind == "-" and total > 4:
        b = rng.randint(2, min(total - 2, largest))
        return rng.choice(FEWER).replace("{b}", str(b)), f"{total}-{b}", total - b
    b = rng.randint(2, largest)
    return rng.choice(MORE).replace("{b}", str(b)), f"{total}+{b}", total + b


def make_problem(rng: random.Random, steps: int, largest: int = 9) -> dict[str, str]:
    """One problem: `question`, and `answer` with a line a step, GSM8K's <<…>> marks and the #### line.

    No number in the question is above `largest` + 3.
    """
    name, item, total = rng.choice(NAMES), rng.choice(ITEMS), rng.randint(3, largest + 3)
    sentences, lines = [f"{name} has {total} {item}."], []
    for _ in range(steps):
        sentence, sum_, total = _step(rng, total, largest)
        sentences.append(sentence.replace("{name}", name))
        spaced = sum_.replace("+", " + ").replace("-", " - ").replace("*", " * ")
        lines.append(f"{spaced} = <<{sum_}={total}>>{total}")
    sentences.append(f"How many {item} does {name} have now?")
    return {"question": " ".join(sentences), "answer": "\n".join([*lines, f"#### {total}"])}


def problems(seed: int, steps: int, largest: int = 9) -> Iterator[dict[str, str]]:
    """An endless stream of problems, no question twice. Example: `next(problems(seed=0, steps=2))["question"]`."""
    rng, seen = random.Random(seed), set()
    while True:
        problem = make_problem(rng, steps, largest)
        if problem["question"] not in seen:
            seen.add(problem["question"])
            yield problem


def split(name: str, count: int | None = None) -> list[dict[str, str]]:
    """The demo's two-step problems: `train` (20,000) or `test` (512), the first `count` of them; no question is in both."""
    sizes = {"test": 512, "train": 20_000}
    if name not in sizes:
        raise ValueError(f"the demo has the splits {sorted(sizes)}, not {name!r}")
    stream = problems(seed=0, steps=2)
    test = [next(stream) for _ in range(sizes["test"])]
    rows = test if name == "test" else [next(stream) for _ in range(sizes["train"])]
    return rows[:count]
