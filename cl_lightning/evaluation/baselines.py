"""Baselines without a model: the majority answer and a copy of the prompt. No torch here."""

from collections import Counter
from collections.abc import Sequence

from cl_lightning.data.base import Example
from cl_lightning.metrics.registry import best_scores

#: The baselines, by their names in a run's metrics.
BASELINES = ("majority", "copy_prompt")


def majority_answer(train_answers: Sequence[str]) -> str:
    """Return the most frequent answer, the first seen in a tie.

    Raises ValueError if there are no answers.
    """
    if not train_answers:
        raise ValueError("no training answers to take the majority of")
    return Counter(train_answers).most_common(1)[0][0]


def baseline_items(metric_name: str, train: Sequence[Example], test: Sequence[Example]) -> dict[str, list[float]]:
    """Compute the baselines' scores (0..100) of the test examples.

    Args:
        metric_name: key of `cl_lightning.metrics.registry.METRICS`.
        train: examples whose most frequent answer is the majority answer.
        test: examples to score.

    Returns:
        "majority": scores of the majority answer; "copy_prompt": scores of the prompt as the answer.

    Raises:
        ConfigError: unknown metric.
        ValueError: no examples.
    """
    prompts, references = [e.prompt for e in test], [e.accepted for e in test]
    majority = [majority_answer([e.answer for e in train])] * len(test)
    return {
        "majority": best_scores(metric_name, majority, references, prompts),
        "copy_prompt": best_scores(metric_name, prompts, references, prompts),
    }
