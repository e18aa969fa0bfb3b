"""Differences between our text metrics and the official evaluators, with reasons. No torch, imports nothing.

`data.metrics=official` scores with the official metric instead of ours. `WITHOUT_SWITCH` lists the differences that
this option does not remove.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Deviation:
    """One difference. `ours`, `official`: keys of `METRICS`; `what`: how ours differs; `why`: the reason."""

    ours: str
    official: str
    what: str
    why: str


DEVIATIONS: tuple[Deviation, ...] = (
    Deviation(
        "accuracy", "accuracy_trace", "surrounding whitespace is stripped", "a trailing newline is an error in TRACE"
    ),
    Deviation(
        "first_letter", "first_letter_trace", "the choice must be a token: A, A., A\\n; an empty answer is wrong",
        'TRACE takes "An apple" for choice A, misses " A" and raises IndexError on an empty answer',
    ),
    Deviation(
        "rouge_l", "rouge_l_trace", "ROUGE-L of rouge-score: stemmed, lower case, words counted as often as they occur",
        'TRACE\'s (rouge 1.0.1) works on sets of words: "a a a b" equals "a b"; an exact match is 99.9999995; '
        '"..." raises ValueError',
    ),
    Deviation(
        "rationale_rouge_l", "rationale_rouge_l_trace", "the text after the choice, however separated",
        "TRACE takes the text from the third character on, and its own ROUGE-L",
    ),
    Deviation(
        "bleu", "bleu_1_trace", "sacrebleu's BLEU-4, smoothed, 13a tokens", "TRACE's is nltk's, without smoothing"
    ),
    Deviation(
        "bleu", "bleu_4_trace", "sacrebleu's BLEU-4, smoothed, 13a tokens",
        "TRACE's is about 1e-77 for every answer without a common 4-gram",
    ),
    Deviation(
        "rationale_bleu", "rationale_bleu_1_trace", "the text after the choice, however separated; smoothed BLEU-4",
        "TRACE takes the text from the third character on, and its own BLEU",
    ),
    Deviation(
        "rationale_bleu", "rationale_bleu_4_trace", "the text after the choice, however separated; smoothed BLEU-4",
        "TRACE takes the text from the third character on, and its own BLEU",
    ),
    Deviation(
        "edit_similarity", "edit_similarity_trace", "the LCS ratio; an identical answer scores 100",
        "TRACE's value depends on whether python-Levenshtein is installed (up to 8 points a pair; the official name "
        "is without it), and an identical <STR_LIT> is un-masked to nothing and scores 0",
    ),
    Deviation(
        "sari", "sari_trace", "the source is the paragraph", "TRACE's is the whole prompt: omitting its English "
        "instruction counts as a correct deletion",
    ),
    Deviation(
        "exact_match", "exact_match_sapt", 'a reference of punctuation alone is compared verbatim ("+", "-")',
        "SAPT and GainLoRA reduce both to nothing, hence equal",
    ),
    Deviation(
        "rouge_1", "rouge_1_sapt", "tokens of every script; equal texts score 100",
        'their tokeniser is ASCII only: "für" is two words, Chinese scores 0',
    ),
    Deviation(
        "rouge_l", "rouge_l_sapt", "tokens of every script; equal texts score 100",
        'their tokeniser is ASCII only: "für" is two words, Chinese scores 0',
    ),
    Deviation(
        "exact_match", "exact_match_slice", "punctuation does not count", "SAPT's convention, not SLICE's"
    ),
    Deviation("rouge_l", "rouge_l_slice", "stemmed, punctuation does not count", "as other implementations of ROUGE-L"),
)  # fmt: skip

#: Differences that arise before the metrics, one line each.
WITHOUT_SWITCH: tuple[str, ...] = (
    "TRACE samples its predictions at temperature 0.1; ours are greedy, the same every time",
    "SAPT and GainLoRA draw one of several references at random; here the best of all counts",
    'SAPT and GainLoRA clean up spaces while decoding (clean_up_tokenization_spaces: "do n\'t" becomes "don\'t")',
    'SAPT and GainLoRA take the text after the last "Output:" of a decoder, even if the model generated that itself',
)
