"""Layout `messages`: a list of turns with role and content, as chat models take them. Imports no torch."""

from collections.abc import Mapping
from typing import Any, ClassVar

from cl_lightning.data.layouts.base import Asked, Layout, Options
from cl_lightning.data.layouts.conversation import conversation, turns_of


class Messages(Layout):
    """A conversation. Its last turn is the answer, those before it are the prompt."""

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

    def read(self, row: Mapping[str, Any], where: str) -> Asked:
        """Take the list apart."""
        *before, last = turns_of(row, self.answer, where, self.keys, self.roles)
        return conversation(before, [last[1]])
