"""Memory-efficient greedy decoding of large batches, called by transformers' `generate` in place of its own loop.

Prompts are read a few rows at a time, which bounds the memory for activations, and without their padding; rows that
have ended are dropped. Only for models without effective generation settings
(`model.generation_settings.effective_settings`), whose logits processors may hold state for every row.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, GenerationConfig, LogitsProcessorList, PreTrainedModel, StoppingCriteriaList

#: Prompt tokens per forward pass. Twice as many are at most a few percent faster and need twice the memory.
PIECE = 1024
#: Share of the rows that must have ended before they are dropped, since moving the others has a cost.
ENDED = 1 / 4
#: Arguments of the model that are computed here for each forward pass.
COMPUTED = {"input_ids", "attention_mask", "position_ids", "cache_position", "past_key_values", "logits_to_keep"}


def decode(
    model: PreTrainedModel,
    input_ids: Tensor,
    logits_processor: LogitsProcessorList,
    stopping_criteria: StoppingCriteriaList,
    generation_config: GenerationConfig,
    read: "Callable[[Prompts], None] | None" = None,
    **given: Any,
) -> Tensor:
    """Generate greedily, as a `custom_generate` of transformers.

    Args:
        input_ids: prompts (B, L): first the tokens already in the cache, the same in all rows, then left padding.
        read: called when the prompts are read, before the first token is chosen.
        given: arguments of the model: `past_key_values` of `model.prefix_cache.preallocated_cache` with space for all
            columns, `attention_mask`, and per-sample arguments (gates (B, ..)).

    Returns:
        Prompts and their continuations (B, L + new), padded after the end token.
    """
    cache, mask = given["past_key_values"], given["attention_mask"]
    if mask is None:  # `generate` omits a mask of ones
        mask = torch.ones_like(input_ids)
    pad = generation_config._pad_token_tensor
    own = {k: v for k, v in given.items() if isinstance(v, Tensor) and k in _accepted(model) - COMPUTED}
    logits = _read(model, input_ids, mask, cache, own)
    if read is not None:
        read(Prompts(model, cache, mask, logits, own))
    rows = torch.arange(len(input_ids), device=input_ids.device)
    ended = torch.zeros_like(rows, dtype=torch.bool)
    made = input_ids.new_full((len(rows), stopping_criteria.max_length), int(pad))
    ids = input_ids
    while True:
        token = logits_processor(ids, logits.float()).argmax(-1)
        ids = torch.cat([ids, torch.where(ended, pad, token)[:, None]], dim=1)
        made[rows, ids.shape[1] - 1] = ids[:, -1]
        ended = ended | stopping_criteria(ids, None)
        count = int(ended.sum())
        if count == len(rows):
            made[:, : input_ids.shape[1]] = input_ids
            return made[:, : ids.shape[1]]
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
        if count >= ENDED * len(rows):
            left = (~ended).nonzero()[:, 0]
            for layer in cache.layers:
                layer.keep(left)
            rows, ids, mask, ended = (t[left] for t in (rows, ids, mask, ended))
            own = {name: value[left] for name, value in own.items()}
        logits = last_logits(model, ids[:, -1:], mask, cache, own)


@dataclass(frozen=True)
class Prompts:
    """A batch of prompts that the model has read, (B, L) with their padding.

    Attributes:
        model: the model, in eval mode.
        cache: their keys and values.
        mask: (B, L).
        logits: of the first answer token, (B, V).
        own: per-sample arguments of the model.
    """

    model: PreTrainedModel
    cache: Cache
    mask: Tensor
    logits: Tensor
    own: dict[str, Tensor]

    def log_likelihoods(self, answer: Sequence[int]) -> Tensor:
        """Compute log p(answer | prompt) of each prompt in nats, (B,). The cache is as before afterwards."""
        rows, length = self.mask.shape
        tokens = torch.tensor(answer, device=self.mask.device)
        scores = self.logits.float().log_softmax(-1)[:, tokens[0]]
        if len(tokens) == 1:
            return scores
        said = tokens[:-1].expand(rows, -1)
        mask = torch.cat([self.mask, torch.ones_like(said)], dim=1)
        logits = _logits(self.model, said, mask, self.cache, self.own, torch.arange(len(tokens) - 1).to(tokens))
        for layer in self.cache.layers:
            layer.focus(slice(0, rows), length)
        later = logits.float().log_softmax(-1).gather(2, tokens[1:].expand(rows, -1)[..., None])
        return scores + later.sum((1, 2))


def takes_positions(model: PreTrainedModel) -> bool:
    """Return whether the model accepts position ids and can compute the last logits only."""
    return {"position_ids", "logits_to_keep"} <= _accepted(model)


def _accepted(model: PreTrainedModel) -> set[str]:
    return set(inspect.signature(type(model).forward).parameters)


def _read(model: PreTrainedModel, ids: Tensor, mask: Tensor, cache: Cache, own: dict[str, Tensor]) -> Tensor:
    """Fill the cache with the prompts, a few rows at a time. Returns the logits (B, V) of the next tokens."""
    held, width = cache.get_seq_length(), ids.shape[1]
    padding = width - held - mask[:, held:].sum(1)  # in each row, between the cached tokens and its own
    out, first = [], 0
    while first < len(ids):
        begin = held + int(padding[first])
        last = first + 1
        # Neighbours have similar lengths: add rows while the piece stays within its size.
        while last < len(ids):
            joint = min(begin, held + int(padding[last]))
            if (last + 1 - first) * (width - joint) > PIECE:
                break
            begin, last = joint, last + 1
        part = slice(first, last)
        for layer in cache.layers:
            layer.focus(part, begin)
        mine = {name: value[part] for name, value in own.items()}
        out.append(last_logits(model, ids[part, begin:], mask[part], cache, mine))
        first = last
    for layer in cache.layers:
        layer.focus(slice(0, len(ids)), width)
    return torch.cat(out)


def last_logits(model: PreTrainedModel, new: Tensor, mask: Tensor, cache: Cache, own: dict[str, Tensor]) -> Tensor:
    """Compute the logits (B, V) after the `new` tokens (B, n), the last of the columns that `mask` covers."""
    # An index copies the last hidden states; a count would give a view, for which the output layer's product copies
    # the whole embedding once per row.
    last = torch.tensor([new.shape[1] - 1], device=new.device)
    return _logits(model, new, mask, cache, own, last)[:, -1]


def _logits(
    model: PreTrainedModel, new: Tensor, mask: Tensor, cache: Cache, own: dict[str, Tensor], kept: Tensor
) -> Tensor:
    """Compute the logits (B, k, V) after the tokens of `new` (B, n) at the indices `kept` (k,)."""
    positions = (mask.cumsum(1) - 1).clamp_min(0)[:, -new.shape[1] :]
    return model(
        input_ids=new,
        attention_mask=mask,
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=kept,
        **own,
    ).logits
