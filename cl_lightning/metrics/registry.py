"""Text metrics by name: one score per sample, all on 0..100 (TRACE's own codes mix 0..1 and 0..100). No torch here.

Each takes (predictions, references, prompts) of equal length and returns the scores in that order; unequal
lengths raise ValueError. A name that ends in `_trace`, `_sapt` or `_slice` is what that paper's code computes, the
others are ours; `parity` lists where the two differ and why. Texts are not stripped beforehand; of ours only edit
similarity, like TRACE's, counts surrounding whitespace.

To add a metric, write a function of (prediction, reference, prompt) that returns 0..100 in a file of this folder, and
add a line to `EXPORTS`. Name the third parameter `_prompt` if the metric does not read it.
"""

from collections.abc import Callable, Sequence
from functools import wraps
from importlib import import_module
from inspect import signature
from math import fsum

from cl_lightning.common.errors import ConfigError, nearest

Metric = Callable[[Sequence[str], Sequence[str], Sequence[str]], list[float]]

#: Each metric's name, which is also its function's, and the file that defines it.
EXPORTS: dict[str, str] = {
    "accuracy": "match",
    "exact_match": "match",
    "first_letter": "match",
    "f1": "match",
    "rouge_1": "rouge",
    "rouge_2": "rouge",
    "rouge_l": "rouge",
    "rationale_rouge_l": "rouge",
    "bleu": "bleu",
    "rationale_bleu": "bleu",
    "edit_similarity": "edit",
    "sari": "sari",
    "accuracy_trace": "match",
    "first_letter_trace": "match",
    "rouge_l_trace": "rouge",
    "rationale_rouge_l_trace": "rouge",
    "bleu_1_trace": "bleu",
    "bleu_4_trace": "bleu",
    "rationale_bleu_1_trace": "bleu",
    "rationale_bleu_4_trace": "bleu",
    "edit_similarity_trace": "edit",
    "sari_trace": "sari",
    "exact_match_sapt": "match",
    "rouge_1_sapt": "rouge",
    "rouge_l_sapt": "rouge",
    "exact_match_slice": "match",
    "rouge_l_slice": "rouge",
}


def per_sample(score: Callable[[str, str, str], float]) -> Metric:
    """Lift a score of one (prediction, reference, prompt) to sequences, keeping docstring and signature."""

    @wraps(score)
    def metric(predictions: Sequence[str], references: Sequence[str], prompts: Sequence[str]) -> list[float]:
        return [score(*sample) for sample in zip(predictions, references, prompts, strict=True)]

    return metric


METRICS: dict[str, Metric] = {
    name: per_sample(getattr(import_module(f"{__package__}.{file}"), name)) for name, file in EXPORTS.items()
}

#: Metrics that read the prompt; for the others any string will do.
PROMPTED = frozenset(name for name, score in METRICS.items() if "prompt" in signature(score).parameters)


def metric(name: str) -> Metric:
    """Look up a metric. Raises ConfigError for an unknown name, with the nearest ones."""
    if name not in METRICS:
        raise ConfigError(f"unknown metric {name!r}; {nearest(name, METRICS)}")
    return METRICS[name]


def official_name(name: str, evaluator: str | None) -> str:
    """Return the name of metric `name` as computed by `evaluator` (`Benchmark.evaluator`).

    Raises:
        ConfigError: no evaluator, or one without this metric.
    """
    if evaluator is None:
        raise ConfigError("this benchmark has no official evaluator; use our metrics")
    suffix = f"_{evaluator}"
    found = f"{name.removesuffix(suffix)}{suffix}"
    if found not in METRICS:
        raise ConfigError(f"the official evaluator ({evaluator}) has no metric {name}, which a task uses; use ours")
    return found


def best_scores(
    name: str, predictions: Sequence[str], references: Sequence[Sequence[str]], prompts: Sequence[str]
) -> list[float]:
    """Compute each prediction's highest score over its references.

    Raises:
        ConfigError: no such metric.
        ValueError: unequal lengths, or a prediction without a reference.
    """
    each = list(zip(predictions, references, prompts, strict=True))
    flat = [(prediction, reference, prompt) for prediction, several, prompt in each for reference in several]
    scores = iter(metric(name)(*(list(column) for column in zip(*flat, strict=True)))) if flat else iter(())
    return [max(next(scores) for _ in several) for _, several, _ in each]


def mean_score(scores: Sequence[float]) -> float:
    """Compute the mean score of a task, 0..100. Raises ValueError if there are no scores."""
    if not scores:
        raise ValueError("no scores to average: was the test split empty?")
    return fsum(scores) / len(scores)
