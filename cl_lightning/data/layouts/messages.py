"""Layout `messages`: a list of turns with role and content, as chat models take them. Imports no torch."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from cl_lightning.common.errors import DataError
from cl_lightning.data.layouts.base import Asked, Layout, Options
from cl_lightning.data.layouts.conversation import conversation, refuse_not_read, system_of, turns_of


class Messages(Layout):
    """A conversation. Its last turn is the answer, those before it are the prompt; a field `system` goes first."""

    takes = frozenset({"turns", "loss_on"})
    #: Field with the list, names of a turn's speaker and text, and the speakers.
    name: ClassVar[str] = "messages"
    keys: ClassVar[tuple[str, str]] = ("role", "content")
    roles: ClassVar[Mapping[str, str]] = {
        "system": "system",
        "developer": "system",
        "user": "user",
        "assistant": "assistant",
    }

    def __init__(self, options: Options, option: str) -> None:
        self.answer = options.turns or self.name
        self.every = options.loss_on == "every"

    def read(self, row: Mapping[str, Any], where: str) -> Asked:
        """Take the list apart."""
        refuse_not_read(row, where)
        system, turns = system_of(row, where), turns_of(row, self.answer, where, self.keys, self.roles)
        if system and turns[0][0] == "system":
            raise DataError(f"{where} has two system messages, in 'system' and in {self.answer!r}; leave one out")
        self._check_weights(row[self.answer], where)
        return conversation([*system, *turns[:-1]], [turns[-1][1]])

    def _check_weights(self, turns: Sequence[Any], where: str) -> None:
        """Refuse a `weight` of 0, which takes a turn out of the loss, on a turn that has one here."""
        for number, turn in enumerate(turns, start=1):
            trained = number == len(turns) or self.every
            weight = turn.get("weight")
            if trained and self.roles[turn[self.keys[0]]] == "assistant" and weight not in (None, 1):
                raise DataError(
                    f"{where}, turn {number} of {self.answer!r} has weight {weight!r}, but would be trained on; "
                    f"{'give loss_on: last' if number < len(turns) else 'end with a turn of weight 1'}"
                )
