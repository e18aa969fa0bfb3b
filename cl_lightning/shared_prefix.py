"""The instruction that all prompts of a batch begin with, computed once: one row's keys and values serve all rows.

Exact up to rounding: in a causal model what follows does not reach back. Only for models that keep plain keys and
values (no sliding window, no recurrent state).
"""

import copy
from collections.abc import Sequence

from torch import Tensor
from transformers import Cache, PreTrainedModel
from transformers.cache_utils import DynamicCache, DynamicLayer


def common_prefix(rows: Sequence[Sequence[int]]) -> int:
    """How many leading tokens all rows have in common; never a whole row."""
    first, last, shortest = min(rows), max(rows), min(map(len, rows))  # all others lie between these two
    return next((i for i in range(shortest - 1) if first[i] != last[i]), shortest - 1)


def has_plain_cache(llm: PreTrainedModel) -> bool:
    """Whether every layer of this model keeps all keys and values, and nothing else."""
    if llm.config.is_encoder_decoder:
        return False
    cache = DynamicCache(config=llm.config)
    return all(type(layer) is DynamicLayer for layer in cache.layers)


def prefix_cache(llm: PreTrainedModel, prefix: Tensor) -> Cache:
    """Keys and values of the prefix. Shape: prefix (1, P)."""
    return llm.base_model(input_ids=prefix, use_cache=True).past_key_values


def repeated(cache: Cache, rows: int) -> Cache:
    """A copy of a one-row cache for `rows` rows, to be grown on its own; gradients flow back to the original."""
    cache = copy.copy(cache)
    cache.layers = [copy.copy(layer) for layer in cache.layers]
    cache.batch_repeat_interleave(rows)
    return cache
