"""A run that is killed at any moment ends, after the same command, as if it had not been."""

import hashlib
import random
import shutil
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
import torch

from cl_lightning.sequence import status
from cl_lightning.sequence.unfinished import unfinished_of
from tests.chaos.doomed import events_of, killed_at, terminated_at
from tests.chaos.traces import traces
from tests.runs import put_record, record, smoke

#: As little as has all kinds of events: two steps in each epoch, two scored prompts for each task.
DATA = ("--data.train_samples=14", "--data.validation_samples=2", "--data.test_samples=2", "--sequence.wandb=off")
#: Five batches in each epoch.
MORE_DATA = (*DATA, "--data.train_samples=30")
EVERY_STEP = (*DATA, "--sequence.save_every=1 step")
#: A run of two tasks, and what is special about it.
JOBS = {
    # Dropout draws random numbers at every step; the second epoch is resumed, too.
    "SLICE and replay": (
        *EVERY_STEP,
        "--data.epochs=2",
        "--model.adapter.init_args.dropout=0.1",
        "--boundary.memory.train_ratio=0.3",
    ),
    "GainLoRA": ("--config=experiments/trace_gainlora.yaml", "--config=experiments/smoke.yaml", *EVERY_STEP),
    "continued": (*EVERY_STEP, "--data.order+=Sentiment"),
    "micro-batches and probes": (
        *MORE_DATA,
        "--sequence.save_every=2 steps",
        "--trainer.accumulate_grad_batches=2",
        "--observers.probes=Probes",
        "--observers.probes.every=2",
    ),
    "self-distillation": (
        *EVERY_STEP,
        "--boundary.memory=null",
        "--boundary.init=null",
        "--boundary.self_distillation=SelfDistillation",
        "--boundary.self_distillation.strength=5",
        "--boundary.self_distillation.rate=0.3",
    ),
    "merging": (
        *EVERY_STEP,
        "--boundary.init=null",
        "--boundary.memory.train_ratio=0",
        "--boundary.merging=AimMerging",
        "--boundary.merging.turn=1",
    ),
    "independent": (*EVERY_STEP, "--boundary.memory=null", "--boundary.init=null", "--data.protocol=independent"),
    "validated": (*EVERY_STEP, *MORE_DATA, "--trainer.limit_val_batches=1.0", "--trainer.val_check_interval=2"),
    "cut": (*EVERY_STEP, *MORE_DATA, "--trainer.max_steps=3"),
}
#: Events besides those of files, at which half of the moments are aimed.
AIMED = ("optimiser step", "checkpoint", "boundary", "end of a task", "scoring", "state", "rename")
#: Moments of each job, 60 in all, and how many a test tries.
MOMENTS = {
    "SLICE and replay": 16, "GainLoRA": 16, "continued": 12, "micro-batches and probes": 4, "self-distillation": 4,
    "merging": 4, "independent": 4,
}  # fmt: skip
AT_ONCE = 4


@cache
def whole(job: str) -> tuple[list[str], dict[str, Any]]:
    """The events and the traces of a job that nothing interrupts."""
    run = Path(mkdtemp()) / "whole"
    events = events_of(run, *options(job))
    return events, traces(run)


@cache
def parent() -> Path:
    """A finished run of the first two tasks."""
    run = Path(mkdtemp()) / "parent"
    smoke(run, *DATA)
    return run


def options(job: str) -> tuple[str, ...]:
    return (*JOBS[job], f"--sequence.continue_from={parent()}") if job == "continued" else JOBS[job]


def moments(job: str, count: int) -> list[int]:
    """Moments by a seed: every other one is aimed, the rest are anywhere."""
    events, draw = whole(job)[0], random.Random(job)
    aimed = [k for k, event in enumerate(events, start=1) if event.split(" ", 1)[1] in AIMED]
    return [draw.choice(aimed) if k % 2 else draw.randint(1, len(events)) for k in range(count)]


def survives(job: str, moment: int, run: Path) -> None:
    killed_at(run, moment, *options(job))
    smoke(run, *options(job))
    assert traces(run) == whole(job)[1], f"after {whole(job)[0][moment - 1]}, event {moment}"


@pytest.mark.parametrize("job", ["SLICE and replay", "GainLoRA"])
def test_a_killed_run_goes_on_to_the_same_end(job: str, tmp_path: Path) -> None:
    """Over 5 s: three whole processes each. In the middle of the second task's training, where most is at stake."""
    events = whole(job)[0]
    steps = [k for k, event in enumerate(events, start=1) if event == "after optimiser step"]
    survives(job, steps[-2], tmp_path / "run")


@pytest.mark.long
@pytest.mark.parametrize(
    ("job", "first"), [(job, first) for job, count in MOMENTS.items() for first in range(0, count, AT_ONCE)]
)
def test_it_does_at_any_moment(job: str, first: int, tmp_path: Path) -> None:
    for k, moment in enumerate(moments(job, MOMENTS[job])[first : first + AT_ONCE]):
        survives(job, moment, tmp_path / f"run{k}")


@pytest.mark.long
@pytest.mark.parametrize("job", ["validated", "cut"])
def test_it_does_where_lightning_has_more_to_do(job: str, tmp_path: Path) -> None:
    """Between steps with a validation after them, and where the last step is not the epoch's last."""
    events = whole(job)[0]
    steps = [k for k, event in enumerate(events, start=1) if event == "after optimiser step"]
    for moment in steps[1:4]:
        survives(job, moment + 1, tmp_path / f"run{moment}")


@pytest.mark.long
def test_it_does_after_being_killed_again_and_again(tmp_path: Path) -> None:
    job, run, kills = "SLICE and replay", tmp_path / "run", 0
    draw = random.Random(1)
    while True:
        try:
            killed_at(run, draw.randint(60, 200), *JOBS[job])
            kills += 1
        except AssertionError:  # the process came to its end
            break
    assert kills >= 3
    smoke(run, *JOBS[job])
    assert traces(run) == whole(job)[1]


def test_sigterm_saves_the_step_and_the_traces_find_what_is_not_restored(tmp_path: Path) -> None:
    """Over 5 s: processes. Saves are due in 10 minutes only, so what is saved, SIGTERM has saved."""
    job = (*DATA, "--data.epochs=2", "--model.adapter.init_args.dropout=0.1")
    events, run = events_of(tmp_path / "whole", *job), tmp_path / "run"
    third = [k for k, event in enumerate(events, start=1) if event == "before optimiser step"][2]
    shown = terminated_at(run, third, *job)
    inside = unfinished_of(record(run))
    assert (inside.stage, inside.step) == ("training", 3)
    assert shown.splitlines()[-1] == f"stopped: {status.saved(run, 0, ['FOMC', 'NumGLUE-cm'], inside=inside)}"
    # Negative control: the checkpoint without its random streams gives other dropout masks.
    wrong = Path(shutil.copytree(run, tmp_path / "wrong"))
    forget_streams(wrong)
    for folder in (run, wrong):
        assert "continuing task 1 of 2 (FOMC) after step 3" in smoke(folder, *job).stdout
    assert traces(run) == traces(tmp_path / "whole")
    assert traces(wrong)["log"] != traces(run)["log"]


def forget_streams(run: Path) -> None:
    """Seed the random streams in a run's checkpoint anew."""
    state = record(run)
    name = state["unfinished"]["checkpoint"]
    checkpoint = torch.load(run / name, weights_only=True)
    checkpoint["callbacks"]["TrainerHooks"]["streams"][0]["torch"] = torch.Generator().manual_seed(1).get_state()
    torch.save(checkpoint, run / name)
    state["unfinished"]["files"][name] = hashlib.sha256((run / name).read_bytes()).hexdigest()
    put_record(run, state)
