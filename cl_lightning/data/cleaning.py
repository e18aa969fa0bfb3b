"""Leave out training examples whose prompt repeats, or stands in the test split. No torch here."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from cl_lightning.data.base import Example, Splits


@dataclass(frozen=True)
class Removed:
    """How many training examples were left out: prompts that had occurred before, prompts of the test split."""

    repeated: int = 0
    leaked: int = 0


def clean(splits: Splits, dedup: bool, drop_leaks: bool) -> tuple[Splits, Removed]:
    """The splits without what is asked to go, and how much that was, with what the benchmark itself left out as leaked.
    Prompts are compared exactly.

    Args:
        splits: one task's; the test split stays as it is.
        dedup: of training examples with one prompt keep the first (its answer may differ from the others').
        drop_leaks: drop training examples whose prompt is one of the test split's.
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


def told(removed: Mapping[str, Removed]) -> str:
    """What was left out of which task, for people."""
    parts = [
        f"{name} {' and '.join(f'{count} {word}' for word, count in vars(r).items() if count)}"
        for name, r in removed.items()
        if r != Removed()
    ]
    return f"left out: {', '.join(parts)}" if parts else "nothing left out"
