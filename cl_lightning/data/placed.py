"""Places the texts of examples in prompts: as they are, or in a chat template. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cl_lightning.common.errors import ConfigError
from cl_lightning.data.base import Example, Turn
from cl_lightning.data.chat import PROBE, ChatPrompt, Message, between, render
from cl_lightning.data.rendering import render_all

#: A turn of the assistant, which the model itself would write.
ANSWERS = "assistant"


@dataclass(frozen=True)
class Placed:
    """A prompt as text.

    Attributes:
        spans: start and end of each turn's text in it; one for a prompt that is a single message.
        roles: who speaks in each of them.
    """

    text: str
    spans: tuple[tuple[int, int], ...]
    roles: tuple[str, ...] = ("user",)

    @property
    def first(self) -> int:
        """Index of the first turn that is not the system's."""
        return int(self.roles[0] == "system")


class Placing:
    """Places examples in the prompts that a chat template writes; None: in prompts as they are."""

    def __init__(self, chat: ChatPrompt | None) -> None:
        self.chat = chat
        self._frames: dict[tuple[str, ...], list[str]] = {}

    def all(self, examples: Sequence[Example]) -> list[Placed]:
        """Place examples.

        Raises:
            ConfigError: the template fails, or changes or leaves out a text; the message names the example.
        """
        if self.chat is None:
            return [Placed(e.prompt, ((0, len(e.prompt)),)) for e in examples]
        messages = [self._messages(e) for e in examples]
        try:
            texts = render_all(self.chat.tokenizer, messages)
        except ConfigError:
            texts = [self._alone(e, m) for e, m in zip(examples, messages, strict=True)]
        return [self._placed(e, m, t) for e, m, t in zip(examples, messages, texts, strict=True)]

    def _messages(self, example: Example) -> list[Message]:
        turns = example.turns or (("user", example.prompt),)
        system = [] if turns[0][0] == "system" else self.chat.system
        return [*system, *({"role": role, "content": text} for role, text in turns)]

    def _alone(self, example: Example, messages: list[Message]) -> str:
        try:
            return render(self.chat.tokenizer, messages, add_generation_prompt=True)
        except ConfigError as error:
            raise ConfigError(f"{example.id}: {error}") from None

    def _placed(self, example: Example, messages: list[Message], text: str) -> Placed:
        try:
            if not example.turns:
                blank = not example.prompt.strip()
                start = len(self.chat.before)
                return Placed(text, ((start, start) if blank else between(text, self.chat.before, self.chat.after),))
            spans = self._spans(messages, text)
            given = len(spans) - len(example.turns)  # less a system message that is not the example's own
            return Placed(text, tuple(spans[given:]), tuple(role for role, _ in example.turns))
        except ConfigError as error:
            raise ConfigError(f"{example.id}: {error}") from None

    def _spans(self, messages: Sequence[Message], text: str) -> list[tuple[int, int]]:
        """Find the texts of messages in what the template writes of them, between what it writes around others."""
        first, *rest = self._around(tuple(message["role"] for message in messages))
        spans, end = [], len(first) if text.startswith(first) else -1
        for message, after in zip(messages, rest, strict=True):
            start = end
            content = message["content"]
            found = next((c for c in (content, content.strip()) if text.startswith(f"{c}{after}", max(start, 0))), None)
            if start < 0 or found is None:
                raise ConfigError(
                    f"model.backbone.name: the model's chat template changes or leaves out the text of the "
                    f"{message['role']} in turn {len(spans) + 1}, so the turns cannot be told apart; use another model"
                )
            spans.append((start, start + len(found)))
            end = start + len(found) + len(after)
        return spans

    def _around(self, roles: tuple[str, ...]) -> list[str]:
        """Return what the template writes before, between and behind the texts of turns with these roles."""
        if roles not in self._frames:
            probes = [f"{PROBE}{number:06}" for number in range(len(roles))]
            messages = [{"role": role, "content": probe} for role, probe in zip(roles, probes, strict=True)]
            left = render(self.chat.tokenizer, messages, add_generation_prompt=True)
            frames = []
            for role, probe in zip(roles, probes, strict=True):
                before, found, left = left.partition(probe)
                if not found:
                    raise ConfigError(
                        f"model.backbone.name: the model's chat template leaves out a turn of the {role}; use another "
                        "model, or loss and prompts would miss it"
                    )
                frames.append(before)
            self._frames[roles] = [*frames, left]
        return self._frames[roles]


def without_oldest(turns: tuple[Turn, ...]) -> tuple[Turn, ...]:
    """Leave out the first message of the user with its answer; the system message and the last message stay."""
    system = tuple(turn for turn in turns[:1] if turn[0] == "system")
    rest = turns[len(system) :]
    return (*system, *rest[2:]) if len(rest) > 2 else turns
