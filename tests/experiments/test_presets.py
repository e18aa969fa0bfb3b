"""The published code's choices under one name, on top of an experiment."""

from pathlib import Path

import pytest
import torch
import yaml

from cl_lightning.model.optimizer import eps_before_correction
from tests.commands.test_cli import configs, parse
from tests.conftest import ROOT

PRESETS = sorted((ROOT / "experiments" / "presets").glob("*.yaml"))


@pytest.mark.parametrize("path", PRESETS, ids=lambda p: p.stem)
def test_a_preset_sets_its_options_and_leaves_the_experiments(path: Path) -> None:
    cli = parse(*configs("superni_gainlora_inflora"), f"--config={path}")
    wanted = yaml.safe_load(path.read_text())
    config = yaml.safe_load(cli.resolved())
    adapter = config["model"]["adapter"]["init_args"]
    assert adapter == adapter | wanted["model"]["adapter"]["init_args"]
    assert adapter["branches"]["class_path"].endswith("InfLoRA")
    assert adapter["branches"]["init_args"]["alpha"] == 32
    for slot, options in wanted["boundary"].items():
        found = config["boundary"][slot]["init_args"]
        assert found == found | options["init_args"]
        assert found["share"] == 0.995


def test_eps_counts_before_the_bias_correction() -> None:
    """Against the optimizer of transformers 4, written from its equation; gradients so small that eps matters."""
    p = torch.nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
    optimizer = torch.optim.AdamW([p], lr=0.01, weight_decay=0.0)
    optimizer.register_step_pre_hook(eps_before_correction)
    value, m, v = p.detach().clone(), torch.zeros(2).double(), torch.zeros(2).double()
    for t in range(1, 6):
        g = torch.tensor([1e-8, -3e-8], dtype=torch.float64) * t
        p.grad = g.clone()
        optimizer.step()
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        value -= 0.01 * (1 - 0.999**t) ** 0.5 / (1 - 0.9**t) * m / (v.sqrt() + 1e-8)
        assert torch.allclose(p, value, rtol=0, atol=1e-14)
    plain = torch.nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
    other = torch.optim.AdamW([plain], lr=0.01, weight_decay=0.0)
    plain.grad = torch.tensor([1e-8, -3e-8], dtype=torch.float64)
    other.step()
    p2 = 1.0 - 0.01 * 1e-8 / (1e-8 + 1e-8)
    assert plain[0].item() == pytest.approx(p2), "negative control: torch's own corrects first"
