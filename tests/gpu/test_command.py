"""`make gpu` on a CPU in small: every measurement gives its figures, and a part that fails takes no other with it."""

import importlib
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM

from tests.conftest import ROOT
from tests.launch import ends

GPU = ROOT / "benchmarks" / "gpu"


@pytest.fixture(scope="module")
def script() -> Iterator[Callable[[str], ModuleType]]:
    """Import a file of benchmarks/gpu like a script beside its neighbours; all are forgotten afterwards."""
    names = {path.stem for folder in (GPU, GPU.parent) for path in folder.glob("*.py")}
    before = {name: sys.modules.pop(name) for name in names & sys.modules.keys()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(GPU), str(GPU.parent), *sys.path])
        yield importlib.import_module
    for name in names & sys.modules.keys():
        del sys.modules[name]
    sys.modules.update(before)


def figures(found: Iterator[dict[str, Any]]) -> dict[str, Any]:
    return {name: value for update in found for name, value in update.items()}


def test_steps_on_both_sides(script: Callable[[str], ModuleType]) -> None:
    found = figures(script("time_step").steps("Llama-3.2-1B", tiny=True))
    assert found["max_loss_difference"] < 1e-4
    for side in ("ours", "peer"):
        assert found[side]["tokens_per_s"] > 0 and found[side]["flops_per_s"] > 0 and found[side]["peak_gib"] > 0
    assert found["tokens"] == found["steps"] * found["batch"] * 64  # a prompt of 48, 15 letters, an end token


def test_steps_of_a_4_bit_model(script: Callable[[str], ModuleType]) -> None:
    bnb = pytest.importorskip("bitsandbytes")
    llm = script("models").backbone_of("Qwen3-4B-nf4", tiny=True).load(259)
    packed = [name for name, layer in llm.named_modules() if isinstance(layer, bnb.nn.Linear4bit)]
    assert len(packed) == 2 * 7 and type(llm.lm_head) is torch.nn.Linear
    assert type(llm).__name__ == "Qwen3ForCausalLM"
    found = figures(script("time_step").steps("Qwen3-4B-nf4", tiny=True))
    assert found["ours"]["tokens_per_s"] > 0 and found["peer"]["tokens_per_s"] > 0


def test_boundaries(script: Callable[[str], ModuleType]) -> None:
    found = figures(script("time_boundary").boundaries("Llama-3.2-3B", tiny=True))
    assert {"peer", "exact", "four_pass", "single_pass", "decomposition"} <= found.keys()
    assert found["four_pass"]["seconds"] > found["peer"]["seconds"]


def test_scoring(script: Callable[[str], ModuleType]) -> None:
    found = figures(script("time_scoring").scoring("Llama-3.2-1B", tiny=True))
    assert found["ours"]["tokens_per_s"] > 0 and found["peer"]["tokens_per_s"] > 0
    assert found["equal_strings"] == 1.0


def test_branches(script: Callable[[str], ModuleType]) -> None:
    found = figures(script("time_branches").branches("Llama-3.2-1B", tiny=True))
    assert [*found] == ["batch", "peer", "5 branches", "15 branches", "30 branches"]


def test_shapes_have_the_published_numbers_of_parameters(script: Callable[[str], ModuleType]) -> None:
    shapes = script("shapes")
    assert shapes.PARAMETERS.keys() == shapes.SHAPES.keys()
    for name, number in shapes.PARAMETERS.items():
        with torch.device("meta"):
            llm = AutoModelForCausalLM.from_config(script("models").configuration(name))
        assert llm.num_parameters() == number, name


def test_the_work_of_a_step_is_that_which_torch_counts(script: Callable[[str], ModuleType]) -> None:
    llm = AutoModelForCausalLM.from_config(
        script("models").configuration("Llama-3.2-1B", tiny=True), attn_implementation="eager"
    ).requires_grad_(False)
    x = torch.randn(3, 32, 64, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        llm(inputs_embeds=x).logits.sum().backward()
    shapes = {n: tuple(m.weight.shape) for n, m in llm.named_modules() if isinstance(m, torch.nn.Linear)}
    head = shapes.pop("lm_head")
    width = sum(m for name, (m, _) in shapes.items() if name.endswith("q_proj"))
    wanted = script("measure").training_flops(shapes, head, 0, width, [(32, 32)] * 3)
    # Eager attention computes the half that causality masks, too.
    assert counter.get_total_flops() == wanted + 3 * 6 * width * 32**2


# ---- what keeps the parts apart --------------------------------------------------------------------------


def run_script(parts: ModuleType, monkeypatch: pytest.MonkeyPatch, folder: Path, text: str, limit: float) -> Any:
    """Run `text` as the script of a measurement."""
    monkeypatch.setattr(parts, "HERE", folder)
    (folder / "time_step.py").write_text(text)
    return parts.run(parts.Part("step", "Llama-3.2-1B", 60), "cpu", True, limit)


def test_a_part_that_fails_says_why_and_keeps_its_figures(
    script: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "import sys\nopen(sys.argv[2][7:], 'w').write('{\"tokens\": 3}')\nraise MemoryError('full')\n"
    found = run_script(script("parts"), monkeypatch, tmp_path, text, 60)
    assert (found["status"], found["error"], found["tokens"]) == ("failed", "MemoryError: full", 3)
    assert found["log"][-1] == found["error"]


def test_a_part_that_does_not_end_is_ended_with_what_it_started(
    script: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = tmp_path / "child"
    text = (
        "import subprocess, time\nprocess = subprocess.Popen(['sleep', '100'])\n"
        f"open({str(child)!r}, 'w').write(str(process.pid))\ntime.sleep(100)\n"
    )
    found = run_script(script("parts"), monkeypatch, tmp_path, text, 3)
    assert (found["status"], found["error"]) == ("failed", "no end within 3 s")
    assert ends(int(child.read_text()))


def test_what_is_left_out_is_said(script: Callable[[str], ModuleType]) -> None:
    parts, command = script("parts"), program()
    short = SimpleNamespace(budget=30.0, device="cpu", tiny=True)
    part = parts.Part("step", "Llama-3.2-1B", 60)
    assert command.outcome(part, short, 9.0) == {"status": "left out", "error": "no time left of 30 s"}
    absent = parts.Part("4-bit", "Llama-3.1-8B-nf4", 60, needs="no_such_package")
    found = command.outcome(absent, short, 30.0)
    assert found == {"status": "left out", "error": "no_such_package is not installed"}
    assert [*command.rows(absent, found)] == [f"{absent.key:<30}left out: no_such_package is not installed"]


def program() -> ModuleType:
    """benchmarks/gpu/__main__.py."""
    spec = importlib.util.spec_from_file_location("gpu_command", GPU / "__main__.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_rows_fit_80_columns(script: Callable[[str], ModuleType]) -> None:
    command, parts = program(), script("parts")
    side = {"tokens_per_s": 1234567.0, "peak_gib": 123.4, "flops_per_s": 5e14, "seconds": 123.0}
    found = {"ours": {**side}, "peer": {**side}, "decomposition": {"svd": 99.0, "write": 0.1, "peak_gib": 1.0},
             "status": "failed", "error": "x" * 200}  # fmt: skip
    command.add_shares(found, 1e15)
    assert found["ours"]["share_of_peak"] == 0.5
    for part in parts.PARTS:
        lines = [*command.rows(part, found)]
        assert len(lines) == 4 and max(map(len, lines)) <= 80
    assert "1.00x   50.0 %" in lines[0]


def test_the_commands_of_the_page_are_accepted(
    script: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    script("parts")
    page = (ROOT / "docs" / "gpus.md").read_text()
    lines = re.findall(r"^make gpu *(?:ARGS='(.*)')?", page, re.MULTILINE)
    assert len(lines) == 3
    for line in lines:
        monkeypatch.setattr(sys, "argv", ["gpu", *shlex.split(line)])
        program().options()
    assert re.search(r"^gpu:.*\n\t@\$\(PY\) benchmarks/gpu \$\(ARGS\)$", (ROOT / "Makefile").read_text(), re.MULTILINE)


def run(*options: str) -> subprocess.CompletedProcess[str]:
    alone = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(
        [sys.executable, str(GPU), *options], cwd=ROOT, env={**os.environ, **alone}, capture_output=True, text=True
    )


def test_real_shapes_on_a_cpu_are_refused() -> None:
    done = run("--device=cpu")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith(
        "--device=cpu needs --tiny: models of real shapes are too large for it"
    )


@pytest.mark.long
def test_without_a_gpu_it_says_so(tmp_path: Path) -> None:
    done = run("--tiny", f"--out={tmp_path / 'out.json'}")
    assert (done.returncode, done.stdout) == (2, "")
    assert "PyTorch sees no GPU here; ARGS='--device=cpu --tiny'" in done.stderr
    assert not [*tmp_path.iterdir()]


@pytest.mark.long
@pytest.mark.timeout(600)
def test_the_whole_command(tmp_path: Path) -> None:
    file = tmp_path / "new" / "out.json"
    done = run("--device=cpu", "--tiny", f"--out={file}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert max(map(len, done.stdout.splitlines()[3:-1])) <= 80
    found = json.loads(file.read_text())
    assert [*file.parent.iterdir()] == [file]
    assert {part["status"] for part in found["parts"].values()} == {"ok"}
    names = {key.split()[0] for key in found["parts"]}
    assert names == {"tests", "step", "boundary", "scoring", "branches", "4-bit"}
    assert found["parts"]["tests"]["tests"] >= 24 and not found["parts"]["tests"]["failed_tests"]
    assert 0 < found["parts"]["step Llama-3.2-1B"]["ours"]["share_of_peak"] < 1
