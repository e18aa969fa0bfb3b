"""Tensors of a run folder: read, and branches put back into a strategy, or told in one line to be none of it."""

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
    """A file of named tensors. Raises StateError as `read_checked`, and where it is no such file."""
    data = read_checked(path, record, name, remedy)
    try:
        return load(data)
    except SafetensorError as error:
        raise StateError(f"{path / name}: damaged ({error}); {remedy}") from None


def restore_branches(
    adapter: AdapterStrategy, path: Path, record: dict[str, Any], tasks: Sequence[str], remedy: str = REMEDY
) -> None:
    """Rebuild the strategy as it was after `tasks`. Raises StateError as `read_tensors`, and where they do not fit."""
    states = [read_tensors(path, record, adapter_file(task), remedy) for task in tasks]
    under = read_tensors(path, record, START, remedy) if START in record["files"] else None
    try:
        if under is not None:
            adapter.put_under(under)
        adapter.restore(states)
    except torch.OutOfMemoryError:
        raise
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        told = f"do not fit {type(adapter).__name__}: {type(error).__name__}: {' '.join(str(error).split())}"
        raise StateError(f"{path / 'adapters'}: damaged (the branches {told}); {remedy}") from error
