"""The native export: whole by itself, the same model for every strategy, and untrusted when it is read."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save

import cl_lightning
from cl_lightning.common.errors import StateError, UserError
from cl_lightning.export.native import INDEX
from cl_lightning.sequence.folder import START, adapter_file
from tests.commands.test_cli import launch
from tests.export.tiny import BUDGET, EACH, TASKS, Trained, stored

FIRST = adapter_file(TASKS[0])


def export(run: Path, out: Path, *options: str) -> Path:
    result = launch("export", str(run), "--format=native", f"--out={out}", *options)
    assert result.code == 0, result.err
    return out


@pytest.mark.parametrize("name", [*EACH, "t5", "without template", "start"])
def test_an_export_says_what_the_run_says_without_the_run(trained: Trained, name: str, tmp_path: Path) -> None:
    run = trained(name)
    out = export(run, tmp_path / "out")
    away = run.rename(tmp_path / "away")
    try:
        for after in (1, None):
            loaded = cl_lightning.load(out, after)
            assert loaded.tasks == tuple(TASKS[:after])
            for task in loaded.tasks:
                prompts, predictions = stored(away, loaded.tasks[-1], task)
                assert loaded.generate(prompts, max_new_tokens=BUDGET) == predictions
    finally:
        away.rename(run)


def test_a_folder_holds_branches_and_what_is_said_of_them(trained: Trained, tmp_path: Path) -> None:
    run = trained("GainLoRA")
    out = export(run, tmp_path / "out")
    files = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert files == {INDEX, "README.md", *map(adapter_file, TASKS)}
    said = (out / INDEX).read_text() + (out / "README.md").read_text()
    assert str(run.parent) not in said, "no path of this machine"
    card = (out / "README.md").read_text()
    for part in ("| after | FOMC | NumGLUE-cm |", "licence of this package", "cl_lightning.load", "random-llama"):
        assert part in card


def test_a_lora_under_all_tasks_comes_with_it_and_not_where_it_was(trained: Trained, tmp_path: Path) -> None:
    out = export(trained("start"), tmp_path / "out")
    assert (out / START).read_bytes() == (trained("start") / START).read_bytes()
    assert "peft" not in (out / INDEX).read_text()
    (out / START).unlink()
    with pytest.raises(StateError, match=r"start/adapter\.safetensors: missing; obtain it or export it again"):
        cl_lightning.load(out)
    result = launch("export", str(trained("start")), "--format=native", f"--out={tmp_path / 'base'}", "--after=0")
    assert "the model before the first task contains no trained task; use --format=peft" in result.line


def test_a_part_is_exported(trained: Trained, tmp_path: Path) -> None:
    run = trained("GainLoRA")
    assert cl_lightning.load(export(run, tmp_path / "first", "--after=FOMC")).tasks == ("FOMC",)
    result = launch("export", str(run), "--format=native", f"--out={tmp_path / 'base'}", "--after=0")
    assert result.code == 2
    assert "the base model contains no trained task; use random-llama directly" in result.line
    alone = export(trained("alone"), tmp_path / "alone", f"--task={TASKS[1]}")
    prompts, predictions = stored(trained("alone"), TASKS[1], TASKS[1])
    assert cl_lightning.load(alone).generate(prompts, max_new_tokens=BUDGET) == predictions


@pytest.mark.parametrize("option", ["--rank=2", "--dtype=float32", "--dequantize"])
def test_options_of_other_formats_are_refused(trained: Trained, option: str, tmp_path: Path) -> None:
    result = launch("export", str(trained("SeqLoRA")), "--format=native", f"--out={tmp_path / 'out'}", option)
    assert result.code == 2
    assert "--format=native writes the branches unchanged; leave this option out" in result.line
    assert list(tmp_path.iterdir()) == []


def test_gated_models_are_refused_by_name_for_the_others(trained: Trained, tmp_path: Path) -> None:
    for strategy in ("GainLoRA", "SAPTLoRA"):
        for name in ("peft", "merged"):
            result = launch("export", str(trained(strategy)), f"--format={name}", f"--out={tmp_path / 'out'}")
            assert result.code == 2
            assert strategy in result.line and "use --format=native" in result.line


# ---- what is read is anyone's ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(trained("GainLoRA"), tmp_path_factory.mktemp("native") / "out")


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "copy"))


def index(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """A change of what INDEX says."""

    def act(folder: Path) -> None:
        said = json.loads((folder / INDEX).read_text())
        change(said)
        (folder / INDEX).write_text(json.dumps(said))

    return act


def written(text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / INDEX).write_text(text)


def branch(change: Callable[[bytes], bytes], right: bool = True) -> Callable[[Path], None]:
    """A change of the first branch, under its `right` checksum or the old one."""

    def act(folder: Path) -> None:
        data = change((folder / FIRST).read_bytes())
        (folder / FIRST).write_bytes(data)
        if right:
            index(lambda said: said["files"].__setitem__(FIRST, hashlib.sha256(data).hexdigest()))(folder)

    return act


def narrow(end: str) -> Callable[[bytes], bytes]:
    """A tensor with its first column alone."""

    def change(data: bytes) -> bytes:
        tensors = load(data)
        name = next(name for name in tensors if name.endswith(end))
        return save({**tensors, name: tensors[name][:, :1].contiguous()})

    return change


def linked(folder: Path) -> None:
    (folder / FIRST).rename(folder / "elsewhere")
    (folder / FIRST).symlink_to(folder / "elsewhere")


MODEL = "model"
DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no branch": (lambda folder: (folder / FIRST).unlink(), r"adapter\.safetensors: missing; obtain it or export"),
    "a changed branch": (branch(lambda data: data[:-1] + b"x", right=False), "its checksum is not the recorded one"),
    "a cut branch": (branch(lambda data: data[:-8]), r"adapter\.safetensors: damaged \("),
    "no safetensors": (branch(lambda data: b"junk"), r"adapter\.safetensors: damaged \("),
    "another A": (branch(narrow("lora_A")), r"adapters: damaged \(the branches do not fit GainLoRA: ValueError: fact"),
    "another gate": (
        branch(narrow("gate.0")),
        r"damaged \(the branches do not fit GainLoRA: ValueError: gate weights have shapes",
    ),
    "no gate": (
        branch(lambda data: save({n: t for n, t in load(data).items() if "gate." not in n})),
        r"damaged \(the branches do not fit GainLoRA",
    ),
    "whole numbers": (
        branch(lambda data: save({n: t.to(torch.int64) for n, t in load(data).items()})),
        r"damaged \(the branches do not fit GainLoRA",
    ),
    "a link": (linked, r"adapter\.safetensors: is a link, and links are not followed"),
    "nothing": (written(""), r"cl_lightning\.json: damaged; obtain it"),
    "no JSON": (written("{"), r"cl_lightning\.json: damaged; obtain it"),
    "a list": (written("[]"), r"cl_lightning\.json: damaged; obtain it"),
    "nested too deeply": (written("[" * 100_000), r"cl_lightning\.json: damaged; obtain it"),
    "another version": (index(lambda said: said.update(schema=2)), "version 2, this code reads version 1"),
    "no base": (index(lambda said: said.pop("base")), r"damaged \(base is not text\)"),
    "another base": (index(lambda said: said.update(base="0" * 16)), "was trained on another base model than random"),
    "no order": (index(lambda said: said.pop("order")), r"damaged \(order is not a list\)"),
    "a task that is none": (index(lambda said: said["order"].append(3)), r"damaged \(the task name 3 is not text\)"),
    "a task elsewhere": (
        index(lambda said: said["order"].append("..")),
        r"the task name '\.\.' has an empty part or one of dots",
    ),
    "a task in a folder": (index(lambda said: said["order"].append("a/b")), "the task name 'a/b' has a slash"),
    "a file elsewhere": (
        index(lambda said: said["files"].update({"../x": "0"})),
        r"the file name '\.\./x' has an empty part or one of dots only",
    ),
    "a task without a branch": (index(lambda said: said["order"].append("more")), "not part of what .* holds"),
    "nothing learnt": (index(lambda said: said.update(order=[])), "no task is finished; after=0"),
    "no checksums": (index(lambda said: said.update(files=[])), r"damaged \(files is not an object of checksums\)"),
    "no configuration": (index(lambda said: said.pop("config")), r"is not a mapping"),
    "no model": (index(lambda said: said["config"].pop(MODEL)), r"has no section 'model'"),
    "a stranger's class": (
        index(lambda said: said["config"][MODEL]["adapter"].update(class_path="planted.Evil")),
        r"names planted\.Evil, not a class of this project for that option",
    ),
    "an option of nothing": (
        index(lambda said: said["config"][MODEL]["adapter"]["init_args"].update(nothing=1)),
        r"cl_lightning\.json: .*nothing",
    ),
    "kernels": (
        index(lambda said: said["config"][MODEL]["backbone"].update(attn_implementation="somebody/kernel")),
        "attn_implementation=somebody/kernel is code from a hub",
    ),
    "a budget of no number": (
        index(lambda said: said["config"]["data"].update(max_prompt_tokens="many")),
        r"cl_lightning\.json: data\.max_prompt_tokens cannot be many",
    ),
    "a budget of nothing": (
        index(lambda said: said["config"]["data"].update(max_prompt_tokens=0)),
        "max_prompt_tokens: 0 must be 1 or more",
    ),
    "no day": (index(lambda said: said["config"]["data"].update(date="today")), "data.date: 'today' is not a date"),
    "variables of no template": (
        index(lambda said: said["config"]["data"].update(template_args={"messages": []})),
        "data.template_args: 'messages' cannot be given",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_one_line(copy: Path, name: str) -> None:
    damage, said = DAMAGE[name]
    damage(copy)
    with pytest.raises(UserError, match=said) as error:
        cl_lightning.load(copy)
    assert "\n" not in str(error.value)


def test_an_undamaged_copy_is_read(copy: Path) -> None:
    """The control."""
    assert cl_lightning.load(copy).tasks == tuple(TASKS)


def test_trust_is_the_callers_alone(copy: Path) -> None:
    index(lambda said: said["config"][MODEL]["backbone"].update(trust_remote_code=True))(copy)
    assert cl_lightning.load(copy).module.backbone.trust_remote_code is False
    with pytest.raises(StateError, match="no finished task is called 'FOCM'"):
        cl_lightning.load(copy, "FOCM")
