"""Read tensors of a run folder, and restore a strategy's branches from them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from cl_lightning.adapters.base import AdapterStrategy
from cl_lightning.common.errors import StateError
from cl_lightning.sequence.folder import adapter_file, read_checked


def read_tensors(path: Path, record: dict[str, Any], name: str) -> dict[str, Tensor]:
    """Read a file of named tensors. Raises StateError like `read_checked`, and if it is malformed."""
    data = read_checked(path, record, name)
    try:
        return load(data)
    except SafetensorError as error:
        raise StateError(f"{path / name}: damaged ({error}); restore it, or start over with FRESH=1") from None


def restore_branches(adapter: AdapterStrategy, path: Path, record: dict[str, Any], tasks: Sequence[str]) -> None:
    """Restore the strategy to its state after `tasks`. Raises StateError like `read_tensors`, or if they do not fit."""
    states = [read_tensors(path, record, adapter_file(task)) for task in tasks]
    try:
        adapter.restore(states)
    except torch.OutOfMemoryError:
        raise
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        fault = f"do not fit {type(adapter).__name__}: {type(error).__name__}: {' '.join(str(error).split())}"
        raise StateError(
            f"{path / 'adapters'}: damaged (the branches {fault}); restore them, or start over with FRESH=1"
        ) from error
