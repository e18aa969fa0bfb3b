"""Score one task: each rank predicts for its share of the test examples, and all ranks get all scores in order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from cl_lightning.common.distributed import gather, rank, world_size
from cl_lightning.evaluation.generate import generate, is_plain
from cl_lightning.evaluation.likelihood import Choice, most_likely
from cl_lightning.metrics.scored import CONSTRAINED, Scored, score_predictions
from cl_lightning.model.sharding import in_step

if TYPE_CHECKING:
    from cl_lightning.data.prompt import Encoded
    from cl_lightning.data.task_data import TaskData
    from cl_lightning.model.module import ContinualLM

Share = Sequence["Encoded"]
Advance = Callable[[float], None] | None


def score_task(
    module: ContinualLM, task: TaskData, batch_size: int, advance: Callable[[float], None] | None = None
) -> Scored:
    """Predict the answers to the task's test prompts and score each against its best reference.

    Predictions are generated greedily, or are the most likely of the task's `labels` if it has them. With `task.both`
    they are generated, and the score of the most likely label is the further metric CONSTRAINED.

    Args:
        advance: called after each batch with the number of its prompts on this rank.
    """
    predict = _both if task.both and task.labels else _chosen if task.labels else _generated
    found: list[tuple[str, ...]] = [()] * len(task.test)
    with in_step(module.llm):
        mine = predict(module, task, task.test[rank() :: world_size()], batch_size, advance)
    for r, part in enumerate(gather(mine)):
        found[r :: world_size()] = part
    first, *second = map(list, zip(*found, strict=True))
    scored = _scored(task, first)
    if not second:
        return scored
    constrained = (row["score"] for row in _scored(task, second[0]).rows)
    also = [
        {**row, "also": {**row.get("also", {}), CONSTRAINED: score}}
        for row, score in zip(scored.rows, constrained, strict=True)
    ]
    return replace(scored, rows=also)


def _scored(task: TaskData, predictions: Sequence[str]) -> Scored:
    examples = [e.example for e in task.test]
    rows = [
        {"id": e.id, "prediction": p, "reference": list(e.references) or e.answer}
        for e, p in zip(examples, predictions, strict=True)
    ]
    return score_predictions(task.spec.metric, rows, [e.prompt for e in examples], task.spec.also)


def _chosen(module: ContinualLM, task: TaskData, share: Share, size: int, advance: Advance) -> list[tuple[str, ...]]:
    pad = module.tokenizer.pad_token_id
    return [(label,) for label in most_likely(module.llm, module.answer_logits, pad, share, task.labels, size, advance)]


def _generated(
    module: ContinualLM, task: TaskData, share: Share, size: int, advance: Advance, read: Choice | None = None
) -> list[tuple[str, ...]]:
    llm, tokenizer, adapter = module.llm, module.tokenizer, module.adapter
    extra = adapter.forward_kwargs if adapter.per_sample else None
    prompts, own = [e.prompt_ids for e in share], [e.own for e in share]
    most = task.spec.max_new_tokens
    rows = module.most_prompts(size)
    texts = generate(llm, tokenizer, prompts, most, rows, own, extra, advance=advance, read=read)
    return [(text,) for text in texts]


def _both(module: ContinualLM, task: TaskData, share: Share, size: int, advance: Advance) -> list[tuple[str, ...]]:
    """Generated answers and most likely labels, from one reading of the prompts where the model allows it."""
    if is_plain(module.llm) and max(map(len, task.labels.values())) <= task.spec.max_new_tokens:
        choice = Choice(task.labels, len(share))
        generated, labels = _generated(module, task, share, size, advance, choice), choice.chosen
    else:
        generated = _generated(module, task, share, size, advance)
        labels = [label for (label,) in _chosen(module, task, share, size, None)]
    return [(text, label) for (text,), label in zip(generated, labels, strict=True)]
