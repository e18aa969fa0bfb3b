"""Ctrl-C, SIGTERM and SIGHUP: every command ends, wherever it is, in one line that says what is saved."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cl_lightning.sequence import status
from cl_lightning.sequence.unfinished import Unfinished
from tests.conftest import ROOT
from tests.launch import launched, started
from tests.runs import BASE

#: What each command imports, and waits for in these tests.
IMPORTS = {
    "run": "torch",
    "mine": "yaml",
    "report": "rich",
    "compare": "numpy",
    "score": "numpy",
    "data-check": "rich",
    "data": "argparse",
}
ENDED = "from cl_lightning.common import stopping; stopping.end_on_signals()"
#: Where an exception from a signal handler is lost, or no handler runs. `s` is the signal.
PLACES = {
    "a destructor": """
class Thing:
    def __del__(self): signal.raise_signal(s)
Thing()
""",
    "a callback of the garbage collector": """
gc.callbacks.append(lambda phase, info: phase == 'start' and signal.raise_signal(s))
gc.collect()
gc.callbacks.clear()
""",
    "code that catches everything": """
try: signal.raise_signal(s); time.sleep(1)
except BaseException: pass
""",
}


def wait_for(there: Callable[[], bool], process: Any) -> None:
    deadline = time.monotonic() + 120
    while not there():
        over = process.poll() if isinstance(process, subprocess.Popen) else process.exitcode
        assert over is None and time.monotonic() < deadline, "ended before the moment came"
        time.sleep(0.002)


def python(code: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    lines = f"import gc, hashlib, os, signal, sys, threading, time\ns = signal.SIGINT\n{code}"
    return subprocess.run([sys.executable, "-c", lines], cwd=ROOT, capture_output=True, text=True, timeout=timeout)


@pytest.mark.parametrize("place", PLACES)
def test_a_signal_ends_the_process_where_a_raised_exception_is_lost(place: str) -> None:
    done = python(f"{ENDED}\n{PLACES[place]}\nprint('went on')")
    assert (done.returncode, done.stdout) == (130, "")
    kept = "nothing had started, and what was saved before is kept; run the same command again"
    assert done.stderr == f"stopped: {kept}\n"
    # Negative control: Python's own handler raises KeyboardInterrupt.
    control = python(f"{PLACES[place]}\nprint('went on')")
    assert (control.returncode, control.stdout) == (0, "went on\n")


@pytest.mark.parametrize(("name", "handler"), [("cl-lightning", "SIG_DFL"), ("notebook", "default_int_handler")])
def test_the_program_ends_without_traceback_while_it_starts_and_others_keep_their_handler(
    name: str, handler: str
) -> None:
    code = (
        f"import signal, sys; sys.argv[0] = '/bin/{name}'; import cl_lightning.__main__;"
        f"sys.exit(signal.getsignal(signal.SIGINT) is not signal.{handler})"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_code_that_runs_no_handler_ends_too() -> None:
    code = "threading.Timer(0.3, os.kill, (os.getpid(), s)).start(); hashlib.pbkdf2_hmac('md5', b'', b'', 2**31 - 1)"
    begun = time.monotonic()
    assert python(f"{ENDED}\n{code}").returncode == 130
    assert time.monotonic() - begun < 20, "minutes are left of it"
    # Negative control: a handler that ends the process itself.
    with pytest.raises(subprocess.TimeoutExpired):
        python(f"signal.signal(s, lambda *_: os._exit(130))\n{code}", timeout=2)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("stopping.set_message('in a\\nb\\x1b[31m'); signal.raise_signal(s)", "stopped: in a\\nb\\x1b[31m\n"),
        ("from tqdm import tqdm; bar = tqdm(total=3); signal.raise_signal(s)", "stopped: nothing had started, and"),
        ("import atexit; atexit.register(signal.raise_signal, s); stopping.exit_process(0)", "stopped: nothing had"),
    ],
    ids=["control characters", "a progress bar", "at the very end"],
)
def test_the_line_is_one_line(code: str, message: str) -> None:
    done = python(f"{ENDED}\n{code}")
    assert done.returncode == 130
    line = done.stderr.splitlines(keepends=True)[-1]
    assert line.startswith(message)
    assert done.stderr.count("stopped") == 1


def test_forks_get_the_systems_handling_back_and_nohup_is_respected() -> None:
    fork = "p = os.fork()\nif p == 0: signal.raise_signal(s); os._exit(0)\nprint(os.waitpid(p, 0)[1])"
    done = python(f"{ENDED}\n{fork}")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{int(signal.SIGINT)}\n", "")
    ignored = "signal.signal(signal.{0}, signal.SIG_IGN)\n" + ENDED + "\nsignal.raise_signal(signal.{0})"
    assert python(ignored.format("SIGHUP")).returncode == 0
    assert python(f"{ENDED}\nsignal.raise_signal(signal.SIGHUP)").returncode == 129
    assert python(ignored.format("SIGINT")).returncode == 130, "as a script's background job is started"


@pytest.mark.parametrize("command", IMPORTS)
def test_every_command_ends_in_one_line_while_it_imports(command: str, tmp_path: Path) -> None:
    reached = tmp_path / "reached"
    (tmp_path / f"{IMPORTS[command]}.py").write_text(
        f"from pathlib import Path\nfrom tests.holding import write_and_hold\nwrite_and_hold(Path({str(reached)!r}))\n"
    )
    line = [sys.executable, "-m", "cl_lightning", command, *(["smoke"] if command == "run" else ["--help"])]
    env = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    process = subprocess.Popen(line, cwd=ROOT, env=env, stdout=-1, stderr=-1, text=True)
    wait_for(reached.exists, process)
    for _ in range(2):
        process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    said = "loading PyTorch, Lightning and transformers\n" if command == "run" else ""
    assert (process.returncode, out) == (130, said)
    assert len(err.splitlines()) == 1
    assert err.startswith("stopped: ")


SMALL = [*BASE, "--data.train_samples=14", "--data.validation_samples=2", "--data.test_samples=2"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "finished"
    assert launched([*SMALL, f"--sequence.run_dir={run}"], ROOT).returncode == 0
    return run


def test_a_run_ends_wherever_it_is_and_goes_on_to_the_same_numbers(finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    argv = [*SMALL, f"--sequence.run_dir={run}"]

    def stopped(signum: signal.Signals, reached: Callable[[str, str], bool]) -> tuple[list[str], str]:
        """Start, send `signum` once it prints or writes what is waited for; what it printed, and its last line."""
        for name in ("out", "err"):  # of the process before
            (tmp_path / name).unlink(missing_ok=True)
        process, out, err = started(argv, ROOT, tmp_path, entry="command")
        wait_for(lambda: out.exists() and err.exists() and reached(out.read_text(), err.read_text()), process)
        os.kill(process.pid, signum)
        process.join(60)
        assert process.exitcode == 128 + signum
        output = err.read_text()
        assert output.count("stopped: ") == 1
        assert not [
            line for line in output.splitlines() if not line.startswith(("stopped: ", "task ")) and line.strip()
        ]
        return out.read_text().splitlines(), output.splitlines()[-1]

    again = "run the same command again to"
    _, line = stopped(signal.SIGHUP, lambda out, err: "smoke: DATA" in out)
    assert line == f"stopped: none of 2 tasks was finished; {again} begin"
    _, line = stopped(signal.SIGINT, lambda out, err: "task 1/2 FOMC: training" in err)  # before the first save
    assert line == f"stopped: scores of the untrained model are saved in {run}; {again} continue from there"
    out, line = stopped(signal.SIGINT, lambda out, err: "task 2/2 NumGLUE-cm: training" in err)
    assert out[5] == "continuing after the scores of the untrained model"
    assert line == f"stopped: task 1 of 2 is saved in {run}; {again} continue from there"
    out, line = stopped(signal.SIGTERM, lambda out, err: "continuing" in out)
    assert out[5] == "continuing after task 1 of 2 (FOMC)"
    assert line == f"stopped: task 1 of 2 is saved in {run}; {again} continue from there"
    done = launched(argv, ROOT)
    assert done.stdout.splitlines()[5] == "continuing after task 1 of 2 (FOMC)"
    R, clock = ([json.loads((r / "sequence.json").read_text())[k] for r in (run, finished)] for k in ("R", "clock"))
    assert R[0] == R[1]
    assert clock[0] == clock[1]


@pytest.mark.parametrize(
    "everyone", [True, pytest.param(False, marks=pytest.mark.long)], ids=["Ctrl-C", "SIGTERM to the first"]
)
def test_no_rank_is_left_behind(everyone: bool, tmp_path: Path) -> None:
    rank = tmp_path / "rank"
    hold = ["--observers.hold=tests.recorder.Hold", f"--observers.hold.file={rank}"]
    ddp = ["--trainer.devices=2", "--trainer.strategy=ddp", "--trainer.accelerator=cpu"]
    argv = [*SMALL, *ddp, *hold, f"--sequence.run_dir={tmp_path / 'run'}"]
    process, _, err = started(argv, ROOT, tmp_path, entry="command")
    wait_for(rank.exists, process)
    # Rank 1 does nothing more, rank 0 waits for it in C code.
    if everyone:
        os.killpg(process.pid, signal.SIGINT)
    else:
        for _ in range(2):  # in training, the first one waits for the end of the step
            os.kill(process.pid, signal.SIGTERM)
            time.sleep(0.5)
    process.join(60)
    assert process.exitcode == (130 if everyone else 143)
    with pytest.raises(ProcessLookupError):
        os.kill(int(rank.read_text()), 0)
    output = [line for line in err.read_text().splitlines() if line.strip() and not line.startswith("task ")]
    saved = f"scores of the untrained model are saved in {tmp_path / 'run'}"
    assert output == [f"stopped: {saved}; run the same command again to continue from there"]


def test_what_is_said_of_a_run() -> None:
    order = ["a", "b", "c"]
    folder = Path("runs/x/0")
    again = "in runs/x/0; run the same command again to"
    assert status.saved(folder, 1, order) == f"task 1 of 3 is saved {again} continue from there"
    assert status.saved(folder, 2, order) == f"tasks 1 to 2 of 3 are saved {again} continue from there"
    assert status.saved(folder, 3, order) == f"tasks 1 to 3 of 3 are saved {again} see the result"
    output = [status.resumed(done, order) for done in range(4)]
    after = "continuing after task {} of 3 ({})"
    assert output == [None, after.format(1, "a"), after.format(2, "b"), "finished: showing its result"]
    trained = Unfinished(1, "training", step=4, checkpoint="x")
    scored = Unfinished(2, "scoring", cells={"c": {"a": {}}})
    untrained = Unfinished(0, cells={"zero-shot": {"a": {}}})
    inside = {1: trained, 2: scored, 0: untrained}
    assert [status.saved(folder, done, order, inside=of).split(" in ")[0] for done, of in inside.items()] == [
        "task 1 of 3 and task 2 of 3 up to step 4 are saved",
        "tasks 1 to 2 of 3 and task 3 of 3 up to its scores are saved",
        "scores of the untrained model are saved",
    ]
    assert [status.resumed(done, order, of) for done, of in inside.items()] == [
        "continuing task 2 of 3 (b) after step 4",
        "continuing with the scores after task 3 of 3 (c)",
        "continuing after the scores of the untrained model",
    ]
