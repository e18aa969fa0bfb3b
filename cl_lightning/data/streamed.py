"""Examples of a file that is too large to hold: read again whenever they are needed. Imports no torch."""

from collections.abc import Callable, Iterator, Sequence
from itertools import compress
from typing import overload

from cl_lightning.data.base import Example


class Streamed(Sequence[Example]):
    """A sequence of examples of which none is held.

    Every use is one pass over the file, so ask for all that is needed at once, with `take`.

    Args:
        read: yields all examples of the file, the same ones at every call.
        chosen: for each of them, 1 if it belongs to the sequence, else 0.
        size: bytes of the file.
    """

    def __init__(self, read: Callable[[], Iterator[Example]], chosen: bytes, size: int) -> None:
        self._read, self._chosen, self._length, self._size = read, chosen, sum(chosen), size

    def __len__(self) -> int:
        return self._length

    @property
    def size(self) -> int:
        """The sequence's share of the file, in bytes."""
        return self._size * self._length // max(1, len(self._chosen))

    def __iter__(self) -> Iterator[Example]:
        return compress(self._read(), self._chosen)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        wanted = range(len(self))[index]
        return self.take([wanted])[0] if isinstance(wanted, int) else self.take(wanted)

    def take(self, indices: Sequence[int]) -> list[Example]:
        """Return the examples at these places, in the order of `indices`."""
        wanted, found = set(indices), {}
        for index, example in enumerate(self):
            if len(found) == len(wanted):
                break
            if index in wanted:
                found[index] = example
        return [found[index] for index in indices]

    def only(self, flags: bytes) -> "Streamed":
        """Return the sequence of its examples whose flag is 1."""
        left = iter(flags)
        return Streamed(self._read, bytes(next(left) if chosen else 0 for chosen in self._chosen), self._size)


def take(examples: Sequence[Example], indices: Sequence[int]) -> list[Example]:
    """Return the examples at these places, in the order of `indices`, with one pass over a file."""
    return examples.take(indices) if isinstance(examples, Streamed) else [examples[i] for i in indices]


def only(examples: Sequence[Example], flags: bytes) -> Sequence[Example]:
    """Return the examples whose flag is 1."""
    return examples.only(flags) if isinstance(examples, Streamed) else tuple(compress(examples, flags))


def changed(examples: Sequence[Example], change: Callable[[Example], Example]) -> Sequence[Example]:
    """Return the examples as `change` makes them."""
    if isinstance(examples, Streamed):
        return Streamed(lambda: map(change, examples), b"\1" * len(examples), examples.size)
    return tuple(map(change, examples))
