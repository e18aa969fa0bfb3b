"""Text metrics: one score per sample, all on 0..100 (TRACE's own codes mix 0..1 and 0..100). No torch here.

Each takes (predictions, references, prompts) of equal length and returns the scores in that order; unequal
lengths raise ValueError. The official evaluators meant below are those of TRACE (BeyonderXX/TRACE @462e39f)
and of SAPT and GainLoRA (one `compute_metrics.py`); where we differ from them the docstring says so.
"""

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from math import fsum

from rapidfuzz import fuzz
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenizers import DefaultTokenizer, Tokenizer
from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

from cl_lightning.errors import ConfigError, DataError, nearest

Metric = Callable[[Sequence[str], Sequence[str], Sequence[str]], list[float]]

_CHOICE = re.compile(r"\s*([A-Z])(?!['’\w])")
_UNSPACED = re.compile(r"([\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af])")
_LITERAL = re.compile(r"<(?:STR|NUM|CHAR)_LIT:(.*?)>", re.DOTALL)
_PARAGRAPH = re.compile(r"\A[^\n]*\n\s*Paragraph:(.*)Simplification:\s*\Z", re.DOTALL)


def _per_sample(score: Callable[[str, str, str], float]) -> Metric:
    """Lift a score of one (prediction, reference, prompt) to sequences."""

    def metric(predictions: Sequence[str], references: Sequence[str], prompts: Sequence[str]) -> list[float]:
        return [score(*sample) for sample in zip(predictions, references, prompts, strict=True)]

    return metric


def _accuracy(prediction: str, reference: str, _prompt: str) -> float:
    """Exact match after `strip`.

    TRACE does not strip: a trailing newline is an error there. SAPT, GainLoRA and SLICE also fold case and
    inner space, the first two punctuation as well: "6." is "6" there.
    """
    return 100.0 * (prediction.strip() == reference.strip())


_PUNCTUATION = str.maketrans("", "", string.punctuation)


def _folded(text: str) -> str:
    """Lower case, without ASCII punctuation, one blank between words."""
    return " ".join(text.lower().translate(_PUNCTUATION).split())


def _exact_match(prediction: str, reference: str, _prompt: str) -> float:
    """SAPT's and GainLoRA's: equality of the folded texts; of the stripped ones where folding leaves nothing."""
    wanted = _folded(reference)
    return 100.0 * (_folded(prediction) == wanted if wanted else prediction.strip() == reference.strip())


def _first_letter(prediction: str, reference: str, _prompt: str) -> float:
    """ScienceQA: the choice is the capital letter that opens the text as a token of its own.

    "B", " B", "B." and "B\\n..." are choice B; "Bees" and "" are none and score 0. TRACE compares the first
    character, so it takes "An apple" for choice A, misses " A", and raises IndexError on "".

    Raises:
        DataError: the reference opens with no choice.
    """
    wanted, given = _CHOICE.match(reference), _CHOICE.match(prediction)
    if wanted is None:
        raise DataError(f"first_letter: the answer {reference[:40]!r} does not begin with a choice (A, B...)")
    return 100.0 * (given is not None and given[1] == wanted[1])


class UnicodeTokenizer(Tokenizer):
    """rouge-score's tokeniser for every script: equal to it on ASCII, where it alone is defined.

    Words are runs of letters, marks and digits after NFC and lower-casing; Han and kana characters, written
    without spaces, are a token each; only ASCII words meet the (English) Porter stemmer.
    """

    def __init__(self) -> None:
        self._ascii = DefaultTokenizer(use_stemmer=True)

    def tokenize(self, text: str) -> list[str]:
        """Split `text` into tokens.

        Example:
            >>> UnicodeTokenizer().tokenize("Für 3 Hunde: 支持")
            ['für', '3', 'hund', '支', '持']
        """
        text = _UNSPACED.sub(r" \1 ", unicodedata.normalize("NFC", text).lower())
        words = "".join(c if unicodedata.category(c)[0] in "LMN" else " " for c in text).split()
        stemmed = (self._ascii.tokenize(word) if word.isascii() else [word] for word in words)
        return [token for tokens in stemmed for token in tokens]


@cache
def _rouge() -> RougeScorer:
    return RougeScorer(["rougeL"], tokenizer=UnicodeTokenizer())


def _rouge_l(prediction: str, reference: str, _prompt: str) -> float:
    """ROUGE-L F1 of the library rouge-score, stemmed (Lin 2004), as SAPT and GainLoRA use it.

    Equal to theirs on ASCII. Elsewhere their tokeniser cuts words ("für" is "f", "r") or finds none (Chinese
    scores 0). Texts that are equal after `strip` score 100 even without a word ("+"; theirs 0). TRACE's
    ROUGE-L is another score: union LCS over *sets* of words, case kept, ValueError on "...".
    """
    if prediction.strip() == reference.strip():
        return 100.0
    return 100.0 * _rouge().score(reference, prediction)["rougeL"].fmeasure


def unmask(code: str) -> str:
    """Put Py150's literals back: `<STR_LIT:x>` is x, a bare `<NUM_LIT>` is 0, a bare string or char is "".

    Example:
        >>> unmask("f ( '<STR_LIT:a>' , '<STR_LIT>' , <NUM_LIT> )")
        "f ( 'a' , '' , 0 )"
    """
    code = code.replace("<NUM_LIT>", "0").replace("<STR_LIT>", "").replace("<CHAR_LIT>", "")
    return _LITERAL.sub(r"\1", code)


def _edit_similarity(prediction: str, reference: str, _prompt: str) -> float:
    """Py150: similarity of the un-masked codes, 2 LCS / (|a| + |b|), rounded to a whole number as TRACE does.

    TRACE calls fuzzywuzzy, whose value depends on whether python-Levenshtein is installed; this is the one
    with it (without it: difflib's greedy blocks, never above the LCS). An identical `<STR_LIT>` scores 100;
    TRACE un-masks it to nothing and gives 0. An empty prediction scores 0 even then.
    """
    if not prediction or not reference:
        return 100.0 * (prediction == reference)
    return float(round(fuzz.ratio(unmask(prediction), unmask(reference))))


def paragraph(prompt: str) -> str:
    """The text to simplify in a 20Minuten prompt: between "Paragraph:" under the instruction and the final
    "Simplification:", stripped. A prompt not built like that is returned whole."""
    found = _PARAGRAPH.match(prompt)
    return found[1].strip() if found else prompt


def _ngrams(words: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))


def _f1(precision: float, recall: float) -> float:
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _share(good: Counter[tuple[str, ...]], out_of: Counter[tuple[str, ...]]) -> float:
    """Mean over the n-grams of `out_of` of the share of each that is `good`; 1 where there are none."""
    return fsum(good[g] / out_of[g] for g in out_of) / len(out_of) if out_of else 1.0


def sari(source: str, prediction: str, reference: str) -> float:
    """SARI with one reference, 0..100 (Xu et al. 2016): mean over n = 1..4 of (F_add + F_keep + P_del)/3.

    Equal to Hugging Face's metric "sari", which TRACE calls: lower case, 13a tokens; the recall of keeping
    counts occurrences where its precision counts n-grams (their correction of the original script).
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


def _sari(prediction: str, reference: str, prompt: str) -> float:
    """20Minuten: SARI against the `paragraph` of the prompt. TRACE's source is the whole prompt, so that not
    repeating its English instruction counts as a good deletion."""
    return sari(paragraph(prompt), prediction, reference)


METRICS: dict[str, Metric] = {
    "accuracy": _per_sample(_accuracy),
    "exact_match": _per_sample(_exact_match),
    "first_letter": _per_sample(_first_letter),
    "rouge_l": _per_sample(_rouge_l),
    "edit_similarity": _per_sample(_edit_similarity),
    "sari": _per_sample(_sari),
}


def metric(name: str) -> Metric:
    """The metric called `name`. Raises ConfigError naming the nearest ones where there is none."""
    if name not in METRICS:
        raise ConfigError(f"unknown metric {name!r}; {nearest(name, METRICS)}")
    return METRICS[name]


def best_scores(
    name: str, predictions: Sequence[str], references: Sequence[Sequence[str]], prompts: Sequence[str]
) -> list[float]:
    """Each prediction's highest score over its references, by the metric called `name`.

    Raises:
        ConfigError: no such metric.
        ValueError: unequal lengths, or a prediction without a reference.
    """
    each = list(zip(predictions, references, prompts, strict=True))
    flat = [(prediction, reference, prompt) for prediction, several, prompt in each for reference in several]
    scores = iter(metric(name)(*(list(column) for column in zip(*flat, strict=True)))) if flat else iter(())
    return [max(next(scores) for _ in several) for _, several, _ in each]


def mean_score(scores: Sequence[float]) -> float:
    """Mean score of a task, 0..100. Raises ValueError where nothing was scored."""
    if not scores:
        raise ValueError("no scores to average: was the test split empty?")
    return fsum(scores) / len(scores)
