"""Measures one split, some examples at a time, so that a large file is not held. Imports no torch."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

from cl_lightning.data.base import Example
from cl_lightning.data.cleaning import fingerprint

#: Lengths of texts, in words or tokens.
Measure = Callable[[Sequence[str]], list[int]]
#: Examples that are measured together.
CHUNK = 1024


@dataclass
class Measured:
    """What is known of a split.

    Attributes:
        prompts: fingerprint of a prompt -> number of examples with it.
        said: answers with their numbers; those of free text are not all counted.
        shortest: length of the shortest correct answer of each example.
        fixed_parts: instruction and cue of the prompts that are too long -> number of these.
    """

    prompts: Counter[bytes] = field(default_factory=Counter)
    said: Counter[str] = field(default_factory=Counter)
    prompt_lengths: list[int] = field(default_factory=list)
    answer_lengths: list[int] = field(default_factory=list)
    shortest: list[int] = field(default_factory=list)
    fixed_parts: Counter[str] = field(default_factory=Counter)


def measured(examples: Sequence[Example], measure: Measure, room: int, most_answers: int) -> Measured:
    """Measure a split.

    Args:
        room: length above which a prompt is too long.
        most_answers: number of different answers above which they are free text.
    """
    found = Measured()
    for chunk in _chunks(examples):
        lengths = measure([e.prompt for e in chunk])
        found.prompt_lengths += lengths
        found.answer_lengths += measure([e.answer for e in chunk])
        found.shortest += measure([min(e.accepted, key=len) for e in chunk])
        found.prompts.update(fingerprint(e.prompt) for e in chunk)
        if len(found.said) <= most_answers:
            found.said.update(e.answer.strip() for e in chunk)
        long = (e for e, length in zip(chunk, lengths, strict=True) if length > room)
        found.fixed_parts.update(e.prompt[: e.instruction] + e.prompt[len(e.prompt) - e.cue :] for e in long)
    return found


def _chunks(examples: Sequence[Example]) -> Iterator[list[Example]]:
    left = iter(examples)
    while chunk := list(islice(left, CHUNK)):
        yield chunk
