"""What scores without learning anything: the numbers a model must beat. No torch here."""

from collections import Counter
from collections.abc import Sequence

from cl_lightning.data.base import Example
from cl_lightning.metrics.registry import best_scores, mean_score

#: The predictors, by their names in a run's metrics.
BASELINES = ("majority", "copy_prompt")


def majority_answer(train_answers: Sequence[str]) -> str:
    """The most frequent answer, compared exactly; of equally frequent ones the first seen.

    Raises ValueError where there are no answers.
    """
    if not train_answers:
        raise ValueError("no training answers to take the majority of")
    return Counter(train_answers).most_common(1)[0][0]


def baseline_items(metric_name: str, train: Sequence[Example], test: Sequence[Example]) -> dict[str, list[float]]:
    """Scores (0..100) of the test examples, of two predictors that read no task.

    Args:
        metric_name: key of `cl_lightning.metrics.registry.METRICS`; ConfigError where there is none.
        train: where the majority answer is counted; ValueError where empty.
        test: what is scored; ValueError where empty.

    Returns:
        "majority": the most frequent training answer every time; "copy_prompt": the prompt as the answer.
    """
    prompts, references = [e.prompt for e in test], [e.accepted for e in test]
    majority = [majority_answer([e.answer for e in train])] * len(test)
    return {
        "majority": best_scores(metric_name, majority, references, prompts),
        "copy_prompt": best_scores(metric_name, prompts, references, prompts),
    }


def baseline_scores(metric_name: str, train: Sequence[Example], test: Sequence[Example]) -> dict[str, float]:
    """The means of `baseline_items`."""
    return {name: mean_score(items) for name, items in baseline_items(metric_name, train, test).items()}
