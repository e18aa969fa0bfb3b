"""Scoring is planned for models of every kind."""

from pathlib import Path

import pytest
import torch

from cl_lightning.common.live_bytes import LiveBytes
from cl_lightning.model.backbone import Backbone
from cl_lightning.model.module import ContinualLM
from cl_lightning.model.shapes import without_data
from cl_lightning.planning.scoring import score
from cl_lightning.sequence.rehearsal import Rehearsal, Size
from tests.families import FAMILIES

#: Family -> bytes that it keeps of a prompt and an answer of 10 tokens, in two layers of float32.
KEPT = {
    "RWKV": 2 * 4 * 5 * 32,
    "Mamba": 2 * 4 * (64 * 4 + 64 * 4),  # of the convolution, and states
    "Qwen3-MoE": 2 * 4 * 2 * 10 * 2 * 8,
}


@pytest.mark.parametrize("family", KEPT)
def test_what_is_kept_between_tokens_is_counted_in_every_form(family: str, tmp_path: Path) -> None:
    FAMILIES[family]().save_pretrained(tmp_path)
    module, size = ContinualLM(Backbone(str(tmp_path))), Size(1, 8, 2, 10, 0)
    with without_data(family) as assumed, LiveBytes() as live:
        module.load_shapes(259, torch.float32)
        assert score(Rehearsal(module, ["t"], 0, 0, lambda rows: size, live, assumed), size) == KEPT[family]
    assert module.most_prompts(7) == (1 if family == "RWKV" else 7)
