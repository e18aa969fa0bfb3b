"""Text metrics by name: one score per sample, all on 0..100 (TRACE's own codes mix 0..1 and 0..100). No torch here.

Each takes (predictions, references, prompts) of equal length and returns the scores in that order; unequal
lengths raise ValueError. `accuracy`, `rouge_l` and the like are ours; a name that ends in `_trace`, `_sapt` or
`_slice` is what that paper's code computes, `parity` says where the two differ and why. Texts come as they were
written; of ours only edit similarity, which is TRACE's there, sees the space around them.

A new metric is a function of (prediction, reference, prompt) in a file beside this one and its line in `METRICS`.
"""

from collections.abc import Callable, Sequence
from functools import wraps
from math import fsum

from cl_lightning.common.errors import ConfigError, nearest
from cl_lightning.metrics import bleu, edit, match, rouge, sari

Metric = Callable[[Sequence[str], Sequence[str], Sequence[str]], list[float]]


def _per_sample(score: Callable[[str, str, str], float]) -> Metric:
    """Lift a score of one (prediction, reference, prompt) to sequences; the docstring stays."""

    @wraps(score)
    def metric(predictions: Sequence[str], references: Sequence[str], prompts: Sequence[str]) -> list[float]:
        return [score(*sample) for sample in zip(predictions, references, prompts, strict=True)]

    return metric


METRICS: dict[str, Metric] = {
    name: _per_sample(score)
    for name, score in {
        "accuracy": match.accuracy,
        "exact_match": match.exact_match,
        "first_letter": match.first_letter,
        "f1": match.f1,
        "rouge_1": rouge.rouge_1,
        "rouge_2": rouge.rouge_2,
        "rouge_l": rouge.rouge_l,
        "rationale_rouge_l": rouge.rationale_rouge_l,
        "bleu": bleu.bleu,
        "rationale_bleu": bleu.rationale_bleu,
        "edit_similarity": edit.edit_similarity,
        "sari": sari.sari_of_paragraph,
        "accuracy_trace": match.accuracy_trace,
        "first_letter_trace": match.first_letter_trace,
        "rouge_l_trace": rouge.rouge_l_trace,
        "rationale_rouge_l_trace": rouge.rationale_rouge_l_trace,
        "bleu_1_trace": bleu.bleu_1_trace,
        "bleu_4_trace": bleu.bleu_4_trace,
        "rationale_bleu_1_trace": bleu.rationale_bleu_1_trace,
        "rationale_bleu_4_trace": bleu.rationale_bleu_4_trace,
        "edit_similarity_trace": edit.edit_similarity_trace,
        "sari_trace": sari.sari_trace,
        "exact_match_sapt": match.exact_match_sapt,
        "rouge_1_sapt": rouge.rouge_1_sapt,
        "rouge_l_sapt": rouge.rouge_l_sapt,
        "exact_match_slice": match.exact_match_slice,
        "rouge_l_slice": rouge.rouge_l_slice,
    }.items()
}


#: Metrics that read the prompt; for the others it may be anything.
PROMPTED = frozenset({"sari", "sari_trace"})


def metric(name: str) -> Metric:
    """The metric called `name`. Raises ConfigError naming the nearest ones where there is none."""
    if name not in METRICS:
        raise ConfigError(f"unknown metric {name!r}; {nearest(name, METRICS)}")
    return METRICS[name]


def official(name: str, evaluator: str | None) -> str:
    """The metric `name` as that evaluator computes it (`Benchmark.evaluator`). Raises ConfigError where it does not."""
    if evaluator is None:
        raise ConfigError("this benchmark names no official evaluator; take ours")
    ending = f"_{evaluator}"
    found = f"{name.removesuffix(ending)}{ending}"
    if found not in METRICS:
        raise ConfigError(f"the official evaluator ({evaluator}) has no {name}, by which a task is scored; take ours")
    return found


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
