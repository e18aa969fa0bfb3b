"""Score one task: every rank generates its share, all ranks hold all scores, in order."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from cl_lightning.data.task_sequence import TaskData
from cl_lightning.distributed import gather, rank, world_size
from cl_lightning.evaluation.bootstrap import Interval, interval
from cl_lightning.evaluation.generate import generate
from cl_lightning.evaluation.text import best_scores, mean_score


@dataclass(frozen=True)
class Scored:
    """A task's mean score (0..100), its 95 % interval, and a row per test example: id, prediction, reference, score."""

    score: float
    interval: Interval
    rows: list[dict[str, object]]


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
    # Predictions are stripped, so references must be: some of TRACE's code lines end in a blank.
    references = [[answer.strip() for answer in e.accepted] for e in examples]
    scores = best_scores(task.spec.metric, predictions, references, [e.prompt for e in examples])
    rows = [
        {"id": e.id, "prediction": p, "reference": list(e.references) or e.answer, "score": s}
        for e, p, s in zip(examples, predictions, scores, strict=True)
    ]
    return Scored(mean_score(scores), interval(scores), rows)
