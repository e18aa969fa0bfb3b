"""The strategy that README shows in one file works as shown."""

import re
from collections.abc import Callable

import torch

from cl_lightning.adapters.seqlora import SeqLoRA
from cl_lightning.model.module import ContinualLM
from tests.conftest import ROOT, batch_of, random_examples


def test_the_strategy_in_the_readme_trains_b_only(tiny: Callable[..., ContinualLM]) -> None:
    shown = re.search(r"```python\n(class FrozenA.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert shown is not None
    scope = {"SeqLoRA": SeqLoRA}
    exec(shown[1], scope)
    module = tiny("float64", scope["FrozenA"](rank=4))
    module.adapter.begin_task(0, torch.Generator().manual_seed(0))
    module.sample_nll(batch_of(random_examples(3))).sum().backward()
    for layer in module.adapter.layers.values():
        assert layer.lora_A.grad is None
        assert layer.lora_B.grad.norm() > 0
