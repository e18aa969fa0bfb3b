"""The device that the group runs on: the GPU where there is one, else the CPU in a small form."""

from collections.abc import Iterator

import pytest
import torch

from cl_lightning.adapters.base import AdapterStrategy
from cl_lightning.adapters.seqlora import SeqLoRA
from cl_lightning.model.backbone import Backbone
from cl_lightning.model.module import ContinualLM


@pytest.fixture(scope="session")
def device() -> torch.device:
    return torch.accelerator.current_accelerator() or torch.device("cpu")


@pytest.fixture(autouse=True)
def _plain_float32() -> Iterator[None]:
    """Products in float32 without TF32, to which float64 references can be compared."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


@pytest.fixture
def on(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    """Make a loaded random Llama on the device, held in the dtype that is asked for on any machine: on("float32")."""
    monkeypatch.setattr("cl_lightning.model.backbone.held_dtype", lambda dtype: dtype)

    def make(dtype: str, adapter: AdapterStrategy | None = None, **backbone: object) -> ContinualLM:
        module = ContinualLM(Backbone("random-llama", dtype=dtype, **backbone), adapter or SeqLoRA(rank=4, alpha=8))
        module.load(module.backbone.load_tokenizer())
        return module.to(device)

    yield make
