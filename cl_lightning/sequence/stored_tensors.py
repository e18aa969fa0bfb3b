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
from cl_lightning.sequence.folder import REMEDY, START, adapter_file, read_checked


def read_tensors(path: Path, record: dict[str, Any], name: str, remedy: str = REMEDY) -> dict[str, Tensor]:
    """Read a file of named tensors. Raises StateError like `read_checked`, and if it is malformed."""
    data = read_checked(path, record, name, remedy)
    try:
        return load(data)
    except SafetensorError as error:
        raise StateError(f"{path / name}: damaged ({error}); {remedy}") from None


def restore_branches(
    adapter: AdapterStrategy, path: Path, record: dict[str, Any], tasks: Sequence[str], remedy: str = REMEDY
) -> None:
    """Restore the strategy to its state after `tasks`. Raises StateError like `read_tensors`, or if they do not fit."""
    states = [read_tensors(path, record, adapter_file(task), remedy) for task in tasks]
    under = read_tensors(path, record, START, remedy) if START in record["files"] else None
    try:
        if under is not None:
            adapter.freeze_under_tasks(under)
        adapter.restore(states)
    except torch.OutOfMemoryError:
        raise
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        fault = f"do not fit {type(adapter).__name__}: {type(error).__name__}: {' '.join(str(error).split())}"
        raise StateError(f"{path / 'adapters'}: damaged (the branches {fault}); {remedy}") from error
