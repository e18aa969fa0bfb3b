"""Scores of short answers: equal or not, the right choice or not, words in common. 0..100 each, no torch.

The official evaluators meant below and in the other files of metrics are those of TRACE (BeyonderXX/TRACE @462e39f),
of SAPT and GainLoRA (one `compute_metrics.py`) and of SLICE; `parity` lists where ours differ from them and why.
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
    """`text` with blanks around Han and kana characters, which are written without: each is a word of its own."""
    return _UNSPACED.sub(r" \1 ", text)


def accuracy(prediction: str, reference: str, _prompt: str) -> float:
    """Exact match after `strip`: case, punctuation and inner space count."""
    return 100.0 * (prediction.strip() == reference.strip())


def accuracy_trace(prediction: str, reference: str, _prompt: str) -> float:
    """TRACE's accuracy: equality of the raw strings; an empty one is never right."""
    return 100.0 * (prediction == reference != "")


def folded(text: str) -> str:
    """SAPT's normalisation: lower case, without ASCII punctuation, one blank between words, none around.

    Example:
        >>> folded(" The  answer: 6.")
        'the answer 6'
    """
    return " ".join(text.lower().translate(_PUNCTUATION).split())


def exact_match(prediction: str, reference: str, _prompt: str) -> float:
    """Equality after `folded`, where that leaves something of the reference; else after `strip`.

    For labels in words. For numbers take `accuracy`: "-5" is "5" here, and "1.5" is "15".
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
    """The choice is the capital letter that opens the text as a token of its own (ScienceQA).

    "B", " B", "B." and "B\\n..." are choice B; "Bees" and "" are none and score 0.

    Raises:
        DataError: the reference opens with no choice.
    """
    wanted, given = _CHOICE.match(reference), _CHOICE.match(prediction)
    if wanted is None:
        raise DataError(f"first_letter: the answer {reference[:40]!r} does not begin with a choice (A, B...)")
    return 100.0 * (given is not None and given[1] == wanted[1])


def first_letter_trace(prediction: str, reference: str, _prompt: str) -> float:
    """TRACE's accuracy on ScienceQA: the first characters are equal. "" scores 0, there IndexError."""
    return 100.0 * (prediction[:1] == reference[:1] != "")


def rationale(text: str) -> str:
    """What follows the choice of a ScienceQA answer, however that is set off; the whole text where it opens with none.

    Example:
        >>> rationale("B. Because it floats.")
        'Because it floats.'
    """
    found = _CHOICE.match(text)
    return text[found.end() :].lstrip(" \n\r\t.:,;)-") if found else text


def words(text: str) -> list[str]:
    """SQuAD's words: lower case, without punctuation (of any script) and articles; Han and kana a character each.

    Equal to SQuAD's own on ASCII; elsewhere as MLQA's, which keeps the scripts apart in the same way.
    """
    text = text.lower().translate(_PUNCTUATION)
    text = "".join(c for c in text if not unicodedata.category(c).startswith("P"))
    return spaced(_ARTICLE.sub(" ", text)).split()


def f1(prediction: str, reference: str, _prompt: str) -> float:
    """F1 of the bags of `words` (Rajpurkar et al. 2016, SQuAD), for answers of question answering.

    Where one of the two has no word, 100 if the other has none either, else 0 (SQuAD 2).
    """
    given, wanted = words(prediction), words(reference)
    if not given or not wanted:
        return 100.0 * (given == wanted)
    common = (Counter(given) & Counter(wanted)).total()
    return 200.0 * common / (len(given) + len(wanted))
