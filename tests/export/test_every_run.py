"""Each format of runs on a 4-bit base, and of runs that two ranks trained: the logits of the run itself."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest
import torch
from torch import Tensor

import cl_lightning
from cl_lightning.common.errors import ConfigError
from cl_lightning.export import FORMATS
from cl_lightning.export.trained import Request
from cl_lightning.sequence.load import load_run
from tests.conftest import ROOT
from tests.export import test_gguf, test_merged
from tests.export.conftest import SMALL, Runs
from tests.export.test_peft import logits, through_peft
from tests.launch import launched
from tests.runs import record

STACKED = (*SMALL, "--boundary.init=null", "--model.adapter=IncLoRA")
OPTIONS = {
    "4 bits": (1, "--model.backbone.load_in_4bit=true"),
    "two ranks": (2, "--data.train_samples=16"),
}
#: Formats that hold the base, which a 4-bit one must be dequantised for.
WHOLE = ("merged", "gguf")
#: The logits of what was exported.
READ: dict[str, Callable[[Path, Path], Tensor]] = {
    "peft": through_peft,
    "merged": lambda run, folder: logits(test_merged.loaded(folder)),
    "gguf": lambda run, folder: logits(test_gguf.loaded(folder)[0]),
    "native": lambda run, folder: logits(cl_lightning.load(folder).model),
}


def run_of(kind: str, runs: Runs, folder: Path) -> Path:
    ranks, *options = OPTIONS[kind]
    if kind == "4 bits":
        pytest.importorskip("bitsandbytes")
    model = f"--model.backbone.name={runs('bpe').parent / 'bpe'}"
    done = launched([*STACKED, model, *options, f"--sequence.run_dir={folder}"], ROOT, ranks)
    assert done.returncode == 0, done.stderr
    assert record(folder)["world_size"] == ranks
    return folder


@pytest.fixture(scope="module")
def trained(runs: Runs, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {kind: run_of(kind, runs, tmp_path_factory.mktemp(kind) / "run") for kind in OPTIONS}


def exported(format: str, run: Path, out: Path, **options: bool) -> Path:
    out.mkdir()
    import_module(FORMATS[format]).export(Request(run, **options), out)
    return out


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("kind", OPTIONS)
def test_logits_are_those_of_the_run(kind: str, format: str, trained: dict[str, Path], tmp_path: Path) -> None:
    run = trained[kind]
    out = exported(
        format, run, tmp_path / "out", **({"dequantize": True} if kind == "4 bits" and format in WHOLE else {})
    )
    ours = logits(load_run(run).module.llm)
    assert (ours - logits(load_run(run, 0).module.llm)).abs().max() > 1e-2, "the branches do nothing"
    # bitsandbytes multiplies 4-bit weights in its own order.
    close = 1e-3 if kind == "4 bits" and format in WHOLE else 1e-5
    torch.testing.assert_close(READ[format](run, out), ours, rtol=close, atol=close)


@pytest.mark.parametrize("format", WHOLE)
def test_a_4bit_base_is_dequantised_by_choice_alone(format: str, trained: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"4 bits.*--dequantize"):
        exported(format, trained["4 bits"], tmp_path / "out")


def test_the_base_before_it_was_quantised_is_another_model(trained: dict[str, Path], runs: Runs) -> None:
    """Negative control."""
    whole, quantised = (logits(load_run(run, 0).module.llm) for run in (runs("bpe"), trained["4 bits"]))
    assert (whole - quantised).abs().max() > 1e-2
