"""Finds where a text can be cut so that its parts have the tokens of the whole: at a template's control tokens.

A tokenizer takes these out of a text first and encodes what is between them piece by piece. What stands around the
prompts of a task is then encoded once rather than in every prompt. Imports no torch.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenizers import AddedToken
    from transformers import PreTrainedTokenizerBase

#: Steps of a tokenizer that treat each piece alike, wherever it stands; those that do so with some settings are below.
LOCAL = frozenset(
    {"ByteLevel", "Digits", "Metaspace", "Punctuation", "Split", "TemplateProcessing", "Whitespace", "WhitespaceSplit"}
)
#: Texts around prompts that are remembered: a task has few, but a template may write a prompt's blanks beside them.
KNOWN = 1024


class Borders:
    """The borders of a tokenizer's control tokens; none where a piece's tokens may depend on other pieces.

    Attributes:
        tokens: the control tokens at both ends of which a text can be cut.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        backend, added = tokenizer.backend_tokenizer, [*tokenizer.added_tokens_decoder.values()]
        local = all(_is_local(_described(step)) for step in (backend.pre_tokenizer, backend.post_processor))
        self.tokens = [token.content for token in added if local and _stands_alone(token, added)]
        # Longest first, as the tokenizer prefers them.
        found = "|".join(re.escape(token) for token in sorted(self.tokens, key=len, reverse=True))
        self._found = re.compile(found or "(?!)")
        self.cuts = lru_cache(KNOWN)(self._cuts)

    def _cuts(self, text: str) -> tuple[int, ...]:
        """Return the start of the first control token in a text and the end of the last, or nothing."""
        spans = [match.span() for match in self._found.finditer(text)]
        return (spans[0][0], spans[-1][1]) if spans else ()


def _described(step: Any) -> Mapping[str, Any] | None:
    """Return a step of a tokenizer as its file has it; {} if it is not from there."""
    if step is None:
        return None
    try:
        return json.loads(step.__getstate__())
    except Exception:  # the library has no class of its own for: cannot be written to a file
        return {}


def _is_local(step: Mapping[str, Any] | None) -> bool:
    """Return whether a step's result for a piece depends on this piece alone."""
    if step is None:
        return True
    if step.get("type") == "Sequence":
        return all(map(_is_local, [*step.get("pretokenizers", ()), *step.get("processors", ())]))
    first_differs = step.get("prepend_scheme") == "first" or (step.get("trim_offsets") and step.get("add_prefix_space"))
    return step.get("type") in LOCAL and not first_differs


def _stands_alone(token: AddedToken, added: list[AddedToken]) -> bool:
    """Return whether a token is always found where it stands, and takes nothing of what is beside it."""
    text = token.content
    if not token.special or token.normalized or token.lstrip or token.rstrip or token.single_word:
        return False
    return text == text.strip() != "" and not any(_reaches_in(other.content, text) for other in added)


def _reaches_in(other: str, text: str) -> bool:
    """Return whether another token could take a part of this one."""
    if other == text:
        return False
    return text in other or any(other.endswith(text[:k]) or other.startswith(text[-k:]) for k in range(1, len(text)))
