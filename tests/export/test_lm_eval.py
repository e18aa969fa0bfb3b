# ruff: noqa: E402 (without lm-eval these tests are skipped before they import)
"""A trained model in lm-eval: registered by name, its command line with one local task, gates as in training."""

import io
import json
import runpy
import sys
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch

lm_eval = pytest.importorskip("lm_eval", reason="lm-eval is not installed (the extra 'general')")

import cl_lightning
from cl_lightning.commands.dashboard import workspace
from cl_lightning.common.errors import ConfigError
from cl_lightning.data.collate import prompt_batch
from cl_lightning.evaluation.general.measure import TASK_FILES
from cl_lightning.export.lm_eval import TrainedLM, main
from cl_lightning.export.loaded import LoadedModel
from tests.commands.test_cli import Result
from tests.export.tiny import Trained

ITEMS, SHOWN = 6, 16
QUESTIONS = [
    {"question": f"is {i} even", "passage": f"{i} is a number", "label": i % 2 == 0} for i in range(SHOWN + ITEMS)
]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The local task's file; lm-eval's own fourteen thousand tasks, which take it seconds to index, are left out."""
    monkeypatch.setattr(lm_eval.tasks, "TaskManager", partial(lm_eval.tasks.TaskManager, include_defaults=False))
    (tmp_path / "boolq_val.jsonl").write_text("".join(json.dumps(row) + "\n" for row in QUESTIONS))
    return tmp_path


def command(*argv: str) -> Result:
    """`python -m cl_lightning.export.lm_eval ARGV`."""
    out, err = io.StringIO(), io.StringIO()
    with patch.object(sys, "argv", ["lm_eval", *argv]), redirect_stdout(out), redirect_stderr(err):
        code = main()
    return Result(code, out.getvalue(), err.getvalue())


@torch.no_grad()
def likelihood(loaded: LoadedModel, context: str, continuation: str, opened: float | None = None) -> float:
    """From one plain forward pass, with the gates of the context alone; `opened`: all gates at that instead."""
    module, tokenizer = loaded.module, loaded.tokenizer
    ids, more = tokenizer.encode(context), tokenizer.encode(continuation)
    gates = {}
    if module.adapter.per_sample:
        gates = module.adapter.forward_kwargs(prompt_batch([ids], tokenizer.pad_token_id, True, [None]))
        gates = gates if opened is None else {"gates": torch.full_like(gates["gates"], opened)}
    scores = loaded.model(torch.tensor([ids + more]), **gates).logits[0].log_softmax(-1)
    return sum(float(scores[len(ids) + i - 1, token]) for i, token in enumerate(more))


def by_hand(loaded: LoadedModel, opened: float | None = None) -> list[list[float]]:
    """Likelihoods of " no" and " yes" for each scored item."""
    found = []
    for row in QUESTIONS[SHOWN:]:
        context = f"{row['passage']}\nQuestion: {row['question']}?\nAnswer:"
        found.append([likelihood(loaded, context, f" {word}", opened) for word in ("no", "yes")])
    return found


@pytest.mark.parametrize("name", ["SeqLoRA", "GainLoRA"])
def test_a_local_task_by_lm_evals_own_command_line(trained: Trained, data: Path, name: str) -> None:
    """lm-eval asks pip and git about the machine, which is most of these seconds."""
    result = command(
        "--model", "cl_lightning", "--model_args", f"run={trained(name)},after=2", "--tasks", "local_boolq",
        "--include_path", str(TASK_FILES), "--metadata", json.dumps({"data_dir": str(data)}), "--batch_size", "4",
        "--output_path", str(data / "results"), "--log_samples",
    )  # fmt: skip
    assert result.code == 0, result.err
    assert "local_boolq" in result.out
    (file,) = (data / "results").rglob("samples_local_boolq_*.jsonl")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    loaded = cl_lightning.load(trained(name))
    found = [[float(answer[0]) for answer in row["filtered_resps"]] for row in sorted(rows, key=lambda r: r["doc_id"])]
    wanted = by_hand(loaded)
    assert torch.tensor(found) == pytest.approx(torch.tensor(wanted), rel=1e-6)
    (file,) = (data / "results").rglob("results_*.json")
    right = [(no < yes) == row["label"] for (no, yes), row in zip(wanted, QUESTIONS[SHOWN:], strict=True)]
    assert json.loads(file.read_text())["results"]["local_boolq"]["acc,none"] == sum(right) / ITEMS
    if name == "GainLoRA":
        open_, none = (torch.tensor(by_hand(loaded, opened)) for opened in (1.0, 0.0))
        for other in (open_, none):
            assert (other - torch.tensor(wanted)).abs().max() > 1e-3, "negative control"


def test_it_is_known_by_its_name(trained: Trained) -> None:
    from lm_eval.api.registry import get_model

    assert get_model("cl_lightning") is TrainedLM
    lm = TrainedLM.create_from_arg_string(f"run={trained('GainLoRA')},after=FOMC", {"batch_size": "3"})
    assert (lm.batch_size, lm.llm.device.type) == (3, "cpu")


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no such folder": ({"run": "nowhere"}, "error: nowhere: is not a run folder"),
    "no such task": ({"after": "FOCM"}, "no finished task is called 'FOCM'"),
    "sizes to be sought": ({"batch_size": "auto"}, "--batch_size: auto must be a number of 1 or more"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line(trained: Trained, data: Path, name: str) -> None:
    options, said = BAD[name]
    options = {"run": trained("GainLoRA"), "after": 2, "batch_size": 4, **options}
    result = command(
        "--model", "cl_lightning", "--model_args", f"run={options['run']},after={options['after']}",
        "--tasks", "local_boolq", "--include_path", str(TASK_FILES), "--metadata", json.dumps({"data_dir": str(data)}),
        "--batch_size", str(options["batch_size"]),
    )  # fmt: skip
    assert result.code == 2
    assert said in result.err.splitlines()[-1]


def test_a_device_that_is_not_there_is_refused(trained: Trained) -> None:
    with pytest.raises(ConfigError, match="device: cpu:3 is not available on this machine"):
        TrainedLM(str(trained("GainLoRA")), device="cpu:3")


def test_without_the_package_one_line_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("cl_lightning.common.packages.find_spec", lambda name: None)
    with pytest.raises(SystemExit) as left:
        runpy.run_module("cl_lightning.export.lm_eval", run_name="__main__")
    assert left.value.code == 2
    line = "lm-eval's command line needs lm_eval, which is not installed: pip install 'cl-lightning[general]'"
    assert capsys.readouterr().err == f"error: {line}\n"
    with pytest.raises(ConfigError, match="is not installed"):
        runpy.run_module("cl_lightning.export.lm_eval", run_name="imported")
    with pytest.raises(
        ConfigError, match="dashboard needs wandb_workspaces, which is not installed: pip install wandb-work"
    ):
        workspace("me", "mine")
