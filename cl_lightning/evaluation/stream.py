"""Streams the text of an answer while it is generated."""

import re
from collections.abc import Callable, Container

from torch import Tensor
from transformers import PreTrainedTokenizerBase
from transformers.generation import BaseStreamer

from cl_lightning.data.writable import decoded

#: Text up to the last white space, or the last character of a script without spaces between words. What follows may
#: still change: a word may grow, a character may lack bytes, and a tokenizer may move blanks.
STANDS = re.compile(r".*[\s\u2e80-\uffef\U00020000-\U0003ffff]", re.DOTALL)


class Pieces(BaseStreamer):
    """Passes on the text of an answer word by word. The joined pieces equal the return value of `generate`.

    TextStreamer of transformers decodes each line separately, which loses blanks with some tokenizers.

    Args:
        give: called with each piece; no piece is empty.
        ends: tokens that end an answer; text after the first of them is left out.
        blank: prefix to remove from the answer, see `evaluation.generate.answer_blank`.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, give: Callable[[str], None], ends: Container[int], blank: str
    ) -> None:
        self.tokenizer, self.give, self.ends, self.blank = tokenizer, give, ends, blank
        self.ids: list[int] | None = None
        self.given, self.ended = 0, False

    def put(self, value: Tensor) -> None:
        """Add a token. The first call is with the prompt, which is ignored."""
        if self.ids is None:
            self.ids = []
            return
        self.ended = self.ended or int(value) in self.ends
        if not self.ended:
            self.ids.append(int(value))
            stands = STANDS.match(self._text())
            self._give(stands[0] if stands else "")

    def end(self) -> None:
        """Pass on the rest of the text."""
        self._give(self._text())

    def _text(self) -> str:
        return decoded(self.tokenizer, self.ids).removeprefix(self.blank)

    def _give(self, text: str) -> None:
        if piece := text[self.given :]:
            self.given = len(text)
            self.give(piece)
