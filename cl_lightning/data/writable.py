"""Decode tokens, and find the characters that a tokenizer cannot write: Chinese, braces, line ends in T5's. No torch.

They are read as an unknown token or left out, and no answer can contain them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

#: Texts of a task that are looked at.
SAMPLE = 50
#: Least share of characters that is reported.
LEAST = 0.001


@dataclass(frozen=True)
class Lost:
    """What a tokenizer cannot write of some texts.

    Attributes:
        share: of the characters other than blanks, 0..1.
        commonest: the characters that are lost most often, at most three.
        unknown: share of the texts' tokens that are the unknown token, 0..1.
    """

    share: float
    commonest: tuple[str, ...]
    unknown: float = 0.0

    def __str__(self) -> str:
        shown = ", ".join(repr(character) for character in self.commonest)
        return (
            f"{100 * self.share:.1f} % of the characters ({shown}, ..) cannot be written by the model's tokenizer; "
            f"{100 * self.unknown:.1f} % of the tokens are unknown"
        )


def decoded(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """Decode tokens without the special ones. Blanks stay: some tokenizers would turn "a , b" into "a, b"."""
    return tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def lost_characters(tokenizer: PreTrainedTokenizerBase, texts: Iterable[str]) -> Lost | None:
    """Compare texts with what encoding and decoding makes of them; None where (nearly) all characters come back."""
    given, lost = Counter[str](), Counter[str]()
    tokens = unknown = 0
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids
        back = decoded(tokenizer, ids)
        tokens, unknown = tokens + len(ids), unknown + ids.count(tokenizer.unk_token_id)
        given += (here := _counted(text))
        lost += here - _counted(back)
    share = lost.total() / max(1, given.total())
    if share < LEAST:
        return None
    return Lost(share, tuple(character for character, _ in lost.most_common(3)), unknown / max(1, tokens))


def _counted(text: str) -> Counter[str]:
    return Counter(character for character in text if character == "\n" or not character.isspace())
