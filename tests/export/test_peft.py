"""A run as a PEFT LoRA: equal logits through PEFT itself, for every kind of branch."""

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from cl_lightning.common.errors import ConfigError
from cl_lightning.export import peft
from cl_lightning.export.branches import recompressed
from cl_lightning.export.trained import Request, Trained
from cl_lightning.sequence.load import load_run
from tests.conftest import relative
from tests.export.conftest import Runs

FLOAT32 = ("folded", "stacked", "displaced", "baked", "core", "continued", "slao", "inflora", "t5")


def logits(llm: torch.nn.Module) -> Tensor:
    ids = torch.randint(3, 200, (3, 17), generator=torch.Generator().manual_seed(1))
    extra = {"decoder_input_ids": ids[:, :5]} if llm.config.is_encoder_decoder else {}
    with torch.no_grad():
        return llm(input_ids=ids, **extra).logits


def through_peft(run: Path, folder: Path) -> Tensor:
    base, _ = Trained(Request(run, after="0")).base()
    model = PeftModel.from_pretrained(base, folder).eval()
    return logits(model)


def exported(run: Path, out: Path, **options: object) -> list[str]:
    out.mkdir()
    return peft.export(Request(run, **options), out)


@pytest.mark.parametrize("kind", FLOAT32)
def test_logits_are_equal_in_float32(kind: str, runs: Runs, tmp_path: Path) -> None:
    exported(runs(kind), tmp_path / "out")
    ours = logits(load_run(runs(kind)).module.llm)
    assert (ours - logits(load_run(runs(kind), 0).module.llm)).abs().max() > 1e-2, "the branches do nothing"
    torch.testing.assert_close(through_peft(runs(kind), tmp_path / "out"), ours, rtol=1e-5, atol=1e-5)


def test_logits_are_equal_in_bfloat16(runs: Runs, tmp_path: Path) -> None:
    """Each computation in bfloat16 rounds on its own; the exported values are the run's own to the last bit."""
    run = runs("bfloat16")
    exported(run, tmp_path / "out")

    def peft_model() -> torch.nn.Module:
        return PeftModel.from_pretrained(Trained(Request(run)).base()[0], tmp_path / "out").eval()

    ours, theirs = logits(load_run(run).module.llm).float(), logits(peft_model()).float()
    exact = logits(load_run(run).module.llm.float())
    assert relative(logits(load_run(run, 0).module.llm).float(), exact) > 0.3, "the branches do nothing"
    assert relative(theirs, ours) < 1e-2
    assert relative(theirs, exact) < 1e-2
    torch.testing.assert_close(logits(peft_model().float()), exact, rtol=1e-5, atol=1e-5)


def test_after_a_task_and_of_a_task_alone(runs: Runs, tmp_path: Path) -> None:
    run = runs("stacked")
    exported(run, tmp_path / "one", after="1")
    exported(run, tmp_path / "named", after="FOMC")
    exported(run, tmp_path / "first", task="FOMC")
    after_one = logits(load_run(run, 1).module.llm)
    for name in ("one", "named", "first"):
        torch.testing.assert_close(through_peft(run, tmp_path / name), after_one, rtol=1e-5, atol=1e-5)
    exported(run, tmp_path / "second", task="NumGLUE-cm")
    exported(run, tmp_path / "all")
    first, second, both = (tensors(tmp_path / name) for name in ("first", "second", "all"))
    for key in both:
        torch.testing.assert_close(torch.cat([first[key], second[key]], int("lora_B" in key)), both[key])


def test_each_task_of_independent_training(runs: Runs, tmp_path: Path) -> None:
    run = runs("independent")
    with pytest.raises(ConfigError, match="one model per task"):
        exported(run, tmp_path / "none")
    exported(run, tmp_path / "second", task="NumGLUE-cm")
    ours = logits(load_run(run, 2).module.llm)
    torch.testing.assert_close(through_peft(run, tmp_path / "second"), ours, rtol=1e-5, atol=1e-5)


def tensors(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "adapter_model.safetensors")


def config(folder: Path) -> dict[str, object]:
    return json.loads((folder / "adapter_config.json").read_text())


def test_layers_of_other_ranks_have_patterns(runs: Runs, tmp_path: Path) -> None:
    run, out = runs("displaced"), tmp_path / "out"
    out.mkdir()
    trained = Trained(Request(run))
    llm, _ = trained.base()
    updates = trained.updates(llm)
    names = list(updates)
    updates[names[0]] = recompressed(updates[names[0]], 1)[0]
    del updates[names[1]]
    save_file(peft.tensors(updates), out / "adapter_model.safetensors")
    (out / "adapter_config.json").write_text(json.dumps(peft.adapter_config(llm, trained.module.backbone, updates)))
    made = config(out)
    assert len(made["rank_pattern"]) == 1
    assert sorted(made["target_modules"]) == sorted(updates), "a last name would mean the layer that is left out"
    model = PeftModel.from_pretrained(llm, out)
    layer = model.base_model.model.get_submodule(names[0])
    assert layer.lora_A["default"].weight.shape[0] == 1
    assert layer.scaling["default"] == 1.0
    x = torch.randn(2, layer.in_features)
    torch.testing.assert_close(layer(x) - layer.base_layer(x), x @ updates[names[0]].dense().t().float())


@pytest.mark.parametrize("wrong", ["without the displaced term", "without alpha / r"])
def test_a_wrong_adapter_is_told_apart(wrong: str, runs: Runs, tmp_path: Path) -> None:
    """Negative control."""
    run, out = runs("displaced"), tmp_path / "out"
    exported(run, out)
    if wrong == "without alpha / r":
        (out / "adapter_config.json").write_text(json.dumps({**config(out), "lora_alpha": 2 * config(out)["r"]}))
    else:
        # Of each branch's columns [s (B - B0), s B0] the second half.
        halves = {k: t.clone() for k, t in tensors(out).items()}
        for key, t in halves.items():
            if "lora_B" in key:
                t[:, t.shape[1] // 4 : t.shape[1] // 2] = 0
        save_file(halves, out / "adapter_model.safetensors")
    ours = logits(load_run(run).module.llm)
    assert (through_peft(run, out) - ours).abs().max() > 1e-3


def test_recompressed_within_the_error_that_is_said(runs: Runs, tmp_path: Path) -> None:
    run = runs("displaced")
    output = exported(run, tmp_path / "out", rank=3)
    assert config(tmp_path / "out")["r"] == 3
    assert "relative error (Frobenius)" in output[0]
    exported(run, tmp_path / "whole", rank=64)
    ours = logits(load_run(run).module.llm)
    torch.testing.assert_close(through_peft(run, tmp_path / "whole"), ours, rtol=1e-5, atol=1e-5)
    assert (through_peft(run, tmp_path / "out") - ours).abs().max() > 1e-5


def test_config_and_card_say_what_it_is(runs: Runs, tmp_path: Path) -> None:
    run = runs("t5")
    exported(run, tmp_path / "out")
    made = config(tmp_path / "out")
    assert made["task_type"] == "SEQ_2_SEQ_LM"
    assert made["base_model_name_or_path"].endswith("t5")
    exported(runs("stacked"), tmp_path / "llama")
    card = (tmp_path / "llama" / "README.md").read_text()
    for said in ("PeftModel", "NumGLUE-cm", "| FOMC |", "licence", "random-llama", "--after=0"):
        assert said in card


@pytest.mark.parametrize(("kind", "options", "message"), [
    ("gated", {}, r"GainLoRA weighs its branches by the prompt.*--format=native"),
    ("continued", {"task": "FOMC"}, "one LoRA through all tasks"),
    ("stacked", {"task": "FOM"}, "did you mean FOMC"),
    ("stacked", {"after": "3"}, "not in 0..2"),
    ("stacked", {"after": "0"}, "no branches"),
    ("stacked", {"dtype": "float16"}, "--dtype: a LoRA is written in float32"),
    ("stacked", {"dequantize": True}, "--dequantize: a LoRA"),
])  # fmt: skip
def test_what_cannot_be_is_refused(
    kind: str, options: dict[str, object], message: str, runs: Runs, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        exported(runs(kind), tmp_path / "out", **options)
