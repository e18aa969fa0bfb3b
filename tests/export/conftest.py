"""Runs to export: one of each kind of branch, trained for four steps on a tiny model, once a session."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from tests.commands.test_cli import configs, launch
from tests.conftest import save_tiny_t5

#: So large a rate that every branch changes the logits.
SMALL = (
    *configs("smoke"),
    "--data.train_samples=8",
    "--data.validation_samples=0",
    "--data.test_samples=1",
    "--data.batch_size=4",
    "--model.lr=0.05",
    "--sequence.zero_shot=false",
    "--boundary.memory=null",
)
PLAIN = ("--boundary.init=null",)
DISPLACED = ("--boundary.init=BranchInit", "--boundary.init.initializer=PiSSA")
KINDS = {
    "folded": (*SMALL, *PLAIN),
    "stacked": (*SMALL, *PLAIN, "--model.adapter=IncLoRA", "--model.adapter.rslora=true"),
    "displaced": (*SMALL, *DISPLACED, "--model.adapter=IncLoRA"),
    "baked": (*SMALL, *DISPLACED, "--model.adapter.offset=baked"),
    "core": (*SMALL, "--boundary.init.initializer=LoRASB", "--boundary.init.operator=null"),
    "continued": (*SMALL, *PLAIN, "--model.adapter.per_task=continue"),
    "inflora": (*SMALL, *PLAIN, "--model.adapter=InfLoRA", "--boundary.subspaces=InputSubspaces"),
    "bfloat16": (*SMALL, *DISPLACED, "--model.backbone.dtype=bfloat16"),
    "gated": (*SMALL, *PLAIN, "--model.adapter=GainLoRA", "--boundary.gates=GateOrthogonalization"),
    "independent": (*SMALL, *PLAIN, "--data.protocol=independent"),
}
Runs = Callable[[str], Path]


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """The finished run of a kind: one of KINDS, or "t5"."""

    @cache
    def run(kind: str) -> Path:
        folder = tmp_path_factory.mktemp(kind)
        options = KINDS.get(kind)
        if options is None:
            t5 = save_tiny_t5(folder / "t5", layers=1, dropout=0.0)
            options = (*SMALL, *DISPLACED, f"--model.backbone.name={t5}")
        told = launch(*options, f"--sequence.run_dir={folder / 'run'}")
        assert told.code == 0, told.err
        return folder / "run"

    return run
