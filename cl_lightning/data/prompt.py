"""From an example to token ids: chat template, middle cut, answer plus end token.

Prompt and answer are tokenised apart and then joined, so the label mask is exact by construction. A prompt
over the budget loses the middle of its content: the template around it, the instruction at its beginning
and the answer cue at its end (`Example.instruction`, `Example.cue`) stay. Answers are never cut.
"""

from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from cl_lightning.data.base import Example, TaskSpec
from cl_lightning.data.edges import LEAST_CONTEXT
from cl_lightning.data.end_tokens import trained_end
from cl_lightning.errors import ConfigError


@dataclass(frozen=True)
class Encoded:
    """An example as token ids.

    Attributes:
        answer_ids: ends with the end token, see `data.end_tokens.trained_end`.
        cut: tokens taken from the middle.
        own: first and last + 1 of the prompt's tokens that are the task's own, not the template's; None: all.
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
        tokenizer: a fast tokenizer; its chat template is used where it has one.
        max_prompt_tokens: budget of the whole rendered prompt.
        system_prompt: system message; None leaves it to the template's own default.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_prompt_tokens: int, system_prompt: str | None) -> None:
        self.tokenizer, self.max_prompt_tokens, self.system_prompt = tokenizer, max_prompt_tokens, system_prompt
        self.chat = bool(tokenizer.chat_template)
        self.end = trained_end(tokenizer)

    def encode(self, example: Example, spec: TaskSpec) -> Encoded:
        prompt_ids, cut, own = self.prompt(example, spec.keep_head)
        return Encoded(example, tuple(prompt_ids), self.answer(example.answer), cut, own)

    def answer(self, text: str) -> tuple[int, ...]:
        """Token ids of an answer, the end token last."""
        # Without a template nothing else separates cue and answer.
        answer_ids = self.tokenizer(text if self.chat else f" {text}", add_special_tokens=False).input_ids
        return *answer_ids, self.end

    def prompt(self, example: Example, keep_head: float) -> tuple[list[int], int, tuple[int, int]]:
        """Token ids of the rendered prompt, how many were cut from its middle, and which are the content's.

        Raises:
            ConfigError: the budget does not even hold template, instruction, cue and a few tokens between.
        """
        text, origin, start, end = self._render(example.prompt)
        encoding = self.tokenizer(text, add_special_tokens=not self.chat, return_offsets_mapping=True)
        ids, offsets = encoding.input_ids, encoding.offset_mapping
        excess = max(0, len(ids) - self.max_prompt_tokens)
        inside = [i for i, (a, b) in enumerate(offsets) if a >= start and b <= end and b > a]
        own = (inside[0], inside[-1] + 1 - excess) if inside else (0, len(ids))
        if not excess:
            return ids, 0, own
        low, high = origin + example.instruction, origin + len(example.prompt) - example.cue
        context = [i for i in inside if offsets[i][0] >= low and offsets[i][1] <= high]
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

    def _render(self, content: str) -> tuple[str, int, int, int]:
        """The rendered prompt, and in it, in characters: `content`'s origin, and its span without blanks around it."""
        if not self.chat:
            return content, 0, 0, len(content)
        messages = [{"role": "user", "content": content}]
        if self.system_prompt is not None:
            messages.insert(0, {"role": "system", "content": self.system_prompt})
        text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        # Some templates strip the content; the last occurrence is ours, a system prompt comes before.
        stripped = content.strip()
        start = text.rfind(stripped)
        return text, start - content.find(stripped), start, start + len(stripped)
