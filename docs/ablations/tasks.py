"""Writes the questions of tasks.toml into runs/tasks: three steps in place of the demo's two, and numbers to 63."""

import itertools
import json
import pathlib

from trm_jax.demo.problems import problems

folder = pathlib.Path("runs/tasks")
folder.mkdir(parents=True, exist_ok=True)
for name, steps, largest in (("three-steps", 3, 9), ("two-digits", 2, 60)):
    stream = problems(seed=3, steps=steps, largest=largest)
    for split, count in (("test", 512), ("train", 20_000)):
        rows = itertools.islice(stream, count)
        (folder / f"{name}.{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
