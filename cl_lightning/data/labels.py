"""The closed label set of a classification task, read off its training answers. No torch here."""

from collections.abc import Sequence
from string import ascii_uppercase

from cl_lightning.data.base import Example

#: More different answers than this are no label set.
MOST_LABELS = len(ascii_uppercase)


def answers(train: Sequence[Example]) -> list[str]:
    """The different training answers, sorted, without blanks around them."""
    return sorted({e.answer.strip() for e in train})


def are_labels(different: Sequence[str], examples: int) -> bool:
    """Whether so many different answers of so many training examples are labels: few, and repeated."""
    return 2 <= len(different) <= min(MOST_LABELS, examples // 2)


def label_set(train: Sequence[Example]) -> list[str]:
    """The closed label set, sorted; empty for a task whose answers are free text."""
    different = answers(train)
    return different if are_labels(different, len(train)) else []
