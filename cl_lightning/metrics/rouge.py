"""ROUGE F1 of n-grams and of the longest common subsequence, 0..100. No torch here.

Computed by the library rouge-score with its Porter stemmer (Lin 2004), as in SAPT and GainLoRA, but with our tokeniser
outside ASCII, where the library's splits words ("für" is "f", "r") or finds none (Chinese scores 0). The library
imports nltk, and nltk whatever it finds, so it is imported by the first score that needs it.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

from rapidfuzz.distance import LCSseq

from cl_lightning.metrics.match import rationale, spaced

if TYPE_CHECKING:
    from rouge_score.rouge_scorer import RougeScorer


class UnicodeTokenizer:
    """Tokeniser for every script, equal to rouge-score's on ASCII, the only input for which that is defined.

    Words are runs of letters, marks and digits after NFC and lower-casing; each Han or kana character is a token;
    only ASCII words are stemmed (the Porter stemmer is English).
    """

    def __init__(self) -> None:
        from rouge_score.tokenizers import DefaultTokenizer

        self._ascii = DefaultTokenizer(use_stemmer=True)

    def tokenize(self, text: str) -> list[str]:
        """Split `text` into tokens.

        Example:
            >>> UnicodeTokenizer().tokenize("Für 3 Hunde: 支持")
            ['für', '3', 'hund', '支', '持']
        """
        text = spaced(unicodedata.normalize("NFC", text).lower())
        runs = "".join(c if unicodedata.category(c)[0] in "LMN" else " " for c in text).split()
        stemmed = (self._ascii.tokenize(run) if run.isascii() else [run] for run in runs)
        return [token for tokens in stemmed for token in tokens]


@cache
def _scorer(kind: str, library_tokens: bool) -> RougeScorer:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer([kind], use_stemmer=True, tokenizer=None if library_tokens else UnicodeTokenizer())


def _rouge(kind: str, prediction: str, reference: str, library_tokens: bool = False) -> float:
    return 100.0 * _scorer(kind, library_tokens).score(reference, prediction)[kind].fmeasure


def _ours(kind: str, name: str) -> Callable[[str, str, str], float]:
    def rouge(prediction: str, reference: str, _prompt: str) -> float:
        # Equal texts without a word ("+"), or for ROUGE-2 without a bigram, have no F1.
        if prediction.strip() == reference.strip():
            return 100.0
        return _rouge(kind, prediction, reference)

    rouge.__doc__ = f"{name} F1, stemmed, tokens of every script; equal texts score 100 even without a word."
    return rouge


rouge_1 = _ours("rouge1", "ROUGE-1")
rouge_2 = _ours("rouge2", "ROUGE-2")
rouge_l = _ours("rougeL", "ROUGE-L")


def rationale_rouge_l(prediction: str, reference: str, _prompt: str) -> float:
    """`rouge_l` of the text after the choice: the rationale of a ScienceQA answer."""
    return rouge_l(rationale(prediction), rationale(reference), "")


def rouge_1_sapt(prediction: str, reference: str, _prompt: str) -> float:
    """ROUGE-1 of SAPT and GainLoRA: the library's own ASCII tokens."""
    return _rouge("rouge1", prediction, reference, library_tokens=True)


def rouge_l_sapt(prediction: str, reference: str, _prompt: str) -> float:
    """ROUGE-L of SAPT and GainLoRA: the library's own ASCII tokens."""
    return _rouge("rougeL", prediction, reference, library_tokens=True)


def rouge_l_slice(prediction: str, reference: str, _prompt: str) -> float:
    """ROUGE-L of SLICE: F1 of the longest common subsequence of lower-cased words, no stemmer, punctuation kept."""
    given, wanted = prediction.lower().split(), reference.lower().split()
    return 200.0 * LCSseq.similarity(given, wanted) / (len(given) + len(wanted)) if given and wanted else 0.0


def rouge_l_trace(prediction: str, reference: str, _prompt: str) -> float:
    """TRACE's ROUGE-L: union of subsequences over sets of words, sentences split at ".", case kept (`rouge` 1.0.1).

    Its 1e-8 in the denominator is kept; a text of dots only scores 0, where TRACE raises ValueError.
    """
    ones, others = _sentences(prediction), _sentences(reference)
    if not ones or not others:
        return 0.0
    shared = {word for one in ones for other in others for word in _subsequence(one, other)}
    sizes = [len({word for sentence in text for word in sentence}) for text in (ones, others)]
    recall, precision = (len(shared) / size for size in sizes)
    return 200.0 * precision * recall / (precision + recall + 1e-8)


def rationale_rouge_l_trace(prediction: str, reference: str, _prompt: str) -> float:
    """TRACE's ROUGE-L of ScienceQA rationales: the text from the third character on."""
    return rouge_l_trace(prediction[2:], reference[2:], "")


def _sentences(text: str) -> list[list[str]]:
    return [part.split() or [""] for part in text.split(".") if part]


def _subsequence(one: list[str], other: list[str]) -> list[str]:
    """Return a longest common subsequence, choosing among several as package `rouge` does, which affects the union."""
    table = [[0] * (len(other) + 1)]
    for word in one:
        row, above = [0], table[-1]
        for j, candidate in enumerate(other):
            row.append(above[j] + 1 if word == candidate else max(above[j + 1], row[j]))
        table.append(row)
    found, i, j = [], len(one), len(other)
    while i and j:
        if one[i - 1] == other[j - 1]:
            i, j = i - 1, j - 1
            found.append(one[i])
        elif table[i - 1][j] > table[i][j - 1]:
            i -= 1
        else:
            j -= 1
    return found
