"""A base model that has moved is named again, and must be the run's."""

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from transformers import AutoModelForCausalLM

import cl_lightning
from cl_lightning.common.errors import ConfigError, StateError
from tests.commands.test_cli import Result, launch
from tests.export.conftest import PLAIN, SMALL, Runs
from tests.runs import put_file

PROMPT = "Is the tone positive or negative? Rates rise.\nAnswer: "


@pytest.fixture
def moved(runs: Runs, tmp_path: Path) -> tuple[Path, Path]:
    """A run whose base is not where it was, and the place where the base is."""
    source, run, model = runs("bpe"), tmp_path / "run", tmp_path / "moved"
    shutil.copytree(source, run)
    shutil.copytree(source.parent / "bpe", model)
    config = (run / "config.yaml").read_text()
    assert str(source.parent / "bpe") in config
    put_file(run, "config.yaml", config.replace(str(source.parent / "bpe"), str(tmp_path / "was here")).encode())
    return run, model


def _predict(run: Path, folder: Path, *more: str) -> Result:
    (folder / "prompts.jsonl").write_text(json.dumps({"prompt": PROMPT}) + "\n")
    return launch("predict", str(run), f"{folder}/prompts.jsonl", f"--out={folder}/out.jsonl", *more)


def _export(kind: str) -> Callable[..., Result]:
    def command(run: Path, folder: Path, *more: str) -> Result:
        return launch("export", str(run), f"--format={kind}", f"--out={folder / kind}", *more)

    return command


def _score(run: Path, folder: Path, *more: str) -> Result:
    return launch("score", str(run), "--evaluate", *more)


def _chat(run: Path, folder: Path, *more: str) -> Result:
    with patch("sys.stdin", io.StringIO(f"{PROMPT}\n")):
        return launch("chat", str(run), "--max-new-tokens=2", *more)


COMMANDS = {
    "predict": _predict,
    "peft": _export("peft"),
    "merged": _export("merged"),
    "score": _score,
    "chat": _chat,
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_commands_take_the_place_where_the_base_is(
    command: Callable[..., Result], moved: tuple[Path, Path], tmp_path: Path
) -> None:
    run, model = moved
    result = command(run, tmp_path)
    assert result.code == 2
    assert f"model.backbone.name: '{tmp_path / 'was here'}' is not a folder" in result.line
    assert result.line.endswith("; if it has moved, say where it is: --base (in Python: base=)")
    result = command(run, tmp_path, f"--base={model}")
    assert result.code == 0, result.err


def test_mine_takes_it_with_the_run_of_the_first_task(runs: Runs, tmp_path: Path) -> None:
    model, run, out = tmp_path / "model", tmp_path / "run", tmp_path / "mined"
    shutil.copytree(runs("bpe").parent / "bpe", model)
    assert launch(*SMALL, *PLAIN, "--data.order=[FOMC]", f"--model.backbone.name={model}",
                  f"--sequence.run_dir={run}").code == 0  # fmt: skip
    mine = ["mine", f"--run={run}", "--data.order=[FOMC,C-STANCE]", "--length=2", "--samples=2", f"--out={out}"]
    model.rename(tmp_path / "moved")
    result = launch(*mine)
    assert result.code == 2
    assert result.line.endswith("; if it has moved, say where it is: --base (in Python: base=)")
    result = launch(*mine, f"--base={tmp_path / 'moved'}")
    assert result.code == 0, result.err
    assert (out / "cosines.csv").is_file()


def test_lm_eval_takes_it(moved: tuple[Path, Path]) -> None:
    pytest.importorskip("lm_eval", reason="lm-eval is not installed (the extra 'general')")
    from cl_lightning.export.lm_eval import TrainedLM

    run, model = moved
    with pytest.raises(ConfigError, match="if it has moved"):
        TrainedLM(str(run))
    assert TrainedLM(str(run), base=str(model)).llm.config._name_or_path == str(model)


def test_scripts_take_it_too(moved: tuple[Path, Path], runs: Runs, tmp_path: Path) -> None:
    run, model = moved
    for load in (cl_lightning.load, cl_lightning.load_run):
        with pytest.raises(ConfigError, match=r"say where it is: --base \(in Python: base=\)"):
            load(run)
    want = cl_lightning.load(runs("bpe")).generate([PROMPT], max_new_tokens=8)
    assert cl_lightning.load(run, base=model).generate([PROMPT], max_new_tokens=8) == want
    loaded = cl_lightning.load_run(run, base=str(model))
    assert loaded.module.backbone.name == str(model)


def test_an_export_names_the_place_where_the_base_was_found(moved: tuple[Path, Path], tmp_path: Path) -> None:
    run, model = moved
    assert _export("native")(run, tmp_path, f"--base={model}").code == 0
    assert json.loads((tmp_path / "native" / "cl_lightning.json").read_text())["config"]["model"]["backbone"][
        "name"
    ] == str(model)
    model.rename(tmp_path / "again")
    with pytest.raises(ConfigError, match="if it has moved"):
        cl_lightning.load(tmp_path / "native")
    assert cl_lightning.load(tmp_path / "native", base=tmp_path / "again").tasks


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_a_base_of_other_weights_is_refused(
    command: Callable[..., Result], moved: tuple[Path, Path], tmp_path: Path
) -> None:
    """One number of one weight is enough."""
    run, model = moved
    llm = AutoModelForCausalLM.from_pretrained(model)
    with torch.no_grad():
        next(iter(llm.parameters())).view(-1)[0] += 1
    llm.save_pretrained(model)
    result = command(run, tmp_path, f"--base={model}")
    assert result.code == 2
    assert result.line.startswith(f"{run}: was trained on another base model than {model} is now (hash of all weights ")
    with pytest.raises(StateError, match="hash of all weights"):
        cl_lightning.load(run, base=model)
