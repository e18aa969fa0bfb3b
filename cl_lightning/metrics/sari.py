"""SARI of text simplification: n-grams added, kept and deleted, 0..100. No torch here."""

import re
from collections import Counter
from collections.abc import Sequence
from math import fsum

from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

_PARAGRAPH = re.compile(r"\A[^\n]*\n\s*Paragraph:(.*)Simplification:\s*\Z", re.DOTALL)


def paragraph(prompt: str) -> str:
    """Return the text to simplify of a 20Minuten prompt: between "Paragraph:" under the instruction and the final
    "Simplification:", stripped. Any other prompt is returned whole."""
    found = _PARAGRAPH.match(prompt)
    return found[1].strip() if found else prompt


def _ngrams(words: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))


def _f1(precision: float, recall: float) -> float:
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _share(good: Counter[tuple[str, ...]], out_of: Counter[tuple[str, ...]]) -> float:
    """Mean over the n-grams of `out_of` of the share of each that is `good`; 1 if there are none."""
    return fsum(good[g] / out_of[g] for g in out_of) / len(out_of) if out_of else 1.0


def sari_score(source: str, prediction: str, reference: str) -> float:
    """Compute SARI with one reference, 0..100 (Xu et al. 2016): mean over n = 1..4 of (F_add + F_keep + P_del)/3.

    Equal to Hugging Face's metric "sari", which TRACE calls: lower case, 13a tokens; keep recall counts occurrences
    whereas keep precision counts n-grams (their correction of the original script).
    """
    s, c, r = (Tokenizer13a()(text.lower()).split(" ") for text in (source, prediction, reference))
    total = 0.0
    for n in range(1, 5):
        src, out, ref = _ngrams(s, n), _ngrams(c, n), _ngrams(r, n)
        kept, to_keep = src & out, src & ref
        keep_recall = (kept & ref).total() / to_keep.total() if to_keep else 1.0
        keep = _f1(_share(kept & ref, kept), keep_recall)
        deleted = _share(src - out - ref, src - out)
        added, to_add = out.keys() - src.keys(), ref.keys() - src.keys()
        good = len(added & ref.keys())
        add = _f1(good / len(added) if added else 1.0, good / len(to_add) if to_add else 1.0)
        total += keep + deleted + add
    return 100.0 * total / 12


def sari(prediction: str, reference: str, prompt: str) -> float:
    """SARI against the `paragraph` of the prompt (20Minuten)."""
    return sari_score(paragraph(prompt), prediction, reference)


def sari_trace(prediction: str, reference: str, prompt: str) -> float:
    """TRACE's SARI: against the whole prompt, instruction included."""
    return sari_score(prompt, prediction, reference)
