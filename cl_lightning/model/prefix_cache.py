"""The instruction that all prompts of a batch begin with, computed once: one row's keys and values serve all rows.

Exact up to rounding, since in a causal model what follows does not reach back. Only for models that keep plain keys
and values (no sliding window, no recurrent state), and only where all rows meet the same weights (no gate per row).
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from transformers import Cache, PreTrainedModel
from transformers.cache_utils import DynamicCache, DynamicLayer

from cl_lightning.data.collate import IGNORE

#: Tokens to be saved before a forward pass for the prefix alone is worth its calls.
LEAST = 64


def has_plain_cache(llm: PreTrainedModel) -> bool:
    """Whether every layer of this model keeps all its keys and values, and nothing else."""
    if llm.config.is_encoder_decoder:
        return False
    return all(type(layer) is DynamicLayer for layer in DynamicCache(config=llm.config).layers)


def common_prefix(rows: Sequence[Sequence[int]]) -> int:
    """How many leading tokens all prompts share, 0 where that saves too little; never a whole prompt."""
    first, last = min(rows), max(rows)  # the others lie between these two
    most = min(map(len, rows)) - 1
    shared = next((i for i in range(most) if first[i] != last[i]), most)
    return _worthwhile(shared, len(rows))


def common_columns(input_ids: Tensor, labels: Tensor) -> int:
    """How many leading columns are equal in all rows and predict no label. Shapes: both (B, L), right-padded."""
    equal = (input_ids == input_ids[:1]).all(0)[:-1]
    silent = (labels == IGNORE).all(0)[1:]
    return _worthwhile(int((equal & silent).cumprod(0).sum()), len(input_ids))


def _worthwhile(shared: int, rows: int) -> int:
    return shared if shared * (rows - 1) >= LEAST else 0


def prefix_cache(llm: PreTrainedModel, prefix: Tensor) -> Cache:
    """Keys and values of the prefix. Shape: prefix (1, P)."""
    return llm.base_model(input_ids=prefix, use_cache=True).past_key_values


def hidden_states(llm: PreTrainedModel, shared: int, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """Last hidden states (B, L - shared, d) after the `shared` leading columns, which run as one row."""
    cache = prefix_cache(llm, input_ids[:1, :shared])
    cache.batch_repeat_interleave(len(input_ids))
    rest = input_ids[:, shared:]
    return llm.base_model(input_ids=rest, attention_mask=attention_mask, past_key_values=cache).last_hidden_state


class RoomyLayer(DynamicLayer):
    """Keys and values in a buffer of `rows` rows and `room` columns, instead of copied into a longer one at each token.

    Some rows can be filled before the others (`focus`), and rows can be dropped (`keep`). What is not written is 0, so
    that a masked column adds nothing.
    """

    def __init__(self, rows: int, room: int) -> None:
        super().__init__()
        self.size = rows, room
        self.window, self.length = slice(0, rows), 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        rows, room = self.size
        self.dtype, self.device = key_states.dtype, key_states.device
        self._buffers = [t.new_zeros((rows, t.shape[1], room, t.shape[3])) for t in (key_states, value_states)]
        self.is_initialized = True
        self.focus(self.window, self.length)

    def focus(self, window: slice, length: int) -> None:
        """Go on with these rows, whose first `length` columns are there."""
        self.window, self.length = window, length
        if self.is_initialized:
            self.keys, self.values = (b[window, :, :length] for b in self._buffers)

    def keep(self, rows: Tensor) -> None:
        """Drop all rows but these, in rising order. Shape: rows (K,)."""
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


def roomy_cache(llm: PreTrainedModel, prefix: Cache | None, rows: int, room: int) -> Cache:
    """A cache for generating up to `room` columns in all, which begins with the prefix in every row."""
    cache = Cache(layers=[RoomyLayer(rows, room) for _ in DynamicCache(config=llm.config).layers])
    for layer, start in zip(cache.layers, prefix.layers if prefix is not None else (), strict=False):
        layer.update(*(t.expand(rows, *t.shape[1:]) for t in (start.keys, start.values)))
    return cache
