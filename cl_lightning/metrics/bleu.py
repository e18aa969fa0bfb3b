"""BLEU of single answers, 0..100. No torch here.

BLEU is a corpus metric (Papineni et al. 2002). Here, as in TRACE, a task's score is the mean over its answers, so that
it has per-sample scores and an interval like every other metric; it is not the corpus BLEU of translation papers.
"""

import re
import warnings
from functools import cache

from sacrebleu.metrics.bleu import BLEU

from cl_lightning.metrics.match import rationale, spaced


@cache
def _scorer() -> BLEU:
    return BLEU(effective_order=True)


def bleu(prediction: str, reference: str, _prompt: str) -> float:
    """Sentence BLEU-4 of sacrebleu: 13a tokens, exponential smoothing, effective order (up to the text's length).

    Each Han or kana character is a token, as in its tokeniser "zh". Equal texts score 100 even without a token.
    """
    if prediction.strip() == reference.strip():
        return 100.0
    return min(100.0, _scorer().sentence_score(spaced(prediction), [spaced(reference)]).score)


def rationale_bleu(prediction: str, reference: str, _prompt: str) -> float:
    """`bleu` of the text after the choice: the rationale of a ScienceQA answer."""
    return bleu(rationale(prediction), rationale(reference), "")


def _trace(prediction: str, reference: str, weights: tuple[float, ...]) -> float:
    from nltk.translate.bleu_score import sentence_bleu  # nltk imports whatever it finds, as scikit-learn

    if not prediction or not reference:
        return 0.0
    given, wanted = ([w for w in re.split(r"\s|\.", text) if w] for text in (prediction, reference))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "the score is 0": unsmoothed on purpose
        return 100.0 * float(sentence_bleu([wanted], given, weights=weights))


def bleu_1_trace(prediction: str, reference: str, _prompt: str) -> float:
    """TRACE's BLEU-1: nltk, no smoothing, words split at whitespace and "."."""
    return _trace(prediction, reference, (1.0, 0.0, 0.0, 0.0))


def bleu_4_trace(prediction: str, reference: str, _prompt: str) -> float:
    """TRACE's BLEU-4: nltk, no smoothing (about 0 without a common 4-gram), words split at whitespace and "."."""
    return _trace(prediction, reference, (0.25,) * 4)


def rationale_bleu_1_trace(prediction: str, reference: str, _prompt: str) -> float:
    """TRACE's BLEU-1 of ScienceQA rationales: the text from the third character on."""
    return bleu_1_trace(prediction[2:], reference[2:], "")


def rationale_bleu_4_trace(prediction: str, reference: str, _prompt: str) -> float:
    """TRACE's BLEU-4 of ScienceQA rationales: the text from the third character on."""
    return bleu_4_trace(prediction[2:], reference[2:], "")
