"""Compute the prefix that all prompts of a batch share once, and use its keys and values for all rows.

Exact up to rounding, since in a causal model a prefix does not depend on later tokens. Only for models that cache plain
keys and values (no sliding window, no recurrent state) and apply the same weights to all rows (no per-sample gates).
"""

from collections.abc import Sequence
from inspect import signature
from typing import Any

from torch import Tensor
from transformers import Cache, PreTrainedModel
from transformers.cache_utils import DynamicCache, DynamicLayer

from cl_lightning.data.collate import IGNORE

#: Least number of saved tokens that is worth a separate forward pass for the prefix.
LEAST = 64


def has_plain_cache(llm: PreTrainedModel) -> bool:
    """Return whether every layer caches all its keys and values, and nothing else."""
    if llm.config.is_encoder_decoder or llm.config.get_text_config() is not llm.config:
        return False  # models of images too may count positions from their last call (Qwen2-VL)
    if "past_key_values" not in signature(llm.base_model.forward).parameters:  # RWKV, GPT-1
        return False
    return all(type(layer) is DynamicLayer for layer in DynamicCache(config=llm.config).layers)


def common_prefix(prompts: Sequence[Sequence[int]]) -> int:
    """Count the leading tokens that all prompts share, never a whole prompt; 0 if sharing them saves too little."""
    first, last = min(prompts), max(prompts)  # a prefix of both is a prefix of all between them
    most = min(map(len, prompts)) - 1
    shared = next((i for i in range(most) if first[i] != last[i]), most)
    return _worthwhile(shared, len(prompts))


def common_columns(input_ids: Tensor, labels: Tensor) -> int:
    """Count the leading columns that are equal in all rows and predict no label. Shapes: both (B, L), right-padded."""
    equal = (input_ids == input_ids[:1]).all(0)[:-1]
    unlabelled = (labels == IGNORE).all(0)[1:]
    return _worthwhile(int((equal & unlabelled).cumprod(0).sum()), len(input_ids))


def _worthwhile(shared: int, rows: int) -> int:
    return shared if shared * (rows - 1) >= LEAST else 0


def prefix_cache(llm: PreTrainedModel, prefix: Tensor) -> Cache:
    """Compute the keys and values of the prefix. Shape: prefix (1, P)."""
    return llm.base_model(input_ids=prefix, use_cache=True).past_key_values


def hidden_states(llm: PreTrainedModel, shared: int, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """Compute the last hidden states (B, L - shared, d) after the `shared` leading columns, which run as one row."""
    cache = prefix_cache(llm, input_ids[:1, :shared])
    cache.batch_repeat_interleave(len(input_ids))
    rest = input_ids[:, shared:]
    return llm.base_model(input_ids=rest, attention_mask=attention_mask, past_key_values=cache).last_hidden_state


class PreallocatedLayer(DynamicLayer):
    """Keys and values in a preallocated buffer of `rows` x `columns`, instead of one that is copied at each token.

    Rows can be filled in parts (`focus`) and dropped (`keep`). Unwritten entries are 0, so that masked columns add
    nothing.
    """

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        self.size = rows, columns
        self.window, self.length = slice(0, rows), 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        rows, columns = self.size
        self.dtype, self.device = key_states.dtype, key_states.device
        self._buffers = [t.new_zeros((rows, t.shape[1], columns, t.shape[3])) for t in (key_states, value_states)]
        self.is_initialized = True
        self.focus(self.window, self.length)

    def focus(self, window: slice, length: int) -> None:
        """Select the rows that `update` fills next; their first `length` columns are filled already."""
        self.window, self.length = window, length
        if self.is_initialized:
            self.keys, self.values = (b[window, :, :length] for b in self._buffers)

    def keep(self, rows: Tensor) -> None:
        """Keep only these rows, given in ascending order. Shape: rows (K,)."""
        self._buffers = [self._moved(buffer, rows) for buffer in self._buffers]
        self.focus(slice(0, len(rows)), self.length)

    def _moved(self, buffer: Tensor, rows: Tensor) -> Tensor:
        buffer[: len(rows), :, : self.length] = buffer[rows, :, : self.length]
        return buffer[: len(rows)]

    def get_seq_length(self) -> int:
        return self.length

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        end = self.length + key_states.shape[2]
        for buffer, new in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[self.window, :, self.length : end] = new
        self.focus(self.window, end)
        return self.keys, self.values


def preallocated_cache(llm: PreTrainedModel, prefix: Cache | None, rows: int, columns: int) -> Cache:
    """Make a cache of `rows` sequences of up to `columns` tokens that all begin with the prefix."""
    cache = Cache(layers=[PreallocatedLayer(rows, columns) for _ in DynamicCache(config=llm.config).layers])
    for layer, start in zip(cache.layers, prefix.layers if prefix is not None else (), strict=False):
        layer.update(*(t.expand(rows, *t.shape[1:]) for t in (start.keys, start.values)))
    return cache
