"""A model without data: tensors with shapes and dtypes alone, on which forward and backward passes cost no memory.

PyTorch's fake tensors carry out every operation on shapes. An operation whose result depends on values is refused, but
for those that `Assumed` answers.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
    UnsupportedOperatorException,
)
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import PreTrainedModel

from cl_lightning.common.errors import ConfigError


class Assumed(TorchFunctionMode):
    """Answers what depends on values: conditions hold, masks are true, and one expert reads all tokens.

    Attributes:
        labelled: number of places in which a mask of a batch (of two dimensions or more) is true instead.
    """

    def __init__(self) -> None:
        super().__init__()
        self.labelled = 1

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.__bool__:
            return True
        if func is torch._grouped_mm:  # without data, in bfloat16 alone
            return args[0] @ args[1][0]
        if func is Tensor.nonzero:
            return torch.zeros(self._true(args[0]), args[0].dim(), dtype=torch.long)
        if func is Tensor.__getitem__ and isinstance(args[1], Tensor) and args[1].dtype == torch.bool:
            return args[0][tuple(torch.zeros(self._true(args[1]), dtype=torch.long) for _ in range(args[1].dim()))]
        return func(*args, **(kwargs or {}))

    def _true(self, mask: Tensor) -> int:
        return self.labelled if mask.dim() > 1 else mask.numel()


@contextmanager
def without_data(name: str) -> Iterator[Assumed]:
    """Make every tensor inside one without data. Yields what is assumed of masks.

    Args:
        name: of the model, for messages.

    Raises:
        ConfigError: the model's code needs values.
    """
    try:
        with FakeTensorMode(), Assumed() as assumed:
            yield assumed
    except (DataDependentOutputException, DynamicOutputShapeException, UnsupportedOperatorException) as error:
        raise ConfigError(
            f"model.backbone.name: what {name} takes cannot be planned, since its code reads values of tensors "
            f"({' '.join(str(error).split())[:80]}); run a few steps instead: --trainer.max_steps=4"
        ) from None


class _Operations(TorchDispatchMode):
    """Lists the operations that compute something, views aside."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "aten" and not func.is_view:
            self.names.append(str(func))
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def head_adds_nothing(llm: PreTrainedModel) -> bool:
    """Return whether logits are the output head of the last hidden state and nothing more, by the operations alone.

    What `model.try_out.head_is_plain` finds by values.
    """
    if llm.config.is_encoder_decoder:
        return False
    hidden: list[tuple[Tensor, int]] = []
    with _Operations() as all_of_it:

        def note(module: Any, inputs: Any, output: Any) -> None:
            hidden.append((output[0], len(all_of_it.names)))

        hook = llm.base_model.register_forward_hook(note)
        llm(input_ids=torch.ones(2, 4, dtype=torch.long), use_cache=False)
        hook.remove()
    states, before = hidden[-1]
    with _Operations() as head:
        llm.get_output_embeddings()(states)
    return all_of_it.names[before:] == head.names


class _Uses(TorchFunctionMode):
    """Notices whether anything is computed of a tensor."""

    def __init__(self, tensor: Tensor) -> None:
        super().__init__()
        self.tensor, self.used = tensor, False

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [*args, *(kwargs or {}).values()]
        self.used = self.used or any(one is self.tensor for one in given)
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def reads_mask(llm: PreTrainedModel) -> bool:
    """Return whether the model's code reads the mask of padding at all; RWKV's does not.

    What `model.in_batches.generates_in_batches` finds by values, as far as operations show it.
    """
    ids = torch.ones(2, 4, dtype=torch.long)
    mask = torch.ones_like(ids)
    own = {"decoder_input_ids": ids} if llm.config.is_encoder_decoder else {}
    with _Uses(mask) as uses:
        llm(input_ids=ids, attention_mask=mask, use_cache=False, **own)
    return uses.used
