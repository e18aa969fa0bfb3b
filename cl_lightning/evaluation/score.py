"""Score one task: every rank generates its share, all ranks hold all scores, in order."""

from collections.abc import Callable

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from cl_lightning.data.task_sequence import TaskData
from cl_lightning.distributed import gather, rank, world_size
from cl_lightning.evaluation.generate import generate
from cl_lightning.evaluation.rows import Scored, score_rows


def score_task(
    llm: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: TaskData,
    batch_size: int,
    extra: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None,
) -> Scored:
    """Generate greedily for the task's test prompts and compare with the whole references, the best of several."""
    share = task.test[rank() :: world_size()]
    prompts, own = [e.prompt_ids for e in share], [e.own for e in share]
    texts = generate(llm, tokenizer, prompts, task.spec.max_new_tokens, batch_size, own, extra)
    predictions = [""] * len(task.test)
    for r, part in enumerate(gather(texts)):
        predictions[r :: world_size()] = part
    examples = [e.example for e in task.test]
    rows = [
        {"id": e.id, "prediction": p, "reference": list(e.references) or e.answer}
        for e, p in zip(examples, predictions, strict=True)
    ]
    return score_rows(task.spec.metric, rows, [e.prompt for e in examples])
