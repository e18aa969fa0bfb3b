"""Log-likelihoods of answers, computed by the model's training path, so that gates pool over the prompt only.

Used by lm-eval's tasks, and to score tasks with a closed label set without generating.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from cl_lightning.data.collate import training_batch
from cl_lightning.data.prompt import Encoded
from cl_lightning.evaluation.decode import Prompts

#: A batch of `data.collate.training_batch` -> logits (N, V) of its labelled tokens, tokens (N,), their samples (N,).
LabelLogits = Callable[[dict[str, Any]], tuple[Tensor, Tensor, Tensor]]


@torch.no_grad()
def log_likelihoods(
    llm: PreTrainedModel,
    answer_logits: LabelLogits,
    pad_id: int,
    samples: Sequence[Encoded],
    batch_size: int,
    advance: Callable[[int], None] | None = None,
) -> list[tuple[float, bool]]:
    """Compute log p(answer | prompt) of each sample in nats, and whether the answer is the greedy continuation.

    Answers to one prompt that differ only in their last token (A, B, C, D) share one forward pass. The model's train
    mode is restored.

    Args:
        answer_logits: the model's forward pass with the head at labels only, gates included.
        batch_size: sequences per forward pass.
        advance: called after each forward pass with the number of samples in it.
    """
    alike: dict[tuple[tuple[int, ...], tuple[int, ...]], list[int]] = {}
    for index, sample in enumerate(samples):
        alike.setdefault((sample.prompt_ids, sample.answer_ids[:-1]), []).append(index)
    groups = sorted(alike.values(), key=lambda g: -samples[g[0]].length)
    found: list[tuple[float, bool]] = [(0.0, False)] * len(samples)
    training = llm.training
    llm.eval()
    try:
        for start in range(0, len(groups), batch_size):
            chunk = groups[start : start + batch_size]
            rows = [replace(samples[group[0]], targets=()) for group in chunk]  # the answer alone
            batch = training_batch(rows, pad_id, llm.config.is_encoder_decoder)
            batch = {key: value.to(llm.device) for key, value in batch.items()}
            logits, labels, owner = answer_logits(batch)
            for place, group in enumerate(chunk):
                mine = owner == place
                scores, tokens = logits[mine].log_softmax(-1), labels[mine]
                before = scores[:-1].gather(1, tokens[:-1, None]).sum()
                greedy = bool((scores[:-1].argmax(-1) == tokens[:-1]).all())
                last = scores[-1]
                for index in group:
                    token = samples[index].answer_ids[-1]
                    found[index] = float(before + last[token]), greedy and int(last.argmax()) == token
            if advance is not None:
                advance(sum(map(len, chunk)))
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
    advance: Callable[[float], None] | None = None,
) -> list[str]:
    """Choose the label of highest log p(label and end token | prompt) for each prompt; the first one in a tie.

    Args:
        labels: the closed label set with token ids that end in the end token, so that a label which is a prefix of
            another has no advantage.
        advance: called after each forward pass with the number of prompts in it.
    """
    samples = [replace(prompt, answer_ids=ids) for prompt in prompts for ids in labels.values()]
    share = None if advance is None else lambda count: advance(count / len(labels))
    found = iter(log_likelihoods(llm, answer_logits, pad_id, samples, batch_size, share))
    return [max([(label, next(found)[0]) for label in labels], key=lambda pair: pair[1])[0] for _ in prompts]


class Choice:
    """Chooses the most likely of some labels for each prompt while answers are generated: `generate(.., read=..)`.

    The model reads the prompts once for both. Values are those of `most_likely`, up to rounding.

    Attributes:
        chosen: a label for each prompt.
    """

    def __init__(self, labels: Mapping[str, tuple[int, ...]], prompts: int) -> None:
        self.labels, self.chosen = labels, [""] * prompts

    def __call__(self, indices: Sequence[int], prompts: Prompts) -> None:
        """Choose for a batch; `indices` are its places in `chosen`."""
        scores = torch.stack([prompts.log_likelihoods(ids) for ids in self.labels.values()])
        names = list(self.labels)
        for index, best in zip(indices, scores.argmax(0).tolist(), strict=True):
            self.chosen[index] = names[best]
