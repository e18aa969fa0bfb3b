"""Where our text metrics differ from the official evaluators, and why: the one list. No torch, imports nothing.

`data.metrics=official` scores with the second name instead of the first: the switch for parity. `WITHOUT_SWITCH` is
what it does not bring back.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Deviation:
    """One difference. `ours`, `official`: keys of `METRICS`; `what`: the difference; `why`: the reason for ours."""

    ours: str
    official: str
    what: str
    why: str


DEVIATIONS: tuple[Deviation, ...] = (
    Deviation(
        "accuracy", "accuracy_trace", "surrounding space is stripped", "a trailing newline is an error in TRACE"
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
        "rationale_rouge_l", "rationale_rouge_l_trace", "what follows the choice, however it is written",
        "TRACE takes the text from the third character, and its own ROUGE-L",
    ),
    Deviation(
        "bleu", "bleu_1_trace", "sacrebleu's BLEU-4, smoothed, 13a tokens", "TRACE's is of nltk, without smoothing"
    ),
    Deviation(
        "bleu", "bleu_4_trace", "sacrebleu's BLEU-4, smoothed, 13a tokens",
        "TRACE's is 1e-77 and the like for every answer without a common 4-gram",
    ),
    Deviation(
        "rationale_bleu", "rationale_bleu_1_trace", "what follows the choice, however it is written; smoothed BLEU-4",
        "TRACE takes the text from the third character, and its own BLEU",
    ),
    Deviation(
        "rationale_bleu", "rationale_bleu_4_trace", "what follows the choice, however it is written; smoothed BLEU-4",
        "TRACE takes the text from the third character, and its own BLEU",
    ),
    Deviation(
        "edit_similarity", "edit_similarity_trace", "the LCS ratio; an identical answer scores 100",
        "TRACE's value depends on whether python-Levenshtein is installed (up to 8 points a pair; the official name "
        "is without it), and an identical <STR_LIT> is un-masked to nothing and scores 0",
    ),
    Deviation(
        "sari", "sari_trace", "the source is the paragraph", "TRACE's is the whole prompt: leaving out its English "
        "instruction counts as good deleting",
    ),
    Deviation(
        "exact_match", "exact_match_sapt", 'a reference of punctuation alone is compared as it is ("+", "-")',
        "SAPT and GainLoRA fold both to nothing, hence equal",
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
        "exact_match", "exact_match_slice", "punctuation does not count", "SAPT's convention, of which SLICE's differs"
    ),
    Deviation("rouge_l", "rouge_l_slice", "stemmed, punctuation does not count", "as everyone else's ROUGE-L"),
)  # fmt: skip

#: Differences that lie before the metrics, each a line.
WITHOUT_SWITCH: tuple[str, ...] = (
    "TRACE samples its predictions at temperature 0.1; ours are greedy, the same every time",
    "SAPT and GainLoRA draw one of several references at random; the best of all counts here",
    'SAPT and GainLoRA tidy blanks while decoding (clean_up_tokenization_spaces: "do n\'t" becomes "don\'t")',
    'SAPT and GainLoRA take of a decoder model what follows the last "Output:", also where it wrote that itself',
)
