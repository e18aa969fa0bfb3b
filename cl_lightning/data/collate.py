"""Padded tensors from encoded examples."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from cl_lightning.data.prompt import Encoded
from cl_lightning.data.sampler import MicroBatch

#: Labels that carry no loss, as in transformers.
IGNORE = -100


def _pad(rows: Sequence[Sequence[int]], value: int, left: bool = False) -> Tensor:
    width = max(len(r) for r in rows)
    gaps = [[value] * (width - len(r)) for r in rows]
    return torch.tensor([[*g, *r] if left else [*r, *g] for g, r in zip(gaps, rows, strict=True)])


def training_batch(
    examples: Sequence[Encoded], pad_id: int, encoder_decoder: bool = False, loss_on: str = "answer"
) -> dict[str, Any]:
    """Build a right-padded batch with labels on the answer and end tokens, and on `Encoded.targets` of decoders.

    Shapes: input_ids, attention_mask, prompt_mask, own_mask, labels (B, L); for encoder-decoders labels are
    (B, L_answer). prompt_mask is 1 on the prompt, own_mask is 1 on the task's own text in it (not the template's).
    `loss_on="full"` also labels the prompt, as some published code does (decoders only).
    """
    prompts, answers = [e.prompt_ids for e in examples], [e.answer_ids for e in examples]
    if encoder_decoder:
        inputs, labels = prompts, answers
    else:
        inputs = [(*p, *a) for p, a in zip(prompts, answers, strict=True)]
        masked = [tuple(e.prompt_ids) if loss_on == "full" else _targets(e) for e in examples]
        labels = [(*m, *a) for m, a in zip(masked, answers, strict=True)]
    return {
        "input_ids": _pad(inputs, pad_id),
        "attention_mask": _pad([[1] * len(r) for r in inputs], 0),
        "prompt_mask": _own_mask([len(r) for r in inputs], [(0, len(p)) for p in prompts], False),
        "own_mask": _own_mask([len(r) for r in inputs], [e.own or (0, len(e.prompt_ids)) for e in examples], False),
        "labels": _pad(labels, IGNORE),
    }


def _targets(example: Encoded) -> tuple[int, ...]:
    """Return the labels of a prompt."""
    labels = [IGNORE] * len(example.prompt_ids)
    for start, end in example.targets:
        labels[start:end] = example.prompt_ids[start:end]
    return tuple(labels)


def prompt_batch(
    prompts: Sequence[Sequence[int]],
    pad_id: int,
    left: bool = True,
    own: Sequence[tuple[int, int] | None] | None = None,
) -> dict[str, Tensor]:
    """Pad prompts for generation; on the left for decoders, so that every continuation starts at the same column.

    `own` gives each prompt's span of the task's own tokens; own_mask is then added, as in `training_batch`.
    """
    batch = {
        "input_ids": _pad(prompts, pad_id, left),
        "attention_mask": _pad([[1] * len(p) for p in prompts], 0, left),
    }
    if own is None:
        return batch
    spans = [span or (0, len(p)) for span, p in zip(own, prompts, strict=True)]
    return {**batch, "own_mask": _own_mask([len(p) for p in prompts], spans, left)}


def _own_mask(lengths: Sequence[int], spans: Sequence[tuple[int, int]], left: bool) -> Tensor:
    rows = [[0] * a + [1] * (b - a) + [0] * (n - b) for n, (a, b) in zip(lengths, spans, strict=True)]
    return _pad(rows, 0, left)


class Collated(Dataset):
    """Turns the sampler's micro-batches into tensors, with the examples' ids."""

    def __init__(self, examples: Sequence[Encoded], pad_id: int, encoder_decoder: bool) -> None:
        self.examples, self.pad_id, self.encoder_decoder = examples, pad_id, encoder_decoder

    def __getitem__(self, micro: MicroBatch) -> dict[str, Any]:
        chosen = [self.examples[i] for i in micro.indices]
        batch = training_batch(chosen, self.pad_id, self.encoder_decoder)
        ids = [e.example.id for e in chosen]
        return {**batch, "ids": ids, "step_tokens": micro.step_tokens, "weight": micro.weight}
