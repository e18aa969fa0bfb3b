"""Tokens that end an answer: the one appended in training, and all those at which generation stops.

A chat template may end a turn with a token other than the tokenizer's end token: <|eot_id|> instead of <|end_of_text|>
(Llama 3), <end_of_turn> instead of <eos> (Gemma), <|im_end|> instead of <|endoftext|> (Qwen base models). Imports no
torch.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import TYPE_CHECKING

from cl_lightning.data.chat import PROBE, SYSTEM_PROBE, tried

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def trained_end(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the token that ends an answer in training: the chat template's own, else the tokenizer's end token."""
    own = _turn_end(tokenizer)
    return tokenizer.eos_token_id if own is None else own


def end_tokens(llm: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return all tokens that end a generated answer, ascending: the trained one, the tokenizer's, and those in the
    model's generation settings."""
    named = llm.generation_config.eos_token_id
    listed = named if isinstance(named, list) else [named]
    found = {trained_end(tokenizer), tokenizer.eos_token_id, *listed}
    return sorted(token for token in found if token is not None)


def before_end(row: Sequence[int], ends: Container[int]) -> list[int]:
    """Cut a generated row before its first end token. Decoding would not do: end tokens need not be special tokens."""
    return list(row[: next((i for i, token in enumerate(row) if token in ends), len(row))])


def _turn_end(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Return the added token that the chat template writes after an assistant's answer, ignoring whitespace.

    None without a template, or if the template writes no such token or no answer.
    """
    if not tokenizer.chat_template:
        return None
    turns = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": PROBE}]
    # Some templates require a system message, and some of those a non-empty one.
    begun = [[{"role": "system", "content": text}, *turns] for text in ("", SYSTEM_PROBE)]
    texts = (tried(tokenizer, messages)[0] for messages in (turns, *begun))
    # A template that omits or refuses the answer ends no turn.
    text = next((text for text in texts if text is not None), "")
    after = text.rpartition(PROBE)[2].lstrip() if PROBE in text else ""
    # Longest first, since one token may be a prefix of another.
    added = sorted(tokenizer.added_tokens_decoder.items(), key=lambda item: -len(item[1].content))
    return next((index for index, token in added if token.content and after.startswith(token.content)), None)
