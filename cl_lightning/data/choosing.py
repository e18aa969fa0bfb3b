"""Chooses the examples of a task that are used, and encodes these alone."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch

from cl_lightning.common.errors import DataError
from cl_lightning.common.memory import machine_memory
from cl_lightning.common.seeding import generator
from cl_lightning.data.base import Example, Splits
from cl_lightning.data.prompt import Encoded
from cl_lightning.data.streamed import Streamed, take

#: Encodes examples of one task.
Encode = Callable[[Iterable[Example]], Iterator[Encoded]]


@dataclass(frozen=True)
class Wanted:
    """How many examples of a task are used; see `TaskSequence`. None: all."""

    train: int | None
    validation: int
    test: int | None
    max_answer_tokens: int
    drop_long: bool


@dataclass(frozen=True)
class Chosen:
    """The examples of a task that are used; `dropped`: number of those left out for their long answer."""

    train: tuple[Encoded, ...]
    validation: tuple[Encoded, ...]
    test: tuple[Encoded, ...]
    dropped: int


def choose(name: str, splits: Splits, wanted: Wanted, seed: int, encode: Encode) -> Chosen:
    """Draw a task's examples by (seed, task), and encode them.

    Raises:
        DataError: too few examples, more than the memory holds, or a training answer that is too long.
        ConfigError: an example that cannot be encoded.
    """
    _check_room(name, splits, wanted)
    count, held_out = len(splits.train), wanted.validation
    order = torch.randperm(count, generator=generator(seed, "samples", name))
    if held_out >= count:
        raise DataError(
            f"data.validation_samples: {held_out} leaves no training example of {name} ({count} in its train split)"
        )
    most = count if wanted.train is None else wanted.train + held_out
    kept: list[Encoded] = []
    tried = dropped = 0
    while len(kept) < most and tried < count:
        indices = order[tried : tried + most - len(kept)].tolist()
        tried += len(indices)
        for encoded in encode(take(splits.train, indices)):
            if len(encoded.answer_ids) <= wanted.max_answer_tokens:
                kept.append(encoded)
            elif wanted.drop_long:
                dropped += 1
            else:
                raise DataError(
                    f"{encoded.example.id}: the answer has {len(encoded.answer_ids)} tokens, data.max_answer_tokens "
                    f"is {wanted.max_answer_tokens}; raise it, or leave such examples out with data.long_answers=drop"
                )
    if len(kept) <= held_out:
        raise DataError(
            f"{name}: {len(kept)} answers fit data.max_answer_tokens={wanted.max_answer_tokens}, and "
            f"data.validation_samples takes {held_out}; none is left to train on, so raise the limit"
        )
    drawn = torch.randperm(len(splits.test), generator=generator(seed, "test", name))[: wanted.test]
    test = encode(take(splits.test, sorted(drawn.tolist())))
    return Chosen(tuple(kept[held_out:]), tuple(kept[:held_out]), tuple(test), dropped)


def _check_room(name: str, splits: Splits, wanted: Wanted) -> None:
    """Refuse to hold all examples of a split that is larger than the memory, which they would fill without a word."""
    for split, examples, number in (("train", splits.train, wanted.train), ("test", splits.test, wanted.test)):
        if number is None and isinstance(examples, Streamed) and examples.size > machine_memory():
            raise DataError(
                f"data.{split}_samples: the {split} examples of {name} take {examples.size / 1e9:.3g} GB on disk, and "
                f"all of them would be held in a memory of {machine_memory() / 1e9:.3g} GB; say how many are used"
            )
