"""Text metrics by name: one score per sample, all on 0..100 (TRACE's own codes mix 0..1 and 0..100). No torch here.

Each takes (predictions, references, prompts) of equal length and returns the scores in that order; unequal
lengths raise ValueError. `accuracy`, `rouge_l` and the like are ours; a name that ends in `_trace`, `_sapt` or
`_slice` is what that paper's code computes, `parity` says where the two differ and why. Texts come as they were
written; of ours only edit similarity, which is TRACE's there, sees the space around them.

A new metric is one file beside this one with a function of (prediction, reference, prompt) that returns 0..100, and one
line in `EXPORTS`. Name the third parameter `_prompt` where the metric does not read it.
"""

from collections.abc import Callable, Sequence
from functools import wraps
from importlib import import_module
from inspect import signature
from math import fsum

from cl_lightning.common.errors import ConfigError, nearest

Metric = Callable[[Sequence[str], Sequence[str], Sequence[str]], list[float]]

#: Name of each metric, which is its function's, and the file that has it.
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
    """Lift a score of one (prediction, reference, prompt) to sequences; docstring and signature stay."""

    @wraps(score)
    def metric(predictions: Sequence[str], references: Sequence[str], prompts: Sequence[str]) -> list[float]:
        return [score(*sample) for sample in zip(predictions, references, prompts, strict=True)]

    return metric


METRICS: dict[str, Metric] = {
    name: per_sample(getattr(import_module(f"{__package__}.{file}"), name)) for name, file in EXPORTS.items()
}

#: Metrics that read the prompt; for the others it may be anything.
PROMPTED = frozenset(name for name, score in METRICS.items() if "prompt" in signature(score).parameters)


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
