"""Score one task: each rank predicts for its share of the test examples, and all ranks get all scores in order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from cl_lightning.common.distributed import gather, rank, world_size
from cl_lightning.evaluation.generate import generate
from cl_lightning.evaluation.likelihood import most_likely
from cl_lightning.metrics.scored import Scored, score_predictions

if TYPE_CHECKING:
    from cl_lightning.data.prompt import Encoded
    from cl_lightning.data.task_data import TaskData
    from cl_lightning.model.module import ContinualLM


def score_task(
    module: ContinualLM, task: TaskData, batch_size: int, advance: Callable[[float], None] | None = None
) -> Scored:
    """Predict the answers to the task's test prompts and score each against its best reference.

    Predictions are generated greedily, or are the most likely of the task's `labels` if it has them.

    Args:
        advance: called after each batch with the number of its prompts on this rank.
    """
    own = _predict(module, task, task.test[rank() :: world_size()], batch_size, advance)
    predictions = [""] * len(task.test)
    for r, part in enumerate(gather(own)):
        predictions[r :: world_size()] = part
    examples = [e.example for e in task.test]
    rows = [
        {"id": e.id, "prediction": p, "reference": list(e.references) or e.answer}
        for e, p in zip(examples, predictions, strict=True)
    ]
    return score_predictions(task.spec.metric, rows, [e.prompt for e in examples], task.spec.also)


def _predict(
    module: ContinualLM,
    task: TaskData,
    share: Sequence[Encoded],
    batch_size: int,
    advance: Callable[[float], None] | None,
) -> list[str]:
    llm, tokenizer, adapter = module.llm, module.tokenizer, module.adapter
    if task.labels:
        pad = tokenizer.pad_token_id
        return most_likely(llm, module.answer_logits, pad, share, task.labels, batch_size, advance)
    extra = adapter.forward_kwargs if adapter.per_sample else None
    prompts, own = [e.prompt_ids for e in share], [e.own for e in share]
    return generate(llm, tokenizer, prompts, task.spec.max_new_tokens, batch_size, own, extra, advance=advance)
