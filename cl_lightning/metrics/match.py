"""Scores of short answers: exact match, choice accuracy, word F1. 0..100 each, no torch.

The official evaluators named in these files are those of TRACE (BeyonderXX/TRACE @462e39f), of SAPT and GainLoRA (one
`compute_metrics.py`) and of SLICE; `parity` lists where ours differ from them and why.
"""

import re
import string
import unicodedata
from collections import Counter

from cl_lightning.common.errors import DataError

_CHOICE = re.compile(r"\s*([A-Z])(?!['’\w])")
_ARTICLE = re.compile(r"\b(a|an|the)\b")
_UNSPACED = re.compile(r"([\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af])")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def spaced(text: str) -> str:
    """Put spaces around Han and kana characters, which are written without, so that each is a word."""
    return _UNSPACED.sub(r" \1 ", text)


def accuracy(prediction: str, reference: str, _prompt: str) -> float:
    """Exact match after `strip`: case, punctuation and inner whitespace count."""
    return 100.0 * (prediction.strip() == reference.strip())


def accuracy_trace(prediction: str, reference: str, _prompt: str) -> float:
    """TRACE's accuracy: equality of the raw strings; an empty prediction is wrong."""
    return 100.0 * (prediction == reference != "")


def folded(text: str) -> str:
    """Normalise as SAPT does: lower case, no ASCII punctuation, single spaces between words, none around.

    Example:
        >>> folded(" The  answer: 6.")
        'the answer 6'
    """
    return " ".join(text.lower().translate(_PUNCTUATION).split())


def exact_match(prediction: str, reference: str, _prompt: str) -> float:
    """Equality after `folded`, or after `strip` if folding leaves nothing of the reference.

    Made for labels in words. For numbers use `accuracy`: here "-5" equals "5", and "1.5" equals "15".
    """
    wanted = folded(reference)
    return 100.0 * (folded(prediction) == wanted if wanted else prediction.strip() == reference.strip())


def exact_match_sapt(prediction: str, reference: str, _prompt: str) -> float:
    """Exact match of SAPT and GainLoRA: equality after `folded`."""
    return 100.0 * (folded(prediction) == folded(reference))


def exact_match_slice(prediction: str, reference: str, _prompt: str) -> float:
    """Exact match of SLICE: equality of the lower-cased words; punctuation counts."""
    return 100.0 * (prediction.lower().split() == reference.lower().split())


def first_letter(prediction: str, reference: str, _prompt: str) -> float:
    """Accuracy of the choice: the capital letter that begins the text as a token of its own (ScienceQA).

    "B", " B", "B." and "B\\n..." are choice B; "Bees" and "" contain no choice and score 0.

    Raises:
        DataError: the reference does not begin with a choice.
    """
    wanted, given = _CHOICE.match(reference), _CHOICE.match(prediction)
    if wanted is None:
        raise DataError(f"first_letter: the answer {reference[:40]!r} does not begin with a choice (A, B...)")
    return 100.0 * (given is not None and given[1] == wanted[1])


def first_letter_trace(prediction: str, reference: str, _prompt: str) -> float:
    """TRACE's accuracy on ScienceQA: equality of the first characters. "" scores 0; TRACE raises IndexError."""
    return 100.0 * (prediction[:1] == reference[:1] != "")


def rationale(text: str) -> str:
    """Return the text after the choice of a ScienceQA answer and its separator; the whole text if there is no choice.

    Example:
        >>> rationale("B. Because it floats.")
        'Because it floats.'
    """
    found = _CHOICE.match(text)
    return text[found.end() :].lstrip(" \n\r\t.:,;)-") if found else text


def words(text: str) -> list[str]:
    """Split into SQuAD's words: lower case, no punctuation (of any script), no articles; each Han or kana one word.

    Equal to SQuAD's own on ASCII; on other scripts like MLQA's.
    """
    text = text.lower().translate(_PUNCTUATION)
    text = "".join(c for c in text if not unicodedata.category(c).startswith("P"))
    return spaced(_ARTICLE.sub(" ", text)).split()


def f1(prediction: str, reference: str, _prompt: str) -> float:
    """F1 of the bags of `words`, for question answering (Rajpurkar et al. 2016, SQuAD).

    If either text has no words: 100 if both have none, else 0 (SQuAD 2).
    """
    given, wanted = words(prediction), words(reference)
    if not given or not wanted:
        return 100.0 * (given == wanted)
    common = (Counter(given) & Counter(wanted)).total()
    return 200.0 * common / (len(given) + len(wanted))
