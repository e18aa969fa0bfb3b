"""The progress of a run: one display on a terminal, plain lines elsewhere, nothing with --quiet or on other ranks."""

import io
import re
import sys
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console

from callbacks.progress import Display, TaskProgress
from cl_lightning.common import distributed, terminal
from cl_lightning.common.errors import TrainingError
from cl_lightning.sequence.stages import Stages
from cl_lightning.sequence.time_left import SCORING, TRAINING, ZERO_SHOT, Plan
from tests.conftest import ROOT
from tests.launch import launched
from tests.results.test_width import NAMES, Terminal
from tests.runs import BASE

ORDER = ["FOMC", "Py150"]


def plan(first: str, second: str) -> list[Plan]:
    one = {(TRAINING, ""): 8, (SCORING, first): 4}
    return [{**one, (ZERO_SHOT, first): 4, (ZERO_SHOT, second): 4}, {**one, (SCORING, second): 4}]


class Watched:
    """Stages that a progress callback shows. The clock is stopped but for `wait`."""

    def __init__(self, order: list[str] | None = None) -> None:
        self.callback, self.now = TaskProgress(), 0.0
        self.stages = Stages(
            order or ORDER,
            plan(*(order or ORDER)),
            watch=lambda stages: self.callback.on_stage(None, stages),  # type: ignore[arg-type]
            clock=lambda: self.now,
        )

    def wait(self, seconds: float) -> None:
        self.now += seconds

    def train(self, losses: tuple[float, ...]) -> None:
        self.stages.begin(TRAINING, len(losses), planned=8)
        for loss in losses:
            self.wait(15)
            self.stages.step(loss, 3000)
            self.callback.on_train_batch_end(None, None, None, None, 0)  # type: ignore[arg-type]

    def task(self, task: int) -> None:
        if self.stages.task != task:
            self.stages.begin_task(task)
        self.stages.begin("start")
        for _ in self.stages.counted("gradients", range(2), 2, lambda batch: 1):
            self.wait(10)
        self.train((2.5, 1.25, 1.0, 0.5))
        for name in self.stages.order[: task + 1]:
            self.stages.begin(SCORING, 4, name)
            self.wait(30)
            self.stages.advance(4)
        self.stages.end_task()


def terminals(monkeypatch: pytest.MonkeyPatch) -> tuple[Terminal, Terminal]:
    """Let standard output and error be terminals of 80 columns."""
    out, err = Terminal(), Terminal()
    for name, value in {"COLUMNS": "80", "TERM": "xterm"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    return out, err


def drawn(display: Display) -> list[str]:
    """The lines of the display, without colours."""
    out = io.StringIO()
    Console(file=out, width=80).print(display.get_renderable())
    return [line.rstrip() for line in out.getvalue().splitlines()]


def test_the_display_names_task_stage_steps_loss_speed_and_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    _, err = terminals(monkeypatch)
    run = Watched()
    run.stages.begin_task(0)
    run.stages.begin(TRAINING, 2)
    display = run.callback.display
    assert display is not None and display.live.is_started
    run.wait(15)
    run.stages.step(2.5, 3000)
    first, second = drawn(display)
    assert first == "task 1/2 FOMC", "no time left before a task is finished"
    assert re.fullmatch(r"  training +[━╸╺ ]+ 1/2  loss 2\.500  200 tokens/s", second)
    run.stages.begin(SCORING, 4, "FOMC")
    run.wait(30)
    run.stages.end_task()
    run.stages.begin_task(1)
    run.stages.begin("start")
    first, second = drawn(display)
    assert re.fullmatch(r"task 2/2 Py150 +[━╸╺ ]+ about 1:15 left", first), "15 of training, 30 of scoring each"
    assert run.callback.display is display, "one for all tasks"
    run.callback.on_sequence_end(None)  # type: ignore[arg-type]
    assert not display.live.is_started
    assert "\x1b[?25" not in err.getvalue(), "a signal would leave the cursor hidden"


@pytest.mark.parametrize("name", NAMES)
def test_the_display_fits(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    terminals(monkeypatch)
    run = Watched([NAMES[name], f"{NAMES[name]} 2"])
    run.task(0)
    run.stages.begin_task(1)
    run.stages.begin(TRAINING, 123456)
    run.wait(9000)
    run.stages.step(12345.678, 99_999_999)
    display = run.callback.display
    assert display is not None
    lines = drawn(display)
    run.callback.on_exception(None, None, TrainingError(""))  # type: ignore[arg-type]
    assert len(lines) == 2 and max(map(cell_len, lines)) <= 80
    assert "loss 12345.678" in lines[1] and "left" in lines[0]
    assert not set("\x1b\u202e\x07") & set("".join(lines))


def test_what_is_printed_meanwhile_stands_above_it(monkeypatch: pytest.MonkeyPatch) -> None:
    out, err = terminals(monkeypatch)
    run = Watched()
    run.stages.begin_task(0)
    run.stages.begin(TRAINING, 2)
    terminal.say("scores: 12.5")
    run.callback.on_sequence_end(None)  # type: ignore[arg-type]
    assert "scores: 12.5\n" in err.getvalue() and sys.stdout is out, "by the display, which then gives it back"
    terminal.say("after")
    assert out.getvalue() == "after\n"


#: Lines of the first task, with scores of the untrained model and without, and those of the second.
FIRST = {
    True: [
        "task 1/2 FOMC: zero-shot",
        "task 1/2 FOMC: gradients",
        "task 1/2 FOMC: training, 4 steps",
        "task 1/2 FOMC: training, step 2 of 4, about 4:50 left",
        "task 1/2 FOMC: scoring, about 4:20 left",
    ],
    False: [
        "task 1/2 FOMC: gradients",
        "task 1/2 FOMC: training, 4 steps",
        "task 1/2 FOMC: scoring",
    ],
}
SECOND = [
    "task 2/2 Py150: gradients, about 2:20 left",
    "task 2/2 Py150: training, 4 steps, about 2:00 left",
    "task 2/2 Py150: scoring, about 1:00 left",
]


@pytest.mark.parametrize("untrained", [True, False])
def test_plain_lines_where_standard_error_is_no_terminal(untrained: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    terminals(monkeypatch)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    run = Watched()
    if untrained:
        run.stages.begin_task(0)
        for name in ORDER:
            run.stages.begin(ZERO_SHOT, 4, name)
            run.wait(60)
            run.stages.advance(4)
    for task in (0, 1):
        run.task(task)
    assert sys.stderr.getvalue().splitlines() == FIRST[untrained] + SECOND


@pytest.mark.parametrize("hidden", ["quiet", "another rank"])
def test_nothing_is_shown(hidden: str, monkeypatch: pytest.MonkeyPatch) -> None:
    streams = terminals(monkeypatch)
    if hidden == "quiet":
        monkeypatch.setattr(terminal._Settings, "quiet", True)
    else:
        monkeypatch.setattr(distributed, "rank", lambda: 1)
    Watched().task(0)
    assert [stream.getvalue() for stream in streams] == ["", ""]


def test_a_quiet_run_prints_its_result_and_nothing_else(tmp_path: Path) -> None:
    done = launched([*BASE, "--quiet", f"--sequence.run_dir={tmp_path / 'run'}"], ROOT)
    assert (done.returncode, done.stderr) == (0, "")
    first = done.stdout.strip().splitlines()[0]
    assert first == "smoke: scores 0..100 on built-in sample, NOT TRACE"
    # Negative control, and what a second start says.
    again = launched([*BASE, f"--sequence.run_dir={tmp_path / 'run'}"], ROOT)
    lines = again.stdout.splitlines()
    assert lines[0] == "smoke: DATA = built-in sample, NOT TRACE" and lines[5] == "finished: showing its result"
    assert all(len(line) <= 80 for line in lines if str(tmp_path) not in line)
