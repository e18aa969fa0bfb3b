"""End a command on Ctrl-C, SIGTERM or a closed terminal: at once, with one line that says what is saved.

An exception that a signal handler raises is lost where Python ignores exceptions (destructors, the garbage collector's
callbacks) and where other code catches it, and no handler runs before the main thread is back from C code. So a thread
that the signal itself wakes ends the process, without clean-up: what a run has committed is on disk.

Imports the standard library only; a command calls `end_on_signals` before it imports anything else.
"""

import atexit
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn, Protocol

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
#: Seconds that child processes get to end by themselves, and that the main thread waits for the end at most.
PATIENCE, GRACE = 2.0, 5.0
#: Where launchers say which rank a process is, in the order in which Lightning asks.
RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")


class Process(Protocol):
    """A child process, as `subprocess.Popen` has it."""

    pid: int
    returncode: int | None


class _Command:
    """What there is to say and to end; `held`: the signals that are ours, none in a process that never asked."""

    saved: str = "nothing had started, and what was saved before is kept; run the same command again"
    held: tuple[signal.Signals, ...] = ()
    ranks: list[Callable[[], Sequence[Process]]] = []
    closing: list[Callable[[int], None]] = []
    speaker: Process | None = None
    code: int | None = None


def end_on_signals(text: str = _Command.saved) -> None:
    """End this process on SIGNALS from now on: exit code 128 + the signal's number, rank 0 says "stopped: `text`".

    A SIGHUP that is ignored by now stays ignored (nohup). A SIGINT does not, though scripts start their background jobs
    so: whoever sends one wants an end. Forked children get the system's handling back.
    """
    saved(text)
    hup_ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    _Command.held = tuple(s for s in SIGNALS if not (s == signal.SIGHUP and hup_ignored))
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reading,), name="signals", daemon=True).start()
    hold_signals()
    os.register_at_fork(after_in_child=_let_go)
    atexit.register(_leave)


def hold_signals() -> None:
    """Take the signals back from a library that has put handlers of its own in place, where they were ours."""
    _handle(_wait)


def saved(text: str) -> None:
    """Say "stopped: `text`" from now on."""
    _Command.saved = text


def end_ranks(processes: Callable[[], Sequence[Process]]) -> None:
    """End these processes together with this one; `processes` is asked when it comes to that."""
    _Command.ranks.append(processes)


def leave(code: int) -> NoReturn:
    """`sys.exit`, but for the second or two in which Python frees every object while signals are no longer ours."""
    _Command.code = code
    sys.exit(code)


def nobody_reads() -> bool:
    """Whether standard output is a pipe that nobody reads any more."""
    poll = select.poll()
    poll.register(1, 0)  # what is always reported: the other end has gone
    return bool(poll.poll(0))


def end_unread(silent: bool) -> NoReturn:
    """End as on a signal, with SIGPIPE's exit code 141: nobody reads standard output any more (`| head`)."""
    _end(signal.SIGPIPE, silent)


def close_at_end(close: Callable[[int], None]) -> None:
    """Call `close` with the exit code before the process ends; it gets PATIENCE, and what it says is not shown."""
    _Command.closing.append(close)


@contextmanager
def speaking(process: Process) -> Iterator[None]:
    """While it runs, let another command of ours, a child of this one, say the line."""
    _Command.speaker = process
    try:
        yield
    finally:
        _Command.speaker = None


def _handle(handler: Callable[[int, FrameType | None], None] | signal.Handlers) -> None:
    for signum in _Command.held:
        signal.signal(signum, handler)


def _watch(reading: int) -> None:
    """The thread that ends the process. Its pipe gets the number of each signal as it comes, whatever is running."""
    while True:
        for signum in os.read(reading, 64):
            if signum in _Command.held:
                _end(signum)


def _wait(signum: int, frame: FrameType | None) -> None:
    """In the main thread: do nothing more while the process ends, above all tell of no rank that has gone first."""
    time.sleep(GRACE)
    os._exit(128 + signum)


def _leave() -> None:
    """The last thing that Python does before it gives the signals back."""
    if _Command.code is not None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(_Command.code)


def _let_go() -> None:
    signal.set_wakeup_fd(-1)
    _handle(signal.SIG_DFL)
    _Command.held = ()


def _end(signum: int, silent: bool = False) -> NoReturn:
    try:
        children = [p for processes in _Command.ranks for p in processes() if p.returncode is None]
        if _Command.speaker is not None:
            children.append(_Command.speaker)
        elif _is_rank_zero() and not silent:
            _say(f"stopped: {_Command.saved}")
        # What this process still comes to before it ends is of no use to anyone.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for descriptor in (1, 2):
            os.dup2(nowhere, descriptor)
        _end_all([process.pid for process in children])
        _close_all(128 + signum)
    finally:
        os._exit(128 + signum)


def _close_all(code: int) -> None:
    threads = [threading.Thread(target=close, args=(code,), daemon=True) for close in _Command.closing]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)


def _is_rank_zero() -> bool:
    return next((os.environ[name] for name in RANKS if name in os.environ), "0") == "0"


def _say(text: str) -> None:
    line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    # A progress bar, or the terminal's ^C, stands on the line.
    start = "\n" if os.isatty(2) or _bar_stands() else ""
    with suppress(OSError):  # the terminal is gone
        os.write(2, f"{start}{line}\n".encode(errors="backslashreplace"))


def _bar_stands() -> bool:
    bars = getattr(getattr(sys.modules.get("tqdm.std"), "tqdm", None), "_instances", ())
    return len(bars) > 0


def _end_all(pids: list[int]) -> None:
    """Ask processes to end, kill those that do not, and see all of them gone."""
    for signum in (signal.SIGTERM, signal.SIGKILL):
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signum)
        last = time.monotonic() + PATIENCE
        while pids and time.monotonic() < last:
            pids = [pid for pid in pids if not _gone(pid)]
            time.sleep(0.01)


def _gone(pid: int) -> bool:
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:  # someone else has asked before
        return True
