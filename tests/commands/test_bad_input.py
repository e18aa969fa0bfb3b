"""What the person at the keyboard can get wrong: one clear line, the right exit code, nothing half done."""

import json
import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from cl_lightning.common.errors import UserError
from cl_lightning.data.task_sequence import TaskSequence
from cl_lightning.model.random_llama import random_tokenizer
from cl_lightning.sequence.callback import TaskCallback
from cl_lightning.sequence.folder import RunFolder, read_checked, read_record
from tests.commands.test_cli import Told, configs, launch, record
from tests.conftest import ROOT

SMALL = (
    *configs("smoke"),
    "--data.train_samples=14",
    "--data.validation_samples=2",
    "--data.test_samples=2",
    "--sequence.wandb=off",
    "--sequence.threads=1",
)
TASKS = ["FOMC", "NumGLUE-cm"]


# ---------------------------------------------------------------- told before torch is imported

FILES = {
    "malformed.yaml": b"model:\n  lr: 1.0e-3\n  adapter: {init_args: {rank: 4}\ndata: {}\n",
    "latin.yaml": "# Gr\u00f6\u00dfe\n".encode("latin-1"),
    "list.yaml": b"- model\n",
    "twice.yaml": b"data:\n  order: [FOMC]\n  max_prompt_tokens: 64\n  order: null\n",
    "section.yaml": b"modle: {lr: 1}\n",
    "slot.yaml": b"boundary: {init: SliceInt}\n",
    "named.yaml": b"data: {benchmark: {class_path: cl_lightning.data.TRACE, init_args: {order: order2}}}\n",
    "scalar.yaml": b"trainer: 3\nmodel: 4\ndata: {benchmark: TRACE, order: [FOCM]}\n",
    "file.txt": b"",
}

#: name -> options after the smoke configuration ({files}: the folder of FILES), what the line must say.
EARLY: dict[str, tuple[list[str], str]] = {
    "malformed YAML": (["--config={files}/malformed.yaml"], r"malformed\.yaml, line 4: not valid YAML \("),
    "YAML in another encoding": (["--config={files}/latin.yaml"], r"latin\.yaml: not UTF-8 text \(byte 4\)"),
    "an option written twice": (
        ["--config={files}/twice.yaml"],
        r"twice\.yaml, line 4: not valid YAML \('order' is written twice; which of them counts is not clear\)",
    ),
    "YAML without names": (["--config={files}/list.yaml"], r"list\.yaml: must hold options by name"),
    "unknown section in a file": (
        ["--config={files}/section.yaml"],
        r"section\.yaml: unknown option 'modle'; did you mean model\? valid: boundary, data",
    ),
    "unknown section": (["--modle.lr=1"], r"unknown option 'modle.lr'; did you mean model\?"),
    "unknown configuration file": (
        ["--config", "experiments/smok.yaml"],
        r"no configuration file experiments/smok\.yaml; did you mean smoke\? valid: .*trace_slice",
    ),
    "no configuration file anywhere near": (["--config={files}/no/a.yaml"], r"a\.yaml; no \.yaml file in .*/no$"),
    "a word without an option": (["experiments/smoke.yaml"], r"unexpected 'experiments/smoke.yaml'; say .*--config"),
    "unknown adapter": (
        ["--model.adapter=SeqLora"],
        r"^model\.adapter: no class 'SeqLora'; did you mean SeqLoRA or SAPTLoRA\?",
    ),
    "unknown adapter by its path": (
        ["--model.adapter.class_path=cl_lightning.adapters.SeqLora"],
        r"^model\.adapter: no class .*did you mean SeqLoRA or SAPTLoRA\?",
    ),
    "unknown initialiser": (
        ["--boundary.init.initializer=SLICER"],
        r"^boundary\.init\.initializer: no class 'SLICER'; did you mean SLICE\? valid: .*LoRAGA.*SLICE",
    ),
    "unknown initialiser, long form": (
        ["--boundary.init.init_args.initializer=SLICER"],
        r"^boundary\.init\.initializer: no class 'SLICER'; did you mean SLICE\?",
    ),
    "unknown operator": (
        ["--boundary.init.operator=PCGrd"],
        r"^boundary\.init\.operator: no class 'PCGrd'; did you mean PCGrad.*\? valid: AGEM, CAGrad, .*PCGrad",
    ),
    "unknown boundary callback": (["--boundary.init=SliceInt"], r"^boundary\.init: no class .* mean SliceInit\?"),
    "unknown boundary callback in a file": (["--config={files}/slot.yaml"], r"^boundary\.init: .* mean SliceInit\?"),
    "unknown callback in a slot of one's own": (
        ["--boundary.mine=ReplayBufer"],
        r"^boundary\.mine: no class .* mean ReplayBuffer\?",
    ),
    "unknown observer": (["--observers.matrix=ScoreMatri"], r"^observers\.matrix: .* mean ScoreMatrix\?"),
    "unknown benchmark": (["--data.benchmark=TRAC"], r"^data\.benchmark: no class 'TRAC'; did you mean TRACE\?"),
    "unknown task": (
        ["--data.order=[FOMC, NumGLUE-mc]"],
        r"^data\.order: unknown task 'NumGLUE-mc'; did you mean NumGLUE-cm.*\? valid: 20Minuten, C-STANCE",
    ),
    "unknown task appended": (["--data.order+=Sentimant"], r"^data\.order: .*did you mean Sentiment or"),
    "sections that are no sections": (["--config={files}/scalar.yaml"], r"unknown task 'FOCM'; did you mean FOMC\?"),
    "an order by name beside a list": (
        ["--data.benchmark.init_args.order=order2"],
        r"^data\.benchmark\.order=order2: data\.order lists the tasks already; add --data\.order=null",
    ),
    "an order by name, written whole": (
        ["--data.benchmark={{class_path: cl_lightning.data.TRACE, init_args: {{order: order2}}}}"],
        r"^data\.benchmark\.order=order2: data\.order lists the tasks already",
    ),
    "an order by name in a benchmark's base": (
        ["--data.benchmark=Flipped", "--data.benchmark.base.order=order2"],
        r"^data\.benchmark\.order=order2: data\.order lists the tasks already",
    ),
    "an order by name in a file": (
        ["--config={files}/named.yaml"],
        r"^data\.benchmark\.order=order2: data\.order li",
    ),
    "task twice": (["--data.order+=FOMC"], r"^data\.order: FOMC appears twice"),
    "data root that is a file": (["--data.root={files}/file.txt"], r"^data\.root: .*file\.txt is not a folder"),
    "data root that is not there": (["--data.root={files}/nowhere"], r"^data\.root: .*nowhere is not a folder"),
    "embedded model misspelt": (
        ["--model.backbone.name=smolm2-135m-instruct"],
        r"^model\.backbone\.name: no model .*did you mean smollm2-135m-instruct\?",
    ),
    "model file that is not there": (
        ["--model.backbone.name={files}/m.gguf"],
        r"^model\.backbone\.name: no model .*m\.gguf'; valid: random-llama, smollm2",
    ),
    "all of the model in bf16": (
        ["--trainer.precision=bf16-true"],
        r"^trainer\.precision=bf16-true: would cast .*model\.backbone\.dtype=bfloat16",
    ),
    "unknown precision": (["--trainer.precision=bf17"], r"^trainer\.precision: 'bf17' is not valid; valid: 32"),
    "epochs given to the trainer": (["--trainer.max_epochs=3"], r"^trainer\.max_epochs: .*use data\.epochs"),
    "no micro-batches": (["--trainer.accumulate_grad_batches=0"], r"accumulate_grad_batches: 0 must be 1 or more"),
}

RUN_ALL = """
import io, json, sys
from contextlib import redirect_stderr
from cl_lightning.__main__ import main
for argv in json.load(sys.stdin):
    sys.argv, told = ["cl_lightning", *argv], io.StringIO()
    with redirect_stderr(told):
        code = main()
    print(json.dumps([code, told.getvalue(), "torch" in sys.modules]))
"""


@pytest.fixture(scope="module")
def early(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str, bool]]:
    """What each command of EARLY answered, in one process: exit code, standard error, whether torch was imported."""
    files = tmp_path_factory.mktemp("files")
    for name, content in FILES.items():
        (files / name).write_bytes(content)
    base = [f"--config=experiments/{name}.yaml" for name in ("_base", "smoke")]
    run = f"--sequence.run_dir={files / 'run'}"
    argvs = [[*base, run, *(o.format(files=files) for o in options)] for options, _ in EARLY.values()]
    env = {k: v for k, v in os.environ.items() if k != "CL_DATA"}
    done = subprocess.run(
        [sys.executable, "-c", RUN_ALL],
        input=json.dumps(argvs),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        env=env,
    )
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) == len(EARLY), done.stderr
    assert not (files / "run").exists()
    return dict(zip(EARLY, answers, strict=True))


@pytest.mark.parametrize("name", EARLY)
def test_told_before_torch(early: dict[str, tuple[int, str, bool]], name: str) -> None:
    code, err, torch_imported = early[name]
    assert code == 2
    assert re.search(EARLY[name][1], Told(code, "", err).line)
    assert not torch_imported


# ---------------------------------------------------------------- told by the parser and by the classes


def refused(tmp_path: Path, *options: str) -> str:
    """The line of an error found before training: exit code 2, no run folder."""
    told = launch(*SMALL, f"--sequence.run_dir={tmp_path / 'run'}", *options)
    assert told.code == 2, told.err
    assert not (tmp_path / "run").exists()
    return told.line


LATER: dict[str, tuple[str, str]] = {
    "unknown option": ("--data.bach_size=3", r"^unknown option data\.bach_size; did you mean batch_size"),
    "unknown option among very many": (
        "--trainer.max_stepz=3",
        r"^unknown option trainer\.max_stepz; did you mean max_steps or max_time\?$",
    ),
    "unknown option of a callback": (
        "--boundary.init.init_args.strenght=0.5",
        r"^unknown option SliceInit\.strenght; did you mean strength\? valid: batch_size, gate_weighting, initializer",
    ),
    "unknown option of a callback, short form": ("--boundary.init.strenght=0.5", r"SliceInit\.strenght; .*strength\?"),
    "unknown option of an adapter": ("--model.adapter.rnak=4", r"^unknown option SeqLoRA\.rnak; did you mean rank"),
    "unknown option of an initialiser": (
        "--boundary.init.initializer.directons=ArB2r",
        r"^unknown option SLICE\.directons; did you mean directions\? valid: directions, variance$",
    ),
    "unknown option of a class without any": ("--observers.matrix.a=1", r"ScoreMatrix\.a; there are none$"),
    "unknown option of the backbone": ("--model.backbone.nme=x", r"model\.backbone\.nme; did you mean name\?"),
    "text for a whole number": ("--model.adapter.rank=abc", r"^SeqLoRA\.rank: expected int, not 'abc'$"),
    "text for a number in a callback": (
        "--boundary.init.strength=x",
        r"^SliceInit\.strength: expected float, not 'x'$",
    ),
    "text for a number": ("--model.lr=abc", r"^model\.lr: expected float, not 'abc'$"),
    "one of several types": ("--trainer.gradient_clip_val=x", r"^trainer\.gradient_clip_val: expected int or float or"),
    "a name that is none of the choices": (
        "--model.schedule=liner",
        r"^model\.schedule: 'liner' is not valid; did you mean linear.*\? valid: constant, cosine, linear$",
    ),
    "a choice or a number": (
        "--data.epochs=publishd",
        r"'publishd' is not valid; did you mean published\? .*int or list$",
    ),
    "a task outside a list": ("--data.order=FOMC", r"^data\.order: expected list or null, not 'FOMC'$"),
    "a class that cannot be imported": (
        "--boundary.mine=nowhere.Thing",
        r"^boundary: no class 'nowhere\.Thing' \(No module named 'nowhere'\)$",
    ),
    "an abstract class": ("--model.adapter=AdapterStrategy", r"^model\.adapter: .*AdapterStrategy is abstract$"),
    "batch size 0": ("--data.batch_size=0", r"^data\.batch_size: 0 must be 1 or more$"),
    "fewer than no validation samples": ("--data.validation_samples=-1", r"^data\.validation_samples: -1 must be 0"),
    "strength 2": ("--boundary.init.strength=2", r"^boundary\.init\.strength: 2\.0 must lie in 0\.\.1$"),
    "devices": ("--trainer.devices=x", r"^trainer: `devices` selected with"),
    "accelerator": ("--trainer.accelerator=gpux", r"^trainer: .*invalid accelerator name.*Available names are: auto"),
    "rank 0": ("--model.adapter.rank=0", r"^model\.adapter\.rank: 0 is not a rank"),
    "rank larger than a matrix": (
        "--model.adapter.rank=33",
        r"rank: 33 is larger than .*k_proj \(32 x 64\); use at most 32",
    ),
    "targets that match nothing": (
        "--model.adapter.targets=[q_prj]",
        r"targets: \['q_prj'\] matches no linear layer of the model; did you mean q_proj",
    ),
    "an initialiser for an adapter that goes on": (
        "--model.adapter.per_task=continue",
        r"boundary\.init with model\.adapter\.per_task=continue.*use per_task=fresh_folded, or boundary\.init=null$",
    ),
    "surgery without memory": (
        "--boundary.memory=null",
        r"boundary\.init\.operator needs .*add boundary\.memory .*or set .*operator=null$",
    ),
    "two callbacks of one kind": ("--boundary.more=ReplayBuffer", r"ReplayBuffer sits in two slots \(memory, more\)"),
    "validation that leaves nothing": (
        "--data.validation_samples=9999",
        r"^data\.validation_samples: 9999 leaves no training example of FOMC",
    ),
    "epochs for another number of tasks": ("--data.epochs=[1,2,3]", r"^data\.epochs: \[1, 2, 3\] must be one number"),
}


@pytest.mark.parametrize("name", LATER)
def test_told_before_training(tmp_path: Path, name: str) -> None:
    option, expected = LATER[name]
    assert re.search(expected, refused(tmp_path, option))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("model: {lrr: 3}", r"^unknown option model\.lrr; did you mean lr\?"),
        ("model: {adapter: {init_args: {rnak: 3}}}", r"^unknown option SeqLoRA\.rnak; did you mean rank"),
        ("model: {adapter: {init_args: {rank: abc}}}", r"^SeqLoRA\.rank: expected int, not 'abc'$"),
        ("data: {batch_size: x}", r"^data\.batch_size: expected int, not 'x'$"),
        ("boundary: {init: {class_path: SliceInit, init_args: {strength: 3}}}", r"strength: 3\.0 must lie in 0\.\.1"),
        (
            "sequence: {wandb: off}",
            r"^sequence\.wandb: 'False' is not valid \(YAML reads a bare off as False: quote it\)",
        ),
        ("seed_everything: abc", r"^seed_everything: expected bool or int, not 'abc'$"),
    ],
)
def test_a_wrong_file_is_told_as_a_wrong_option_is(tmp_path: Path, content: str, expected: str) -> None:
    (tmp_path / "wrong.yaml").write_text(content)
    options = [o for o in SMALL if not o.startswith("--sequence.wandb")]
    told = launch(*options, f"--config={tmp_path / 'wrong.yaml'}", f"--sequence.run_dir={tmp_path / 'run'}")
    assert told.code == 2
    assert re.search(expected, told.line)
    assert not (tmp_path / "run").exists()


# ---------------------------------------------------------------- real data

GOOD = [{"prompt": f"{i} plus 1?", "answer": str(i + 1)} for i in range(8)]


def write_task(root: Path, train: object = GOOD, test: object = GOOD, name: str = "Mine") -> None:
    folder = root / name
    folder.mkdir(parents=True)
    for split, content in (("train", train), ("test", test)):
        (folder / f"{split}.json").write_text(content if isinstance(content, str) else json.dumps(content))


def prepared(root: Path, **options: Any) -> TaskSequence:
    data = TaskSequence(root=str(root), order=["Mine"], **{"validation_samples": 2, **options})
    data.prepare(random_tokenizer(), False)
    return data


def fault(root: Path, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        prepared(root, **options)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_good_data_is_taken(tmp_path: Path) -> None:
    write_task(tmp_path)
    task = prepared(tmp_path).tasks[0]
    assert (len(task.train), len(task.validation), len(task.test), task.dropped) == (6, 2, 8, 0)


def test_malformed_json_is_told_with_file_and_line(tmp_path: Path) -> None:
    write_task(tmp_path, '[\n {"prompt": "a", "answer": "b"},\n {"prompt": "c" "answer": "d"}\n]')
    assert re.search(r"Mine/train\.json, line 3, column 17: not valid JSON", fault(tmp_path))


@pytest.mark.parametrize("key", ["prompt", "answer"])
def test_a_record_without_prompt_or_answer(tmp_path: Path, key: str) -> None:
    write_task(tmp_path, test=[*GOOD[:3], {k: v for k, v in GOOD[3].items() if k != key}])
    other = {"prompt": "answer", "answer": "prompt"}[key]
    assert re.search(rf"test\.json: record 4 has no '{key}'; its keys: {other}$", fault(tmp_path))


@pytest.mark.parametrize("split", ["train", "test"])
def test_an_empty_split(tmp_path: Path, split: str) -> None:
    write_task(tmp_path, **{split: []})
    assert re.search(rf"Mine/{split}\.json: empty split", fault(tmp_path))


def test_a_missing_split_and_a_missing_task(tmp_path: Path) -> None:
    write_task(tmp_path)
    (tmp_path / "Mine" / "test.json").unlink()
    assert re.search(r"test\.json is missing; the folder holds: train\.json$", fault(tmp_path))
    with pytest.raises(UserError, match="unknown task 'Mime'; did you mean Mine"):
        TaskSequence(root=str(tmp_path), order=["Mime"])


def test_a_long_answer_is_refused_or_dropped_from_train(tmp_path: Path) -> None:
    write_task(tmp_path, [*GOOD, {"prompt": "long", "answer": "x" * 40}])
    told = fault(tmp_path, max_answer_tokens=10)
    assert re.search(
        r"^Mine/train/8: the answer has 4\d tokens, data\.max_answer_tokens is 10; .*long_answers=drop$", told
    )
    task = prepared(tmp_path, max_answer_tokens=10, long_answers="drop").tasks[0]
    assert (task.dropped, len(task.train)) == (1, 6)
    assert "long" not in {e.prompt for e in task.raw_train}


def test_dropping_all_answers_is_told(tmp_path: Path) -> None:
    write_task(tmp_path, [{"prompt": "p", "answer": "x" * 40}] * 8)
    told = fault(tmp_path, max_answer_tokens=10, long_answers="drop")
    assert told == "Mine: only 0 answers fit data.max_answer_tokens=10"


def test_a_long_reference_of_the_test_split_is_kept(tmp_path: Path) -> None:
    write_task(tmp_path, test=[{"prompt": "p", "answer": "x" * 40}])
    assert prepared(tmp_path, max_answer_tokens=10).tasks[0].test[0].example.answer == "x" * 40


def test_validation_that_leaves_nothing_to_train_on(tmp_path: Path) -> None:
    write_task(tmp_path)
    assert re.search(
        r"validation_samples: 8 leaves no training example of Mine \(8 in", fault(tmp_path, validation_samples=8)
    )


def test_data_faults_end_the_command_before_it_leaves_anything(tmp_path: Path) -> None:
    write_task(tmp_path / "data", "[{]")
    told = refused(tmp_path, f"--data.root={tmp_path / 'data'}", "--data.order=[Mine]")
    assert re.search(r"Mine/train\.json, column 3: not valid JSON", told)


# ---------------------------------------------------------------- stops during training


class Diverges(TaskCallback):
    """Sets an absurd learning rate in one task: its loss is really not finite then. As an observer it is no part
    of the run's identity, so that the same run goes on without it."""

    def __init__(self, task: str) -> None:
        self.task = task

    def on_task_start(self, run: Any, task: int) -> None:
        self.on = run.order[task] == self.task

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if self.on:
            trainer.optimizers[0].param_groups[0]["lr"] = 1e30


def go_on(run: Path, *options: str) -> Told:
    return launch(*SMALL, f"--sequence.run_dir={run}", *options)


def intact(run: Path) -> bool:
    state = read_record(run)
    return all(read_checked(run, state, name) is not None for name in state["files"])


@pytest.fixture(scope="module")
def diverged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Told]:
    """A run whose second task diverged."""
    run = tmp_path_factory.mktemp("diverged") / "run"
    fault = f"{__name__}.{Diverges.__name__}"
    return run, go_on(run, f"--observers.fault={fault}", "--observers.fault.task=NumGLUE-cm")


@pytest.fixture
def stopped(diverged: tuple[Path, Told], tmp_path: Path) -> Path:
    """A copy of a run with its first task done."""
    return shutil.copytree(diverged[0], tmp_path / "stopped")


@pytest.fixture(scope="module")
def finished(diverged: tuple[Path, Told], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run gone on to its end. Not to be written to."""
    run = shutil.copytree(diverged[0], tmp_path_factory.mktemp("finished") / "run")
    told = go_on(run)
    assert told.code == 0, told.err
    return run


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished, tmp_path / "copy")


def test_a_loss_that_is_not_finite_stops_and_keeps_finished_tasks(diverged: tuple[Path, Told]) -> None:
    run, told = diverged
    assert told.code == 1
    expected = (
        r"error: non-finite loss or gradient in task NumGLUE-cm at step 2; finished tasks are kept\. Lower model\.lr"
    )
    assert re.search(expected, told.err.splitlines()[-1])
    assert "Traceback" not in told.err
    assert record(run)["done"] == 1
    assert intact(run)


def test_a_learning_rate_that_diverges_at_once_leaves_no_state(tmp_path: Path) -> None:
    told = go_on(tmp_path / "run", "--model.lr=1e30")
    assert told.code == 1
    assert "in task FOMC at step 2" in told.err.splitlines()[-1]
    assert (record(tmp_path / "run")["done"], record(tmp_path / "run")["R"]) == (0, [])
    assert go_on(tmp_path / "run").code == 0, "nothing is lost, so another rate may start there"
    assert intact(tmp_path / "run")


def test_the_same_command_goes_on_after_the_cause_is_gone(finished: Path) -> None:
    state = record(finished)
    assert (state["done"], state["attempts"]) == (2, 2)
    assert intact(finished)


def test_a_full_disk_stops_with_one_line_and_keeps_the_state(stopped: Path, finished: Path) -> None:
    size = (finished / "adapters" / "NumGLUE-cm" / "adapter.safetensors").stat().st_size
    largest = max((stopped / name).stat().st_size for name in ("config.yaml", "sequence.json"))
    assert largest < size - 1
    done = subprocess.run(
        [sys.executable, "-m", "cl_lightning", *SMALL, f"--sequence.run_dir={stopped}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=180,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size - 1, size - 1)),
    )
    assert done.returncode == 1, done.stderr
    last = done.stderr.splitlines()[-1]
    assert re.search(
        r"^error: .*NumGLUE-cm/adapter\.safetensors: cannot be written \(File too large\); .*RUN_DIR=", last
    )
    assert "Traceback" not in done.stderr
    assert record(stopped)["done"] == 1
    assert intact(stopped)
    assert go_on(stopped).code == 0
    assert record(stopped)["R"] == record(finished)["R"]


def test_a_log_that_cannot_be_written_is_told_in_one_line(stopped: Path) -> None:
    shutil.rmtree(stopped / "logs")
    (stopped / "logs").write_text("in the way")
    told = go_on(stopped)
    assert told.code == 1
    assert re.search(r"^error: .*stopped: cannot be written \(", told.err.splitlines()[-1])
    assert "Traceback" not in told.err


@pytest.mark.parametrize("folder", ["{tmp}/file/run", "{tmp}/file", "/proc/run"])
def test_a_run_folder_that_cannot_be_written(tmp_path: Path, folder: str) -> None:
    (tmp_path / "file").write_text("")
    told = go_on(Path(folder.format(tmp=tmp_path)))
    assert told.code == 2
    assert re.search(r"cannot be written \(.*choose another folder with RUN_DIR=", told.line)
    assert (tmp_path / "file").read_text() == ""


# ---------------------------------------------------------------- damaged and foreign state


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('{"schema": 2, "done"', "damaged; restore it, or move the folder away and run again"),
        ('[1, "schema"]', "damaged; restore it"),
        ("\x00\x01", "damaged; restore it"),
        ('{"schema": 2, "identity": "x"}', r"damaged \(no order, columns, protocol, done, R,"),
        ('{"schema": 1}', "state version 1, this code reads version 2"),
    ],
)
def test_a_damaged_record_is_named(tmp_path: Path, content: str, expected: str) -> None:
    (tmp_path / "sequence.json").write_text(content)
    for act in (lambda: read_record(tmp_path), lambda: RunFolder(tmp_path).open("x", fresh=False, begin={})):
        with pytest.raises(UserError, match=rf"sequence\.json: {expected}") as caught:
            act()
        assert caught.value.exit_code == 2


def test_a_run_with_a_damaged_record_is_not_touched(stopped: Path) -> None:
    file = stopped / "sequence.json"
    file.write_bytes(file.read_bytes()[:-20])
    before = {p: p.read_bytes() for p in stopped.rglob("*") if p.is_file()}
    told = go_on(stopped)
    assert told.code == 2
    assert told.line == f"{file}: damaged; restore it, or move the folder away and run again"
    assert {p: p.read_bytes() for p in stopped.rglob("*") if p.is_file()} == before


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def test_a_damaged_adapter_is_named_and_refused(stopped: Path) -> None:
    file = stopped / "adapters" / "FOMC" / "adapter.safetensors"
    flip(file)
    told = go_on(stopped)
    assert told.code == 2
    assert told.line.startswith(f"{file}: damaged (its checksum is not the recorded one)")
    assert record(stopped)["done"] == 1


def test_a_missing_adapter_is_named_and_refused(stopped: Path) -> None:
    file = stopped / "adapters" / "FOMC" / "adapter.safetensors"
    file.unlink()
    told = go_on(stopped)
    assert told.code == 2
    assert told.line.startswith(f"{file}: missing; restore it")


def test_the_folder_of_another_configuration_is_refused_unless_fresh(stopped: Path) -> None:
    before = (stopped / "sequence.json").read_bytes()
    told = go_on(stopped, "--model.lr=2e-3")
    assert told.code == 2
    assert told.line == (
        f"{stopped}: holds a run of another configuration, data or model; "
        "choose another RUN_DIR=, or start over with FRESH=1"
    )
    assert (stopped / "sequence.json").read_bytes() == before
    assert yaml.safe_load((stopped / "config.yaml").read_text())["model"]["lr"] == 1e-3


def test_a_finished_run_asked_for_in_another_way_stays_intact(copy: Path) -> None:
    told = go_on(copy, "--observers.progress=null", "--sequence.log_every_n_steps=7")
    assert told.code == 0
    assert intact(copy)


def test_fresh_starts_over(stopped: Path) -> None:
    begin = {**record(stopped), "identity": "another", "done": 0, "R": [], "attempts": 0}
    folder = RunFolder(stopped)
    folder.open("another", fresh=True, begin=begin)
    folder.close()
    assert {p.name for p in stopped.iterdir()} <= {"sequence.json", ".cl_lightning.lock"}
    assert folder.files == read_record(stopped)["files"] == {}
    assert (read_record(stopped)["identity"], read_record(stopped)["writing"]) == ("another", [])


def test_fresh_does_not_delete_a_run_in_use(stopped: Path) -> None:
    first = RunFolder(stopped)
    first.open(record(stopped)["identity"], fresh=False, begin={})
    with pytest.raises(UserError, match="another process is running this experiment"):
        RunFolder(stopped).open("another", fresh=True, begin={})
    assert intact(stopped)
    first.close()


# ---------------------------------------------------------------- going on from another run


def longer(tmp_path: Path, parent: Path, *options: str) -> str:
    return refused(tmp_path, f"--sequence.continue_from={parent}", "--data.order+=Sentiment", *options)


def test_going_on_from_no_run(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for parent in (tmp_path / "empty", tmp_path / "nowhere"):
        assert longer(tmp_path, parent) == f"{parent}: is no run folder (no sequence.json)"


def test_going_on_from_an_unfinished_run(tmp_path: Path, stopped: Path) -> None:
    assert re.search(r"stopped has 1 of 2 tasks done; finish it first$", longer(tmp_path, stopped))


@pytest.mark.parametrize("order", ["[NumGLUE-cm, FOMC, Sentiment]", "[FOMC, NumGLUE-cm]", "[Sentiment]"])
def test_going_on_in_another_order(tmp_path: Path, finished: Path, order: str) -> None:
    told = refused(tmp_path, f"--sequence.continue_from={finished}", f"--data.order={order}")
    assert "data.order must begin with FOMC, NumGLUE-cm and add at least one task (--data.order+=NAME)" in told
    assert told.endswith(f"it is {order[1:-1]}")


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("--model.adapter.alpha=3", r"another adapter \(class, rank, alpha or layers\)$"),
        ("--model.backbone.config={initializer_range: 0.2}", "another base model"),
        ("--data.train_samples=13", "learnt other data for FOMC"),
    ],
)
def test_going_on_with_something_else(tmp_path: Path, finished: Path, option: str, expected: str) -> None:
    assert re.search(expected, longer(tmp_path, finished, option))


def test_going_on_from_a_damaged_run(tmp_path: Path, copy: Path) -> None:
    flip(copy / "adapters" / "NumGLUE-cm" / "adapter.safetensors")
    assert re.search(r"NumGLUE-cm/adapter\.safetensors: damaged", longer(tmp_path, copy))


# ---------------------------------------------------------------- report and make

REPORT_ALL = """
import io, json, sys
from contextlib import redirect_stderr, redirect_stdout
from cl_lightning.__main__ import main
for argv in json.load(sys.stdin):
    sys.argv, out, err = ["cl-lightning", "report", *argv], io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main()
    print(json.dumps([code, out.getvalue(), err.getvalue(), "torch" in sys.modules]))
"""


def test_report_without_torch_names_what_is_wrong(tmp_path: Path, finished: Path, copy: Path) -> None:
    (copy / "sequence.json").write_text("{")
    (tmp_path / "file").write_text("")
    cases: list[tuple[list[str], int, str]] = [
        ([str(finished)], 0, ""),
        ([str(copy)], 2, f"error: {copy}/sequence.json: damaged"),
        ([str(tmp_path)], 2, f"error: {tmp_path}: is no run folder (no sequence.json)"),
        ([str(tmp_path / "file")], 2, f"error: {tmp_path}/file: is no run folder"),
        ([], 2, "error: cl-lightning report: the following arguments are required: RUN; "),
    ]
    done = subprocess.run(
        [sys.executable, "-c", REPORT_ALL],
        input=json.dumps([argv for argv, _, _ in cases]),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) == len(cases), done.stderr
    for (code, out, err, torch_imported), (_, expected, line) in zip(answers, cases, strict=True):
        assert (code, torch_imported) == (expected, False)
        assert err.startswith(line) and len(err.splitlines()) == (expected != 0)
        assert ("sequence metrics" in out) == (expected == 0)


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess]:
    """Run make in a copy of the checkout that was never set up."""
    for name in ("Makefile", "setup.cfg", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path / name)
    shutil.copytree(ROOT / "experiments", tmp_path / "experiments")
    env = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MAKELEVEL")}

    def run(*argv: str) -> subprocess.CompletedProcess:
        return subprocess.run(["make", *argv], cwd=tmp_path, capture_output=True, text=True, timeout=60, env=env)

    return run


@pytest.mark.parametrize("name", ["trace_slise", "", "_base"])
def test_make_refuses_an_unknown_experiment_before_any_set_up(
    make: Callable[..., subprocess.CompletedProcess], tmp_path: Path, name: str
) -> None:
    done = make("run", f"EXP={name}")
    assert done.returncode == 2
    assert f"error: unknown experiment EXP='{name}'; valid: " in done.stderr
    assert not (tmp_path / ".venv").exists()


def test_make_help_lists_every_experiment(make: Callable[..., subprocess.CompletedProcess]) -> None:
    done = make()
    assert done.returncode == 0
    for path in (ROOT / "experiments").glob("[a-z]*.yaml"):
        assert re.search(rf"^  {path.stem} +\S.{{15}}", done.stdout, re.MULTILINE)
