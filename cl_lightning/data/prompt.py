"""Encodes examples as token ids: chat template, truncation in the middle, answer plus end token.

A task's texts hold no control tokens: what is spelled like one is encoded as the text it is, in prompts and answers.
Prompt and answer are tokenised separately and then joined, so the label mask is exact by construction; so are the
assistant's earlier turns of a conversation. A prompt over the budget loses the middle of its content, but keeps the
template around it, the instruction at its start and the answer cue at its end (`Example.instruction`, `Example.cue`);
a conversation loses its oldest turns first. Answers are never truncated.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, islice
from threading import Lock
from typing import TYPE_CHECKING, Any

from cl_lightning.common.ahead import ahead
from cl_lightning.common.errors import ConfigError
from cl_lightning.data.base import Example, TaskSpec
from cl_lightning.data.borders import Borders
from cl_lightning.data.chat import DAY, ChatPrompt
from cl_lightning.data.end_tokens import trained_end
from cl_lightning.data.placed import ANSWERS, Placed, Placing, without_oldest
from cl_lightning.data.prompt_parts import LEAST_CONTEXT

if TYPE_CHECKING:
    from tokenizers import Encoding
    from transformers import PreTrainedTokenizerBase

#: Examples that are encoded together.
CHUNK = 512
NO_TEMPLATE = "system_prompt: the model has no chat template to give it to; write it into the prompts"


@dataclass(frozen=True)
class Encoded:
    """An example as token ids.

    Attributes:
        answer_ids: ends with the end token, see `data.end_tokens.trained_end`.
        cut: number of tokens removed from the prompt.
        own: start and end of the prompt tokens that hold the task's own text rather than the template's; None: all.
        targets: spans of the prompt tokens that carry a loss too: the assistant's earlier turns.
    """

    example: Example
    prompt_ids: tuple[int, ...]
    answer_ids: tuple[int, ...]
    cut: int
    own: tuple[int, int] | None = None
    targets: tuple[tuple[int, int], ...] = ()

    @property
    def labelled(self) -> int:
        """Number of tokens that carry a loss."""
        return len(self.answer_ids) + sum(end - start for start, end in self.targets)

    @property
    def length(self) -> int:
        return len(self.prompt_ids) + len(self.answer_ids)


class PromptEncoder:
    """Renders and tokenises examples for one tokenizer.

    Args:
        tokenizer: a fast tokenizer. Its chat template, if it has one, is used and fixed in place (`data.chat.fix`).
        max_prompt_tokens: budget of the whole rendered prompt; a task may have its own.
        system_prompt, day, variables: see `data.chat.ChatPrompt`; a task may have its own system prompt.

    Raises:
        ConfigError: the chat template fails, or does not accept these arguments; or there is none to take them.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        max_prompt_tokens: int,
        system_prompt: str | None,
        day: str = DAY,
        variables: Mapping[str, Any] | None = None,
    ) -> None:
        self.tokenizer, self.max_prompt_tokens = tokenizer, max_prompt_tokens
        self._arguments = day, variables or {}
        self.chat = ChatPrompt(tokenizer, system_prompt, *self._arguments) if tokenizer.chat_template else None
        if self.chat is None and (system_prompt or "").strip():
            raise ConfigError(f"data.{NO_TEMPLATE}")
        if variables and self.chat is None:
            raise ConfigError("data.template_args: the model has no chat template to give them to; leave them out")
        self.end = trained_end(tokenizer)
        self._control = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
        self._borders = Borders(tokenizer)
        #: Held while the tokenizer has the settings of one call.
        self._settings = Lock()
        self._chats: dict[str, ChatPrompt | None] = {}
        self._placings: dict[ChatPrompt | None, Placing] = {}

    def encode(self, example: Example, spec: TaskSpec) -> Encoded:
        """Encode one example; see `encode_all`."""
        return next(self.encode_all([example], spec))

    def encode_all(self, examples: Iterable[Example], spec: TaskSpec) -> Iterator[Encoded]:
        """Encode examples of a task, some at a time, which is faster than one by one.

        Raises:
            ConfigError: the budget is too small for template, instruction, cue and a few tokens between, the tokenizer
                drops all of a content, or the chat template fails; the message names the example.
        """
        placing, budget = self._placing(spec), spec.max_prompt_tokens or self.max_prompt_tokens
        left = iter(examples)
        chunks = ((chunk, placing.all(chunk)) for chunk in iter(lambda: list(islice(left, CHUNK)), []))
        # Placing is Python's work, encoding is not: they run side by side.
        for (chunk, all_placed), (prompts, answers) in ahead(lambda item: self._chunk(placing, *item), chunks):
            for example, placed, tokens in zip(chunk, all_placed, prompts, strict=True):
                made = self._fitted(placing, example, placed, tokens, budget, spec.keep_head)
                yield Encoded(example, made[0], answers[example.answer], *made[1:])

    def answer(self, text: str) -> tuple[int, ...]:
        """Encode an answer, with the end token last."""
        return self._answers([text])[text]

    def _answers(self, texts: Iterable[str]) -> dict[str, tuple[int, ...]]:
        given = list(texts)
        # Without a template, nothing else separates cue and answer.
        encodings = self._tokens([text if self.chat else f" {text}" for text in given], plain=True)
        return {text: (*e.ids, self.end) for text, e in zip(given, encodings, strict=True)}

    def prompt(self, example: Example, keep_head: float) -> tuple[list[int], int, tuple[int, int]]:
        """Encode a prompt: its token ids, the number of tokens cut, and the span of the content. Raises ConfigError."""
        placing = self._placing(None)
        placed, tokens = self._alone(placing, example)
        ids, cut, own, _ = self._fitted(placing, example, placed, tokens, self.max_prompt_tokens, keep_head)
        return list(ids), cut, own

    def _placing(self, spec: TaskSpec | None) -> Placing:
        """Return where the examples of a task are placed, under its own system prompt if it has one."""
        own = spec.system_prompt if spec is not None else None
        chat = self.chat if own is None else self._with_system(own, spec.name)
        return self._placings.setdefault(chat, Placing(chat))

    def _with_system(self, prompt: str, task: str) -> ChatPrompt | None:
        if prompt not in self._chats:
            if self.chat is None and prompt.strip():
                raise ConfigError(f"{task}: {NO_TEMPLATE}")
            try:
                made = None if self.chat is None else ChatPrompt(self.tokenizer, prompt, *self._arguments)
            except ConfigError as error:
                raise ConfigError(f"{task}: {error}") from None
            self._chats[prompt] = made
        return self._chats[prompt]

    def _chunk(
        self, placing: Placing, examples: Sequence[Example], all_placed: Sequence[Placed]
    ) -> tuple[list[Tokens], dict[str, tuple[int, ...]]]:
        """Encode the prompts and the different answers of some examples."""
        return self._prompts(placing, all_placed), self._answers(dict.fromkeys(e.answer for e in examples))

    def _alone(self, placing: Placing, example: Example) -> tuple[Placed, Tokens]:
        (placed,) = placing.all([example])
        (tokens,) = self._prompts(placing, [placed])
        return placed, tokens

    def _prompts(self, placing: Placing, all_placed: Sequence[Placed]) -> list[Tokens]:
        """Encode prompts.

        Control tokens are those of the template alone; spelled out in a text they are plain text. The assistant's turns
        are encoded apart, as the model writes them.
        """
        if placing.chat is None:
            encodings = self._tokens([placed.text for placed in all_placed], plain=True, special=True)
            return [Tokens(e.ids, e.offsets) for e in encodings]
        parts = [self._parts(placed) for placed in all_placed]
        found = {}
        for plain in (False, True):  # what stands around prompts is the same in most, and encoded once
            texts = [*dict.fromkeys(text for each in parts for text, _, _, p in each if p is plain)]
            encodings = self._tokens(texts, plain)
            found[plain] = {text: (e.ids, e.offsets) for text, e in zip(texts, encodings, strict=True)}
        prompts = []
        for each in parts:
            tokens = Tokens([], [])
            for text, start, turn, plain in each:
                tokens.add(*found[plain][text], start, turn)
            prompts.append(tokens)
        return prompts

    def _parts(self, placed: Placed) -> list[tuple[str, int, int | None, bool]]:
        """Split a prompt into parts to encode: text, start, number of the assistant's turn it is, whether plain."""
        parts: list[tuple[str, int, int | None, bool]] = []
        done = behind = 0

        def cut_up_to(start: int) -> None:
            """Cut what the template writes from `behind` to `start` where that changes no token."""
            nonlocal done
            for cut in self._borders.cuts(placed.text[behind:start]):
                parts.append((placed.text[done : behind + cut], done, None, False))
                done = behind + cut

        for turn, ((start, end), role) in enumerate(zip(placed.spans, placed.roles, strict=True)):
            text = placed.text[start:end]
            cut_up_to(start)
            behind = end
            if role == ANSWERS or any(token in text for token in self._control):
                spoken = turn if role == ANSWERS else None
                parts += [(placed.text[done:start], done, None, False), (text, start, spoken, True)]
                done = end
        cut_up_to(len(placed.text))
        parts.append((placed.text[done:], done, None, False))
        return [part for part in parts if part[0]]

    def _tokens(self, texts: Sequence[str], plain: bool, special: bool = False) -> list[Encoding]:
        """Encode texts; `plain`: what is spelled like a control token is text."""
        # Not by a call of the tokenizer, which takes as long again to turn these into lists.
        backend = self.tokenizer.backend_tokenizer
        with self._settings:
            backend.no_truncation()
            backend.no_padding()
            backend.encode_special_tokens = plain
            return backend.encode_batch(list(texts), add_special_tokens=special)

    def _fitted(
        self, placing: Placing, example: Example, placed: Placed, tokens: Tokens, budget: int, keep_head: float
    ) -> tuple[tuple[int, ...], int, tuple[int, int], tuple[tuple[int, int], ...]]:
        """Cut a prompt to the budget: its token ids, the number cut, the span of its own text, the spans with a loss.

        A conversation loses its oldest messages, then its last message the middle, as other prompts do.
        """
        whole, every, plain = len(tokens.ids), example.every_turn and bool(example.turns), placing.chat is None
        if every and plain:
            raise ConfigError(f"{example.id}: loss_on=every needs a chat template, and the model has none; use last")
        while not plain and len(tokens.ids) > budget and (turns := without_oldest(example.turns)) != example.turns:
            example = replace(example, turns=turns)
            placed, tokens = self._alone(placing, example)
        targets = self._targets(placed, tokens) if every else ()
        # What decides about a token with a loss (gates read their own span) must not come after it.
        own = placed.spans[placed.first][0], placed.spans[placed.first if targets else -1][1]
        ids, inside = self._cut(example, placed, tokens, own, budget, keep_head, plain)
        return tuple(ids), whole - len(ids), inside, targets

    def _targets(self, placed: Placed, tokens: Tokens) -> tuple[tuple[int, int], ...]:
        """Return the spans of the assistant's turns in a prompt, each with the end token if the template ends it so."""
        spans = []
        for first, last in tokens.turns.values():
            end = last
            while end < len(tokens.ids) - 1 and tokens.text(placed.text, end).isspace():
                end += 1
            spans.append((first, end + 1 if tokens.ids[end] == self.end else last))
        return tuple(spans)

    def _cut(
        self,
        example: Example,
        placed: Placed,
        tokens: Tokens,
        own: tuple[int, int],
        budget: int,
        keep_head: float,
        plain: bool,
    ) -> tuple[list[int], tuple[int, int]]:
        """Cut the middle of the last message to the budget: token ids, and the span of the tokens of `own` in them.

        Raises:
            ConfigError: see `encode_all`.
        """
        ids, offsets, (start, end) = tokens.ids, tokens.offsets, own
        excess = max(0, len(ids) - budget)
        inside = _inside(offsets, start, end)
        if not inside and example.prompt.strip():
            raise ConfigError(
                f"{example.id}: model.backbone.name: the model's tokenizer makes no token of this text; use "
                "another model"
            )
        if not excess:
            return ids, (inside.start, inside.stop) if inside else (0, len(ids))
        low, high = own if example.turns and not plain else self._between(example, own, budget, plain)
        whole, low, high = _whole(offsets), max(low, start), min(high, end)
        # Tokens that cross a border are kept.
        within = [i for i in inside if whole[i][0] >= low and whole[i][1] <= high]
        context = range(within[0], within[-1] + 1) if within else range(0)
        keep = len(context) - excess
        if keep < LEAST_CONTEXT:
            held = len(ids) - len(context)
            raise ConfigError(
                f"data.max_prompt_tokens: {budget} leaves no room for the prompt of {example.id}: "
                f"template, instruction and cue alone take {held} tokens; give {held + LEAST_CONTEXT} or more"
            )
        head = round(keep * keep_head)
        first, last = context[head], context[head + excess - 1]
        return ids[:first] + ids[last + 1 :], (inside.start, inside.stop - excess)

    @staticmethod
    def _between(example: Example, own: tuple[int, int], budget: int, plain: bool) -> tuple[int, int]:
        """Find where, in the rendered prompt, the content's instruction ends and its cue begins.

        A template may strip the content or replace characters one for one, but not change its length otherwise.
        """
        start, end = own
        content = example.prompt if plain else example.prompt.strip()
        if end - start != len(content):
            raise ConfigError(
                f"data.max_prompt_tokens: {budget} cuts the prompt of {example.id}, but the model's "
                "chat template changes its text, so that instruction and cue cannot be located; raise it"
            )
        origin = start - (example.prompt.find(content) if content else 0)
        return origin + example.instruction, origin + len(example.prompt) - example.cue


@dataclass
class Tokens:
    """A prompt's tokens.

    Attributes:
        offsets: start and end of each token in the text.
        turns: first token and the one after the last of each turn of the assistant, by its number.
    """

    ids: list[int]
    offsets: list[tuple[int, int]]
    turns: dict[int, tuple[int, int]] = field(default_factory=dict)

    def add(self, ids: list[int], offsets: list[tuple[int, int]], start: int, turn: int | None) -> None:
        """Add those of a part that starts at `start`."""
        begun = len(self.ids)
        self.ids += ids
        self.offsets += [(start + a, start + b) for a, b in offsets] if start else offsets
        if turn is not None:
            self.turns[turn] = begun, len(self.ids)

    def text(self, whole: str, index: int) -> str:
        """Return the text of a token."""
        start, end = self.offsets[index]
        return whole[start:end]


def _inside(offsets: Sequence[tuple[int, int]], start: int, end: int) -> range:
    """Return the range of tokens from the first to the last with a part of the text from `start` to `end`."""

    if start >= end:
        return range(0)
    low = 0
    for a, b in offsets:  # a few tokens of the template; no expression here, since this runs for every prompt
        if a < end and b > start and a < b:
            break
        low += 1
    else:
        return range(0)
    high = len(offsets)
    for a, b in reversed(offsets):
        if a < end and b > start and a < b:
            break
        high -= 1
    return range(low, high)


def _whole(offsets: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Extend each token's offsets to the whitespace before it, which some tokenizers leave out."""
    reached = accumulate((b for _, b in offsets), max, initial=0)
    return [(min(a, before), b) for (a, b), before in zip(offsets, reached, strict=False)]
