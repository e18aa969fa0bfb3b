"""Removes training examples whose prompt is repeated or also in the test split. Imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from cl_lightning.data.base import Example, Splits


@dataclass(frozen=True)
class Removed:
    """Numbers of removed training examples: repeated prompts, and prompts of the test split."""

    repeated: int = 0
    leaked: int = 0


def clean(splits: Splits, dedup: bool, drop_leaks: bool) -> tuple[Splits, Removed]:
    """Remove repeated and leaked training examples, and count them together with those the benchmark left out itself.

    Args:
        splits: the splits of one task; the test split is kept as it is.
        dedup: keep only the first of the training examples with the same prompt, whatever their answers.
        drop_leaks: remove training examples whose prompt is in the test split. Prompts are compared exactly.
    """
    first: dict[str, Example] = {}
    for example in splits.train:
        first.setdefault(example.prompt, example)
    unique = tuple(first.values()) if dedup else splits.train
    tested = {e.prompt for e in splits.test} if drop_leaks else set()
    train = tuple(e for e in unique if e.prompt not in tested)
    return replace(splits, train=train), Removed(
        len(splits.train) - len(unique), splits.leaked + len(unique) - len(train)
    )


def removal_summary(removed: Mapping[str, Removed]) -> str:
    """Summarise in one line how many examples were removed from which task."""
    parts = [
        f"{name} {' and '.join(f'{count} {word}' for word, count in vars(r).items() if count)}"
        for name, r in removed.items()
        if r != Removed()
    ]
    return f"left out: {', '.join(parts)}" if parts else "nothing left out"
