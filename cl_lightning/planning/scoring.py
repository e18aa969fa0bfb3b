"""Rehearses how a batch of prompts is scored: read, and answered token by token."""

from typing import Any

import torch
from torch.utils._pytree import tree_leaves
from transformers import Cache, PreTrainedModel
from transformers.cache_utils import EncoderDecoderCache
from transformers.utils import ModelOutput

from cl_lightning.evaluation.decode import PIECE, last_logits
from cl_lightning.evaluation.generate import is_plain
from cl_lightning.model.prefix_cache import preallocated_cache
from cl_lightning.sequence.rehearsal import Rehearsal, Size


@torch.no_grad()
def score(rehearsal: Rehearsal, size: Size) -> int:
    """Read the prompts of a batch and generate the last token of their answers. Returns the bytes of the cache.

    `size.answer` is the generation budget. Other models than decoders with a plain cache are taken to read prompts and
    answers at once, which is at most a little more than they take.
    """
    llm, rows = rehearsal.module.llm.eval(), size.rows
    ids = torch.zeros(rows, size.prompt, dtype=torch.long)
    mask = torch.ones(rows, size.prompt + size.answer, dtype=torch.long)
    prompts = {"input_ids": ids, "attention_mask": mask[:, : size.prompt], "own_mask": mask[:, : size.prompt]}
    own = rehearsal.module.adapter.forward_kwargs(prompts)
    if is_plain(llm):
        return _read_in_pieces(llm, ids, mask, own)
    if rehearsal.module.encoder_decoder:
        states = llm.get_encoder()(input_ids=ids, attention_mask=mask[:, : size.prompt])
        given: dict[str, Any] = {"encoder_outputs": states, "decoder_input_ids": ids[:, :1]}
        return cache_bytes(
            kept(llm(attention_mask=mask[:, : size.prompt], **given, use_cache=True, **own)), size.answer
        )
    return cache_bytes(kept(llm(input_ids=mask, attention_mask=mask, use_cache=True, logits_to_keep=1, **own)))


def kept(output: ModelOutput) -> Cache | list[torch.Tensor]:
    """Return what a model keeps from one token to the next, under the name that its kind has for it."""
    return next(output[name] for name in ("past_key_values", "cache_params", "state") if output.get(name) is not None)


def _read_in_pieces(llm: PreTrainedModel, ids: torch.Tensor, mask: torch.Tensor, own: dict[str, Any]) -> int:
    """As `evaluation.decode` does."""
    rows, width = ids.shape
    cache = preallocated_cache(llm, None, rows, mask.shape[1])
    piece = min(rows, max(1, PIECE // width))
    for layer in cache.layers:
        layer.focus(slice(0, piece), 0)
    part = {name: value[:piece] for name, value in own.items()}
    logits = last_logits(llm, ids[:piece], mask[:piece, :width], cache, part)
    read = logits.expand(rows, -1).float() if piece == rows else logits.new_empty(rows, logits.shape[1]).float()
    for layer in cache.layers:
        layer.focus(slice(0, rows), mask.shape[1] - 1)
    del logits, read
    last_logits(llm, ids[:, -1:], mask, cache, own).float()
    return cache_bytes(cache)


def cache_bytes(cache: Cache | list[torch.Tensor], tokens: int = 1) -> int:
    """Return the bytes of what is kept; those of an encoder-decoder's own tokens for so many instead of one."""
    if isinstance(cache, EncoderDecoderCache):
        return tokens * cache_bytes(cache.self_attention_cache) + cache_bytes(cache.cross_attention_cache)
    found = tree_leaves(cache if isinstance(cache, list) else [vars(layer) for layer in cache.layers])
    states = [value for value in found if isinstance(value, torch.Tensor)]
    return sum({t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in states}.values())
