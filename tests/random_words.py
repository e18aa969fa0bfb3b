"""A benchmark of random words: prompts that differ as much as the tokenizer lets them."""

import random
from collections.abc import Mapping
from pathlib import Path

from cl_lightning.data.base import Benchmark, Example, Splits, TaskSpec

LETTERS = "abcdefghijklmnopqrstuvwxyz"


class RandomWords(Benchmark):
    """Five tasks, each with letters of its own."""

    def tasks(self, root: Path | None) -> Mapping[str, TaskSpec]:
        return {name: TaskSpec(name, "accuracy", 4) for name in ("one", "two", "three", "four", "five")}

    def load(self, root: Path | None, name: str) -> Splits:
        rng = random.Random(name)
        letters = rng.sample(LETTERS, 14)

        def example(index: int) -> Example:
            return Example(f"{name}/{index}", "".join(rng.choices(letters, k=rng.randint(4, 9))), rng.choice(letters))

        return Splits(tuple(example(i) for i in range(12)), tuple(example(i) for i in range(12, 14)))

    def describe(self, root: Path | None) -> str:
        return "random words"
