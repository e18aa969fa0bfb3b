"""The closed label set of a classification task, inferred from its training answers. Imports no torch."""

from collections.abc import Sequence
from string import ascii_uppercase

from cl_lightning.data.base import Example

#: Largest number of labels in a label set.
MOST_LABELS = len(ascii_uppercase)


def answers(train: Sequence[Example]) -> list[str]:
    """Return the distinct training answers, stripped and sorted."""
    return sorted({e.answer.strip() for e in train})


def are_labels(different: Sequence[str], examples: int) -> bool:
    """Return whether the distinct answers of this many training examples are labels: few, and repeated."""
    return 2 <= len(different) <= min(MOST_LABELS, examples // 2)


def label_set(train: Sequence[Example]) -> list[str]:
    """Return the closed label set, sorted; empty for a task with free-text answers."""
    different: set[str] = set()
    for example in train:
        different.add(example.answer.strip())
        if len(different) > MOST_LABELS:
            return []
    return sorted(different) if are_labels([*different], len(train)) else []
