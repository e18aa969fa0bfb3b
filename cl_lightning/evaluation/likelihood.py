"""Log-likelihoods of answers, through the model's own training path: gates pool over the prompt only.

What lm-eval's tasks ask for, and how a task with a closed label set can be scored without generating.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from cl_lightning.data.collate import training_batch
from cl_lightning.data.prompt import Encoded

#: A batch of `data.collate.training_batch` -> logits (N, V) of its labelled tokens, these (N,), their samples (N,).
LabelLogits = Callable[[dict[str, Any]], tuple[Tensor, Tensor, Tensor]]


@torch.no_grad()
def log_likelihoods(
    llm: PreTrainedModel, answer_logits: LabelLogits, pad_id: int, rows: Sequence[Encoded], batch_size: int
) -> list[tuple[float, bool]]:
    """log p(answer | prompt) of each row in nats, summed over its tokens, and whether it is the greedy continuation.

    Answers to one prompt that differ in their last token only (A, B, C, D) need one forward pass. The model's train
    mode is restored.

    Args:
        answer_logits: the model's forward pass with the head at labels only, gates included.
        batch_size: sequences per forward pass.
    """
    alike: dict[tuple[tuple[int, ...], tuple[int, ...]], list[int]] = {}
    for index, row in enumerate(rows):
        alike.setdefault((row.prompt_ids, row.answer_ids[:-1]), []).append(index)
    groups = sorted(alike.values(), key=lambda g: -rows[g[0]].length)
    found: list[tuple[float, bool]] = [(0.0, False)] * len(rows)
    training = llm.training
    llm.eval()
    try:
        for start in range(0, len(groups), batch_size):
            chunk = groups[start : start + batch_size]
            batch = training_batch([rows[group[0]] for group in chunk], pad_id, llm.config.is_encoder_decoder)
            batch = {key: value.to(llm.device) for key, value in batch.items()}
            logits, labels, sample = answer_logits(batch)
            for place, group in enumerate(chunk):
                mine = sample == place
                scores, tokens = logits[mine].log_softmax(-1), labels[mine]
                before = scores[:-1].gather(1, tokens[:-1, None]).sum()
                greedy = bool((scores[:-1].argmax(-1) == tokens[:-1]).all())
                last = scores[-1]
                for index in group:
                    token = rows[index].answer_ids[-1]
                    found[index] = float(before + last[token]), greedy and int(last.argmax()) == token
    finally:
        llm.train(training)
    return found


def most_likely(
    llm: PreTrainedModel,
    answer_logits: LabelLogits,
    pad_id: int,
    prompts: Sequence[Encoded],
    labels: Mapping[str, tuple[int, ...]],
    batch_size: int,
) -> list[str]:
    """The label of highest log p(label and end token | prompt) for each prompt; the first of equals.

    Args:
        labels: the closed label set, each with its token ids, the end token last: so that a label which begins
            another one has no advantage.
    """
    rows = [replace(prompt, answer_ids=ids) for prompt in prompts for ids in labels.values()]
    found = iter(log_likelihoods(llm, answer_logits, pad_id, rows, batch_size))
    return [max([(label, next(found)[0]) for label in labels], key=lambda pair: pair[1])[0] for _ in prompts]
