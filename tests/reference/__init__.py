"""Outputs of the authors' codes, to compare with. README.md says which code, which commit, and under what settings."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

FOLDER = Path(__file__).parent


def tensors(name: str) -> dict[str, Tensor]:
    """The arrays of `<name>.npz`, in their own dtypes."""
    with np.load(FOLDER / f"{name}.npz", allow_pickle=False) as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays.files}


def facts(name: str) -> dict[str, Any]:
    """The settings and figures of `<name>.json`."""
    return json.loads((FOLDER / f"{name}.json").read_text())
