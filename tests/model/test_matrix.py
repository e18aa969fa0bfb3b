"""Each method trains two tasks, scores, resumes and loads again on a tiny model of each architecture."""

import copy
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch

from cl_lightning import load
from cl_lightning.commands import composition
from cl_lightning.commands.parser import ContinualCLI
from cl_lightning.common.errors import TrainingError
from cl_lightning.sequence.run import SequenceRun
from tests.commands.test_cli import configs, parse
from tests.families import FAMILIES, save
from tests.runs import adapters, record

OPTIONS = (
    "--model.backbone.dtype=float32", "--data.train_samples=4", "--data.validation_samples=1",
    "--data.test_samples=null", "--data.batch_size=4", "--data.max_prompt_tokens=64", "--sequence.zero_shot=false",
    "--model.lr=0.01",
)  # fmt: skip
TASKS = ("one", "two")
TESTS = ["red and green", "so"]
PLAIN = ("--boundary.memory=null", "--boundary.init=null")
RANK = ("--model.adapter.rank=2",)
METHODS: dict[str, tuple[str, ...]] = {
    "SLICE": (*RANK, "--boundary.init.samples=2", "--boundary.init.memory_samples=2", "--boundary.init.batch_size=2"),
    "LoRA": (*PLAIN, *RANK),
    "GainLoRA": (*PLAIN, "--model.adapter=GainLoRA", "--model.adapter.branches=IncLoRA",
                 "--model.adapter.branches.rank=2", "--model.adapter.width=6",
                 "--boundary.gates=GateOrthogonalization"),
    "InfLoRA": (*PLAIN, "--model.adapter=InfLoRA", *RANK, "--boundary.subspaces=InputSubspaces",
                "--boundary.subspaces.share=0.5"),
    "O-LoRA": (*PLAIN, "--model.adapter=OLoRA", *RANK),
}  # fmt: skip
#: The most different ones; the other pairs are long tests.
QUICK = {
    ("GPT-2", "SLICE"), ("Falcon", "LoRA"), ("Mamba", "GainLoRA"), ("DeepSeek-V3", "InfLoRA"),
    ("Gemma 3 with vision", "LoRA"), ("BART", "O-LoRA"),
}  # fmt: skip
PAIRS = [
    pytest.param(family, method, marks=[] if (family, method) in QUICK else pytest.mark.long)
    for family in FAMILIES
    for method in METHODS
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration of two tasks of a few short prompts."""
    folder = tmp_path_factory.mktemp("data")
    for name, texts in (("train", [f"{'ab' * i} {i}" for i in range(6)]), ("test", TESTS)):
        rows = [{"text": text, "label": "AB"[i % 2]} for i, text in enumerate(texts)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tasks = [
        {"name": name, "prompt": f"{name}: {{text}}", "answer": "label", "metric": "accuracy", "max_new_tokens": 4,
         "train": str(folder / "train.jsonl"), "test": str(folder / "test.jsonl")}
        for name in TASKS
    ]  # fmt: skip
    benchmark = {"class_path": "cl_lightning.data.UserTasks", "init_args": {"tasks": tasks}}
    (folder / "data.yaml").write_text(json.dumps({"data": {"benchmark": benchmark, "order": None}}))
    return folder / "data.yaml"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Family -> its model folder, once written."""
    return {"": tmp_path_factory.mktemp("models")}


@pytest.fixture(scope="module")
def parsed(data: Path) -> Callable[[str], ContinualCLI]:
    """A method's options, parsed once: parsing takes longer than a run."""
    return cache(lambda method: parse(*configs("smoke"), f"--config={data}", *OPTIONS, *METHODS[method]))


def go_on(parsed: ContinualCLI, model: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Start or resume a run of these options, on this model, into this folder."""
    cli = copy.copy(parsed)
    cli.config, cli.config_init = copy.deepcopy((parsed.config, parsed.config_init))
    cli.model, cli.datamodule = cli.config_init["model"], cli.config_init["data"]
    cli.model.backbone.name = cli.config.model.backbone.name = str(model)
    cli.config_init.sequence.run_dir = str(run)
    monkeypatch.setattr(composition, "make_cli", lambda: cli)
    monkeypatch.setattr("sys.argv", ["cl-lightning run"])
    composition.run()


def predictions(run: Path, name: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (run / "predictions" / f"{name}.jsonl").read_text().splitlines()]


def moved(branch: dict[str, torch.Tensor], layer: str) -> bool:
    """Whether training has changed the branch from its start."""
    B, start = branch[f"{layer}.lora_B"], branch.get(f"{layer}.lora_B0")
    return not torch.equal(B, torch.zeros_like(B) if start is None else start)


@pytest.mark.parametrize(("family", "method"), PAIRS)
def test_two_tasks_are_trained_scored_resumed_and_loaded(
    family: str,
    method: str,
    parsed: Callable[[str], ContinualCLI],
    folders: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if family not in folders:
        folders[family] = save(FAMILIES[family](), folders[""] / family)
    begin, run = SequenceRun.begin, tmp_path / "run"

    def stopped(run: SequenceRun, task: int, trainer: object) -> None:
        if task == 1:
            raise TrainingError("stopped")
        begin(run, task, trainer)

    with monkeypatch.context() as patch, pytest.raises(TrainingError, match="stopped"):
        patch.setattr(SequenceRun, "begin", stopped)
        go_on(parsed(method), folders[family], run, monkeypatch)
    assert record(run)["done"] == 1
    go_on(parsed(method), folders[family], run, monkeypatch)
    assert [sum(score is not None for score in row) for row in record(run)["R"]] == [1, 2]
    layers = record(run)["adapter"]["layers"]
    for branch in adapters(run).values():
        assert [layer for layer in layers if not moved(branch, layer)] == []
    model = load(run)
    for task in TASKS:
        answers = [row["prediction"] for row in predictions(run, f"two_{task}")]
        assert model.generate([f"{task}: {text}" for text in TESTS], max_new_tokens=4) == answers


def test_a_fused_kernel_that_passes_over_a_branch_in_training_is_refused(
    parsed: Callable[[str], ContinualCLI], folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Mamba's kernel does on a GPU, which takes the output projection's weight and never calls the layer."""
    folders.setdefault("Mamba", folders[""] / "Mamba")
    if not folders["Mamba"].exists():
        save(FAMILIES["Mamba"](), folders["Mamba"])

    def fused(xz: torch.Tensor, conv: object, bias: object, x: object, dt: object, out: torch.Tensor, *_: object,
              **__: object) -> torch.Tensor:  # fmt: skip
        return (xz.chunk(2, dim=1)[0].transpose(1, 2)) @ out.T

    monkeypatch.setattr("transformers.models.mamba.modeling_mamba.mamba_inner_fn", fused)
    with pytest.raises(TrainingError, match=r"mixer.x_proj.* got no gradient: .*leave such layers out"):
        go_on(parsed("LoRA"), folders["Mamba"], tmp_path / "run", monkeypatch)
