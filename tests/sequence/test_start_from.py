"""A sequence that starts from someone's PEFT LoRA: equal logits, trained, resumed, continued, exported, or refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from cl_lightning.adapters.gainlora import GainLoRA
from cl_lightning.adapters.inclora import IncLoRA
from cl_lightning.adapters.peft_lora import read_lora
from cl_lightning.adapters.seqlora import SeqLoRA
from cl_lightning.common.errors import ConfigError
from cl_lightning.export import merged, peft
from cl_lightning.export.trained import Request
from cl_lightning.model.backbone import Backbone
from cl_lightning.model.module import ContinualLM
from cl_lightning.sequence.folder import START
from cl_lightning.sequence.load import load_run
from tests.commands.test_cli import Result, launch, record
from tests.conftest import save_tiny_t5
from tests.export.conftest import PLAIN, SMALL
from tests.export.test_merged import loaded
from tests.export.test_peft import logits

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "gate_proj", "down_proj"]
#: LoRAs as people make them.
MADE: dict[str, dict[str, Any]] = {
    "plain": {"r": 4, "lora_alpha": 16, "target_modules": ALL},
    "rslora": {"r": 4, "lora_alpha": 16, "use_rslora": True, "target_modules": ["q_proj", "v_proj"]},
    "patterns": {
        "r": 4,
        "lora_alpha": 8,
        "target_modules": r".*\.(q|v)_proj|.*\.1\.mlp\.down_proj",
        "rank_pattern": {"layers.1.self_attn.q_proj": 2, "down_proj": 3},
        "alpha_pattern": {r"layers\.\d\.self_attn\.v_proj": 32},
    },
}


def base() -> nn.Module:
    backbone = Backbone("random-llama", dtype="float32")
    return backbone.load(len(backbone.load_tokenizer()))


def saved(folder: Path, **options: Any) -> Path:
    """A PEFT LoRA with random factors, as PEFT saves it."""
    torch.manual_seed(3)
    model = get_peft_model(base(), LoraConfig(task_type="CAUSAL_LM", **options))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    return folder


def through_peft(folder: Path) -> Tensor:
    return logits(PeftModel.from_pretrained(base(), folder).eval())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("peft")
    return {name: saved(root / name, **options) for name, options in MADE.items()}


def options(folder: Path, run: Path) -> tuple[str, ...]:
    return (
        *SMALL, *PLAIN, "--model.adapter=IncLoRA", f"--model.adapter.start_from={folder}",
        f"--sequence.run_dir={run}",
    )  # fmt: skip


def started(folder: Path, run: Path, *more: str) -> Result:
    result = launch(*options(folder, run), *more)
    assert result.code == 0, result.err
    return result


@pytest.fixture(scope="module")
def finished(made: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two tasks from the LoRA with patterns; what it read is gone."""
    root = tmp_path_factory.mktemp("started")
    given = shutil.copytree(made["patterns"], root / "given")
    result = started(given, root / "run")
    assert f"starts from the LoRA in {given}, on 5 layers" in result.out
    shutil.rmtree(given)
    return root / "run"


@pytest.mark.parametrize("strategy", [IncLoRA, SeqLoRA])
@pytest.mark.parametrize("name", MADE)
def test_logits_are_pefts_before_training(name: str, strategy: type, made: dict[str, Path]) -> None:
    module = ContinualLM(Backbone("random-llama", dtype="float32"), strategy(rank=2, alpha=4))
    module.load(module.backbone.load_tokenizer())
    module.eval()
    plain = logits(module.llm)
    module.adapter.freeze_under_tasks(read_lora(made[name], module.adapter.layers))
    assert (logits(module.llm) - plain).abs().max() > 1e-1
    torch.testing.assert_close(logits(module.llm), through_peft(made[name]), rtol=1e-5, atol=1e-5)
    module.adapter.begin_task(0, torch.Generator())
    torch.testing.assert_close(logits(module.llm), through_peft(made[name]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("option", "value"), [("lora_alpha", 17), ("use_rslora", False), ("alpha_pattern", {})])
def test_each_part_of_the_scale_counts(option: str, value: object, made: dict[str, Path], tmp_path: Path) -> None:
    """Negative control."""
    name = {"lora_alpha": "plain", "use_rslora": "rslora", "alpha_pattern": "patterns"}[option]
    other = shutil.copytree(made[name], tmp_path / "other")
    changed(other, **{option: value})
    layers = ContinualLM(Backbone("random-llama", dtype="float32"), IncLoRA(rank=2))
    layers.load(layers.backbone.load_tokenizer())
    layers.adapter.freeze_under_tasks(read_lora(other, layers.adapter.layers))
    assert (logits(layers.eval().llm) - through_peft(made[name])).abs().max() > 1e-3


def test_the_run_has_it_under_all_tasks(finished: Path, made: dict[str, Path]) -> None:
    before = logits(load_run(finished, 0).module.llm)
    torch.testing.assert_close(before, through_peft(made["patterns"]), rtol=1e-5, atol=1e-5)
    after = load_run(finished).module
    assert (logits(after.llm) - before).abs().max() > 1e-2
    assert after.adapter.layers["model.layers.0.self_attn.q_proj"].columns == [4, 2, 2]
    assert after.adapter.layers["model.layers.0.self_attn.k_proj"].columns == [2, 2]


def test_it_is_exported_with_the_branches(finished: Path, tmp_path: Path, made: dict[str, Path]) -> None:
    ours = logits(load_run(finished).module.llm)
    for name, module in (("peft", peft), ("merged", merged)):
        (tmp_path / name).mkdir()
        module.export(Request(finished), tmp_path / name)
    torch.testing.assert_close(through_peft(tmp_path / "peft"), ours, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(logits(loaded(tmp_path / "merged")), ours, rtol=1e-5, atol=1e-5)
    (tmp_path / "start").mkdir()
    peft.export(Request(finished, after="0"), tmp_path / "start")
    torch.testing.assert_close(through_peft(tmp_path / "start"), through_peft(made["patterns"]), rtol=1e-5, atol=1e-5)
    (tmp_path / "alone").mkdir()
    peft.export(Request(finished, task="FOMC"), tmp_path / "alone")
    assert json.loads((tmp_path / "alone" / "adapter_config.json").read_text())["r"] == 2


def test_each_model_of_independent_training_has_it(made: dict[str, Path], tmp_path: Path) -> None:
    run = tmp_path / "run"
    started(made["rslora"], run, "--data.protocol=independent")
    (tmp_path / "out").mkdir()
    peft.export(Request(run, task="NumGLUE-cm"), tmp_path / "out")
    ours = logits(load_run(run, 2).module.llm)
    torch.testing.assert_close(through_peft(tmp_path / "out"), ours, rtol=1e-5, atol=1e-5)


def test_resumed_and_continued_it_is_the_same(finished: Path, made: dict[str, Path], tmp_path: Path) -> None:
    """Its content is a part of the run's identity, its place is not; going on reads it again, at any place.

    Over 5 s: it is two runs, one that was done, and three that are refused once all is loaded.
    """
    moved = shutil.copytree(made["patterns"], tmp_path / "moved")
    run = tmp_path / "run"
    started(made["patterns"], run, "--data.order=[FOMC]")
    identity = record(run)["identity"]
    started(moved, run, "--data.order=[FOMC]")  # a finished run prints its result again
    assert record(run)["identity"] == identity
    other = launch(*options(made["rslora"], run), "--data.order=[FOMC]")
    assert "holds a run of another configuration" in other.line
    onward = f"--sequence.continue_from={run}"
    refused = launch(*options(made["rslora"], tmp_path / "none"), onward)
    assert "another adapter (class, rank, alpha, layers or start_from)" in refused.line
    started(moved, tmp_path / "on", onward)
    assert (tmp_path / "on" / START).read_bytes() == (finished / START).read_bytes()
    ours = logits(load_run(tmp_path / "on").module.llm)
    torch.testing.assert_close(ours, logits(load_run(finished).module.llm), rtol=1e-4, atol=1e-4)
    shutil.rmtree(moved)
    assert "cannot be read" in launch(*options(moved, run), "--data.order=[FOMC]").line


def changed(folder: Path, **values: object) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def layers(**options: Any) -> Any:
    module = ContinualLM(Backbone("random-llama", dtype="float32", **options), IncLoRA(rank=2))
    module.load(module.backbone.load_tokenizer())
    return module.adapter.layers


@pytest.fixture(scope="module")
def own() -> Any:
    """Layers that nothing is read into."""
    return layers()


@pytest.mark.parametrize(("values", "message"), [
    ({"peft_type": "LOHA"}, "is of type 'LOHA'; only LORA is supported"),
    ({"peft_type": "LOKR"}, "'LOKR'"),
    ({"peft_type": "IA3"}, "'IA3'"),
    ({"peft_type": "PROMPT_TUNING"}, "'PROMPT_TUNING'"),
    ({"use_dora": True}, "use_dora=True"),
    ({"modules_to_save": ["lm_head"]}, "modules_to_save="),
    ({"bias": "all"}, "bias='all'"),
    ({"lora_bias": True}, "lora_bias=True"),
    ({"layer_replication": [[0, 2]]}, "layer_replication="),
    ({"trainable_token_indices": [1]}, "trainable_token_indices="),
    ({"target_parameters": ["w"]}, "target_parameters="),
    ({"something_new": 1}, "something_new=1"),
    ({"init_lora_weights": "pissa"}, "belongs to a changed W"),
    ({"r": 5}, "gives rank 5 for .*, but A has 4 rows"),
    ({"rank_pattern": {"q_proj": 3}}, "gives rank 3"),
    ({"alpha_pattern": {"(": 3}}, "a pattern that cannot be read"),
    ({"r": None}, "has r=None"),
    ({"lora_alpha": float("inf")}, "not finite, or a scale that makes them so"),
])  # fmt: skip
def test_what_is_no_plain_lora_is_refused_by_name(
    values: dict[str, object], message: str, made: dict[str, Path], own: Any, tmp_path: Path
) -> None:
    folder = shutil.copytree(made["plain"], tmp_path / "given")
    changed(folder, **values)
    with pytest.raises(ConfigError, match=rf"^model\.adapter\.start_from: .*{message}"):
        read_lora(folder, own)


def test_weights_that_do_not_fit_are_refused(made: dict[str, Path], own: Any, tmp_path: Path) -> None:
    given = Path(shutil.copytree(made["plain"], tmp_path / "given"))
    with pytest.raises(ConfigError, match=r"another base model: its .* is 64 x 96, this one is 32 x 96"):
        read_lora(given, layers(config={"hidden_size": 32}))
    with pytest.raises(ConfigError, match=r"model\.adapter\.targets does not include"):
        read_lora(given, {name: layer for name, layer in own.items() if "q_proj" not in name})
    weights = load_file(given / "adapter_model.safetensors")
    first = next(iter(weights))
    for wrong, output in (
        ({}, "has no weights"),
        ({**weights, first.replace("lora_A.weight", "lora_magnitude_vector"): torch.ones(3)}, "not part of a plain"),
        ({first: weights[first]}, "no matching pair of factors"),
        ({**weights, first: weights[first] * torch.nan}, "has values at .* that are not finite"),
    ):
        save_file(wrong, given / "adapter_model.safetensors")
        with pytest.raises(ConfigError, match=output):
            read_lora(given, own)
    (given / "adapter_model.safetensors").write_bytes(b"no such file")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_lora(given, own)


def test_pickles_are_never_read(made: dict[str, Path], own: Any, tmp_path: Path) -> None:
    given = Path(shutil.copytree(made["plain"], tmp_path / "given"))
    (given / "adapter_model.safetensors").rename(given / "adapter_model.bin")
    with pytest.raises(ConfigError, match=r"a pickle that could run code"):
        read_lora(given, own)
    (given / "adapter_model.bin").unlink()
    with pytest.raises(ConfigError, match=r"has no adapter_model\.safetensors"):
        read_lora(given, own)


def test_gates_have_none_for_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"branches\.start_from: gates weigh the branches of tasks"):
        GainLoRA(IncLoRA(start_from=str(tmp_path)))


def test_an_encoder_decoder(tmp_path: Path) -> None:
    t5 = save_tiny_t5(tmp_path / "t5", layers=1, dropout=0.0)
    module = ContinualLM(Backbone(str(t5), dtype="float32"), SeqLoRA(rank=2))
    module.load(module.backbone.load_tokenizer())
    plain = module.backbone.load(0)
    model = get_peft_model(plain, LoraConfig(r=2, task_type="SEQ_2_SEQ_LM", target_modules=["q", "v", "wo"]))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter)
    model.save_pretrained(tmp_path / "given")
    module.adapter.freeze_under_tasks(read_lora(tmp_path / "given", module.adapter.layers))
    torch.testing.assert_close(logits(module.eval().llm), logits(model.eval()), rtol=1e-5, atol=1e-5)
