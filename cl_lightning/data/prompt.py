"""Encodes examples as token ids: chat template, truncation in the middle, answer plus end token.

A task's texts hold no control tokens: what is spelled like one is encoded as the text it is, in prompts and answers.
Prompt and answer are tokenised separately and then joined, so the label mask is exact by construction. A prompt over
the budget loses the middle of its content, but keeps the template around it, the instruction at its start and the
answer cue at its end (`Example.instruction`, `Example.cue`). Answers are never truncated.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from transformers import PreTrainedTokenizerBase

from cl_lightning.common.errors import ConfigError
from cl_lightning.data.base import Example, TaskSpec
from cl_lightning.data.chat import DAY, ChatPrompt
from cl_lightning.data.end_tokens import trained_end
from cl_lightning.data.prompt_parts import LEAST_CONTEXT


@dataclass(frozen=True)
class Encoded:
    """An example as token ids.

    Attributes:
        answer_ids: ends with the end token, see `data.end_tokens.trained_end`.
        cut: number of tokens removed from the middle.
        own: start and end of the prompt tokens that hold the task's own text rather than the template's; None: all.
    """

    example: Example
    prompt_ids: tuple[int, ...]
    answer_ids: tuple[int, ...]
    cut: int
    own: tuple[int, int] | None = None

    @property
    def length(self) -> int:
        return len(self.prompt_ids) + len(self.answer_ids)


class PromptEncoder:
    """Renders and tokenises examples for one tokenizer.

    Args:
        tokenizer: a fast tokenizer. Its chat template, if it has one, is used and fixed in place (`data.chat.fix`).
        max_prompt_tokens: budget of the whole rendered prompt.
        system_prompt, day, variables: see `data.chat.ChatPrompt`.

    Raises:
        ConfigError: the chat template fails, or does not accept these arguments.
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
        self.chat = ChatPrompt(tokenizer, system_prompt, day, variables or {}) if tokenizer.chat_template else None
        if variables and self.chat is None:
            raise ConfigError("data.template_args: the model has no chat template to give them to; leave them out")
        self.end = trained_end(tokenizer)
        self._control = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]

    def encode(self, example: Example, spec: TaskSpec) -> Encoded:
        prompt_ids, cut, own = self.prompt(example, spec.keep_head)
        return Encoded(example, tuple(prompt_ids), self.answer(example.answer), cut, own)

    def answer(self, text: str) -> tuple[int, ...]:
        """Encode an answer, with the end token last."""
        # Without a template, nothing else separates cue and answer.
        answer_ids = self._tokens(text if self.chat else f" {text}", True, add_special_tokens=False)[0]
        return *answer_ids, self.end

    def prompt(self, example: Example, keep_head: float) -> tuple[list[int], int, tuple[int, int]]:
        """Encode a prompt: its token ids, the number of tokens cut from its middle, and the span of the content.

        Raises:
            ConfigError: the budget is too small for template, instruction, cue and a few tokens between, or the
                tokenizer drops all of the content.
        """
        text, start, end = self._placed(example)
        ids, offsets = self._rendered(text, start, end)
        excess = max(0, len(ids) - self.max_prompt_tokens)
        inside = [i for i, (a, b) in enumerate(offsets) if max(a, start) < min(b, end)]
        if not inside and example.prompt.strip():
            raise ConfigError(
                f"{example.id}: model.backbone.name: the model's tokenizer leaves this text out; use another model"
            )
        own = (inside[0], inside[-1] + 1 - excess) if inside else (0, len(ids))
        if not excess:
            return ids, 0, own
        low, high = self._between(example, start, end)
        whole, low, high = _whole(offsets), max(low, start), min(high, end)
        # Tokens that cross a border are kept.
        within = [i for i in inside if whole[i][0] >= low and whole[i][1] <= high]
        context = range(within[0], within[-1] + 1) if within else range(0)
        keep = len(context) - excess
        if keep < LEAST_CONTEXT:
            held = len(ids) - len(context)
            raise ConfigError(
                f"data.max_prompt_tokens: {self.max_prompt_tokens} leaves no room for the prompt of {example.id}: "
                f"template, instruction and cue alone take {held} tokens; give {held + LEAST_CONTEXT} or more"
            )
        head = round(keep * keep_head)
        first, last = context[head], context[head + excess - 1]
        return ids[:first] + ids[last + 1 :], excess, own

    def _rendered(self, text: str, start: int, end: int) -> tuple[list[int], list[tuple[int, int]]]:
        """Encode a rendered prompt with its content at `start` to `end`: token ids, and each token's span in the text.

        Control tokens are those of the template alone; spelled out in the content they are plain text.
        """
        if self.chat is None:
            return self._tokens(text, True, add_special_tokens=True)
        if not any(token in text[start:end] for token in self._control):
            return self._tokens(text, False, add_special_tokens=False)
        ids: list[int] = []
        offsets: list[tuple[int, int]] = []
        for first, last, plain in ((0, start, False), (start, end, True), (end, len(text), False)):
            part, spans = self._tokens(text[first:last], plain, add_special_tokens=False)
            ids += part
            offsets += [(first + a, first + b) for a, b in spans]
        return ids, offsets

    def _tokens(self, text: str, plain: bool, add_special_tokens: bool) -> tuple[list[int], list[tuple[int, int]]]:
        """Encode a text; `plain`: what is spelled like a control token is text."""
        encoding = self.tokenizer(
            text, add_special_tokens=add_special_tokens, split_special_tokens=plain, return_offsets_mapping=True
        )
        return encoding.input_ids, encoding.offset_mapping

    def _placed(self, example: Example) -> tuple[str, int, int]:
        """Render the prompt and find the span of the content in it, without surrounding whitespace."""
        if self.chat is None:
            return example.prompt, 0, len(example.prompt)
        try:
            return self.chat.placed(example.prompt)
        except ConfigError as error:
            raise ConfigError(f"{example.id}: {error}") from None

    def _between(self, example: Example, start: int, end: int) -> tuple[int, int]:
        """Find where, in the rendered prompt, the content's instruction ends and its cue begins.

        A template may strip the content or replace characters one for one, but not change its length otherwise.
        """
        content = example.prompt if self.chat is None else example.prompt.strip()
        if end - start != len(content):
            raise ConfigError(
                f"data.max_prompt_tokens: {self.max_prompt_tokens} cuts the prompt of {example.id}, but the model's "
                "chat template changes its text, so that instruction and cue cannot be located; raise it"
            )
        origin = start - (example.prompt.find(content) if content else 0)
        return origin + example.instruction, origin + len(example.prompt) - example.cue


def _whole(offsets: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Extend each token's offsets to the whitespace before it, which some tokenizers leave out."""
    reached = accumulate((b for _, b in offsets), max, initial=0)
    return [(min(a, before), b) for (a, b), before in zip(offsets, reached, strict=False)]
