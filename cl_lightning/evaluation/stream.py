"""An answer's text as it comes, piece by piece."""

import re
from collections.abc import Callable, Container

from torch import Tensor
from transformers import PreTrainedTokenizerBase
from transformers.generation import BaseStreamer

#: What a word ends before or with: white space, and the scripts that put none between words. Text up to there stands,
#: while a word may grow, a character wait for its last byte, and a tokenizer move blanks.
STANDS = re.compile(r".*[\s\u2e80-\uffef\U00020000-\U0003ffff]", re.DOTALL)


class Pieces(BaseStreamer):
    """Hands on an answer's text as soon as whole words of it stand; joined, the pieces are what `generate` returns.

    transformers' TextStreamer decodes each line by itself, which loses blanks of some tokenizers.

    Args:
        give: is called with each piece, none of them empty.
        ends: tokens that end an answer; what follows the first of them is left out.
        blank: what the answer begins with and is left out, see `evaluation.generate.answer_blank`.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, give: Callable[[str], None], ends: Container[int], blank: str
    ) -> None:
        self.tokenizer, self.give, self.ends, self.blank = tokenizer, give, ends, blank
        self.ids: list[int] | None = None
        self.given, self.ended = 0, False

    def put(self, value: Tensor) -> None:
        """Take the prompt first, then one token each time."""
        if self.ids is None:
            self.ids = []
            return
        self.ended = self.ended or int(value) in self.ends
        if not self.ended:
            self.ids.append(int(value))
            stands = STANDS.match(self._text())
            self._give(stands[0] if stands else "")

    def end(self) -> None:
        """Hand on the rest."""
        self._give(self._text())

    def _text(self) -> str:
        return self.tokenizer.decode(self.ids, skip_special_tokens=True).removeprefix(self.blank)

    def _give(self, text: str) -> None:
        if piece := text[self.given :]:
            self.given = len(text)
            self.give(piece)
