"""Which tokens end an answer: the one that training appends, and all that generation stops at.

A chat template may end a turn with another token than the tokenizer's end token: <|eot_id|> and not <|end_of_text|>
(Llama 3), <end_of_turn> and not <eos> (Gemma), <|im_end|> and not <|endoftext|> (Qwen's base models). No torch here.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import TYPE_CHECKING

from cl_lightning.data.chat import PROBE, SYSTEM_PROBE, tried

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def trained_end(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token that ends an answer in training: the chat template's own, else the tokenizer's end token."""
    own = _turn_end(tokenizer)
    return tokenizer.eos_token_id if own is None else own


def end_tokens(llm: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """All tokens that end a generated answer, ascending: the trained one, the tokenizer's, and those of the model's
    generation settings."""
    named = llm.generation_config.eos_token_id
    listed = named if isinstance(named, list) else [named]
    found = {trained_end(tokenizer), tokenizer.eos_token_id, *listed}
    return sorted(token for token in found if token is not None)


def before_end(row: Sequence[int], ends: Container[int]) -> list[int]:
    """A generated row up to its first end token, padding after it left out. End tokens need not be special ones, which
    decoding could skip."""
    return list(row[: next((i for i, token in enumerate(row) if token in ends), len(row))])


def _turn_end(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The added token that the chat template writes right after an assistant's answer, blanks apart; None: no template,
    or one that writes no such token or no answer."""
    if not tokenizer.chat_template:
        return None
    turns = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": PROBE}]
    # Some begin with a system message only, and some of these with one that says something.
    begun = [[{"role": "system", "content": text}, *turns] for text in ("", SYSTEM_PROBE)]
    texts = (tried(tokenizer, messages)[0] for messages in (turns, *begun))
    # A template that leaves the answer out, or takes none, ends no turn.
    text = next((text for text in texts if text is not None), "")
    after = text.rpartition(PROBE)[2].lstrip() if PROBE in text else ""
    # The longest first: one may begin with another.
    added = sorted(tokenizer.added_tokens_decoder.items(), key=lambda item: -len(item[1].content))
    return next((index for index, token in added if token.content and after.startswith(token.content)), None)
