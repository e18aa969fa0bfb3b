"""Checks before training that a task's metrics suit its answers, and that its texts fit the model. Imports no torch.

A metric that cannot read the references would fail only at the first scoring, after a task has been trained. A metric
that scores references low, or empty predictions high, says nothing about the model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from cl_lightning.common.errors import ConfigError, DataError
from cl_lightning.data.base import Example, TaskSpec
from cl_lightning.metrics.registry import best_scores

if TYPE_CHECKING:
    from cl_lightning.data.task_data import TaskData

#: Least score of a reference against itself, out of 100.
LEAST = 50.0


def self_scores(name: str, examples: Sequence[Example]) -> list[float]:
    """Score the answer of each example against itself by the metric called `name`, 0..100.

    With several correct answers, the best score counts, as for predictions.

    Raises:
        ConfigError: no such metric.
        DataError: the metric cannot read a reference; the message names the example.
    """
    return [_score(name, example, example.answer) for example in examples]


def check_metrics(spec: TaskSpec, examples: Sequence[Example]) -> None:
    """Raise the error that scoring these examples by the task's metrics would raise, as `self_scores` does."""
    try:
        for name in (spec.metric, *spec.also):
            self_scores(name, examples)
    except ConfigError as error:
        raise ConfigError(f"{spec.name}: {error}") from None


def check_tokens(task: TaskData, vocabulary: int) -> None:
    """Raise ConfigError for an example with a token that the model has no embedding for.

    Args:
        vocabulary: number of tokens with an embedding.
    """
    for encoded in (*task.train, *task.validation, *task.test):
        if (token := max(*encoded.prompt_ids, *encoded.answer_ids)) >= vocabulary:
            raise ConfigError(
                f"{encoded.example.id}: model.backbone.name: this text has token {token}, but the model's "
                f"embedding ends at {vocabulary - 1}; use the tokenizer that belongs to the model, or "
                "resize_token_embeddings and save it again"
            )


def check_context_length(task: TaskData, context: int | None, positions: Callable[[int, int], int]) -> None:
    """Raise ConfigError for a training example, or a test prompt plus its generation budget, that exceeds the context.

    Args:
        context: number of the model's positions; None: no limit.
        positions: number of those that a prompt and an answer of given numbers of tokens need.
    """
    longest, budget = max((len(e.prompt_ids) for e in task.test), default=0), task.spec.max_new_tokens
    needed = max(positions(longest, budget), *(positions(len(e.prompt_ids), len(e.answer_ids)) for e in task.train))
    if context is not None and needed > context:
        raise ConfigError(
            f"{task.spec.name}: needs {needed} tokens (prompts up to {longest} and {budget} to be generated, or a "
            f"training example), the model's context is {context}; lower data.max_new_tokens or data.max_prompt_tokens"
        )


def metric_problems(name: str, examples: Sequence[Example]) -> list[str]:
    """List reasons against scoring these examples by the metric called `name`, each in a few words.

    They are not errors, since some published metrics have such quirks (`parity`). Raises as `self_scores` does.
    """
    low = sum(score < LEAST for score in self_scores(name, examples))
    empty = sum(_score(name, example, "") == 100 for example in examples)
    said = {
        f"{low} of {len(examples)} references score under {LEAST:.0f} against themselves by {name}": low,
        f"{empty} of {len(examples)} references give an empty prediction full marks by {name}": empty,
    }
    return [text for text, count in said.items() if count]


def _score(name: str, example: Example, prediction: str) -> float:
    try:
        return best_scores(name, [prediction], [example.accepted], [example.prompt])[0]
    except DataError as error:
        raise DataError(f"{example.id}: {error}; choose a metric that fits its answers") from None
