"""Tiny runs of two tasks in float64, one per strategy, trained where a test first asks for one."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM

from cl_lightning.data.sample.tasks import load as load_task
from cl_lightning.model.random_llama import random_model, random_tokenizer
from cl_lightning.sequence.folder import prediction_file, read_predictions, read_record
from tests.commands.test_cli import configs, launch
from tests.conftest import save_tiny_t5

TASKS = ["FOMC", "NumGLUE-cm"]
BUDGET = 6
#: Weights so large that any difference changes what is said.
WILD = {"initializer_range": 0.4}
OPTIONS = (
    f"--model.backbone.config={WILD}", "--model.backbone.dtype=float64", "--model.lr=0.01",
    "--data.train_samples=8", "--data.validation_samples=0", "--data.batch_size=4",
    "--data.test_samples=2", f"--data.max_new_tokens={BUDGET}", "--data.max_prompt_tokens=400",
    "--data.system_prompt=Be brief.", "--data.date=2024-02-03", "--sequence.zero_shot=true",
)  # fmt: skip
PLAIN = ("--boundary.memory=null", "--boundary.init=null")
RANK = ("--model.adapter.rank=2", "--model.adapter.alpha=4")
BRANCHES = ("--model.adapter.branches=IncLoRA", "--model.adapter.branches.rank=2", "--model.adapter.width=8")
STRATEGIES: dict[str, tuple[str, ...]] = {
    "SeqLoRA": (),
    "continue": (*PLAIN, "--model.adapter.per_task=continue"),
    "IncLoRA": (*PLAIN, "--model.adapter=IncLoRA", *RANK),
    "OLoRA": (*PLAIN, "--model.adapter=OLoRA", *RANK),
    "InfLoRA": (*PLAIN, "--model.adapter=InfLoRA", *RANK, "--boundary.subspaces=InputSubspaces"),
    "GainLoRA": (*PLAIN, "--model.adapter=GainLoRA", *BRANCHES, "--boundary.gates=GateOrthogonalization",
                 "--boundary.gates.share=1"),
    "SAPTLoRA": (*PLAIN, "--model.adapter=SAPTLoRA", *BRANCHES, "--boundary.reflection=AttentiveReflection"),
}  # fmt: skip
GATED = ["GainLoRA", "SAPTLoRA"]
#: O-LoRA goes the same way in the run "start".
EACH = [pytest.param(name, marks=pytest.mark.long if name == "OLoRA" else []) for name in STRATEGIES]

#: Name of a strategy, or of another of the runs here -> its folder. Not to be written to.
Trained = Callable[[str], Path]


def trained_in(folder: Path) -> Trained:
    """Train runs into a folder, each once, when it is asked for."""
    done = dict[str, Path]()

    def run(name: str) -> Path:
        if name not in done:
            options = STRATEGIES[name] if name in STRATEGIES else OTHER[name](folder, run)
            result = launch(*configs("smoke"), *OPTIONS, *options, f"--sequence.run_dir={folder / name}")
            assert result.code == 0, result.err
            done[name] = folder / name
        return done[name]

    return run


def _on_t5(folder: Path, run: Trained) -> tuple[str, ...]:
    model = save_tiny_t5(folder / "t5-model", layers=1, dropout=0.0)
    llm = AutoModelForSeq2SeqLM.from_pretrained(model)
    for weight in llm.parameters():
        weight.data.normal_(0, WILD["initializer_range"], generator=torch.Generator().manual_seed(0))
    llm.save_pretrained(model)
    return (f"--model.backbone.name={model}", *STRATEGIES["GainLoRA"])


def _without_template(folder: Path, run: Trained) -> tuple[str, ...]:
    tokenizer = random_tokenizer()
    tokenizer.chat_template = None
    random_model(len(tokenizer), WILD).save_pretrained(folder / "plain-model")
    tokenizer.save_pretrained(folder / "plain-model")
    return (*PLAIN, f"--model.backbone.name={folder / 'plain-model'}", "--data.system_prompt=null")


def _from_a_lora(folder: Path, run: Trained) -> tuple[str, ...]:
    out = folder / "peft"
    assert launch("export", str(run("IncLoRA")), "--format=peft", f"--out={out}").code == 0
    return (*STRATEGIES["OLoRA"], f"--model.adapter.start_from={out}")


#: Further runs: what they need is made in a folder, and their options are returned.
OTHER: dict[str, Callable[[Path, Trained], tuple[str, ...]]] = {
    "t5": _on_t5,
    "without template": _without_template,
    "start": _from_a_lora,
    "alone": lambda folder, run: (*PLAIN, "--data.protocol=independent"),
}


def stored(run: Path, after: str, task: str) -> tuple[list[str], list[str]]:
    """Prompts of a task's scored examples, and what the run's scoring made of them after training `after`."""
    rows = read_predictions(run, read_record(run), prediction_file(after, task))
    prompts = {example.id: example.prompt for example in load_task(task).test}
    return [prompts[row["id"]] for row in rows], [row["prediction"] for row in rows]
