"""End a command immediately on Ctrl-C, SIGTERM or a closed terminal, with one line that states what is saved.

An exception raised by a signal handler is lost where Python ignores exceptions (destructors, callbacks of the garbage
collector) or other code catches it, and no handler runs before the main thread returns from C code. Therefore a thread
that the signal wakes up ends the process, without clean-up: everything a run has committed is on disk. While a task
trains, SIGTERM waits for the end of the optimiser step, whose state is then saved, but not longer than STEP seconds;
a second one does not wait.

Imports the standard library only: a command calls `end_on_signals` before it imports anything else.
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
#: Seconds that child processes have to exit by themselves, and that the main thread waits for the process to end.
PATIENCE, GRACE = 2.0, 5.0
#: Seconds that SIGTERM waits for the end of an optimiser step and its save.
STEP = 25.0
#: Environment variables in which launchers set the rank, in the order in which Lightning reads them.
RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")


class Process(Protocol):
    """A child process with the attributes of `subprocess.Popen`."""

    pid: int
    returncode: int | None


class _Command:
    """State of this process; `held`: the signals handled here, none before `end_on_signals`."""

    message: str = "nothing had started, and what was saved before is kept; run the same command again"
    held: tuple[signal.Signals, ...] = ()
    ranks: list[Callable[[], Sequence[Process]]] = []
    closing: list[Callable[[int], None]] = []
    reporter: Process | None = None
    code: int | None = None
    #: SIGTERM waits for `end_now`, and has come.
    postponing: bool = False
    asked: bool = False
    #: The process ends already, in another thread.
    ending: bool = False
    lock: threading.Lock = threading.Lock()


def end_on_signals(text: str = _Command.message) -> None:
    """End this process on SIGNALS from now on with exit code 128 + signal; rank 0 prints "stopped: `text`".

    SIGHUP stays ignored if it already is (nohup). SIGINT does not, although shells ignore it in background jobs: it is
    only sent to them deliberately. Forked children get the default handling back.
    """
    set_message(text)
    hup_ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    _Command.held = tuple(s for s in SIGNALS if not (s == signal.SIGHUP and hup_ignored))
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reading,), name="signals", daemon=True).start()
    install_handlers()
    os.register_at_fork(after_in_child=_release)
    atexit.register(_exit_at_once)


def install_handlers() -> None:
    """Install the handlers again after a library has replaced them. Does nothing without `end_on_signals`."""
    _handle(_wait)


def set_message(text: str) -> None:
    """Set the message that is printed when this process is stopped: "stopped: `text`"."""
    _Command.message = text


def end_ranks(processes: Callable[[], Sequence[Process]]) -> None:
    """End these processes together with this one; `processes` is called at that time."""
    _Command.ranks.append(processes)


def postpone() -> None:
    """Let SIGTERM wait from now on, until the process calls `end_now`, or `carry_on` without waiting any longer."""
    with _Command.lock:
        _Command.postponing = True


def is_asked() -> bool:
    """Return whether a SIGTERM waits."""
    return _Command.asked


def end_now() -> NoReturn:
    """End as on SIGTERM."""
    _end(signal.SIGTERM)


def carry_on() -> None:
    """End if a SIGTERM waits; the next one does not."""
    with _Command.lock:
        _Command.postponing = False
    if _Command.asked:
        end_now()


def _waits(signum: int) -> bool:
    """Note a signal that waits, or return False."""
    with _Command.lock:
        if signum != signal.SIGTERM or not _Command.postponing or _Command.asked:
            return False
        _Command.asked = True
    late = threading.Timer(STEP, end_now)
    late.daemon = True
    late.start()
    return True


def exit_process(code: int) -> NoReturn:
    """Like `sys.exit`, without the second or two of Python's finalisation, during which signals are not handled."""
    if _Command.ending:
        time.sleep(GRACE)  # for the thread that ends the process, which may have ended other ranks first
    _Command.code = code
    sys.exit(code)


def stdout_is_broken() -> bool:
    """Return whether standard output is a pipe whose reader has closed it."""
    poll = select.poll()
    poll.register(1, 0)  # no events asked for: a closed other end is always reported
    return bool(poll.poll(0))


def end_on_broken_pipe(silent: bool) -> NoReturn:
    """End as on a signal, with SIGPIPE's exit code 141, after the reader of standard output has gone (`| head`)."""
    _end(signal.SIGPIPE, silent)


def close_at_end(close: Callable[[int], None]) -> None:
    """Call `close` with the exit code before the process ends, for at most PATIENCE; its output is discarded."""
    _Command.closing.append(close)


@contextmanager
def child_reports(process: Process) -> Iterator[None]:
    """Inside, let a child process that runs another of our commands print the message instead of this one."""
    _Command.reporter = process
    try:
        yield
    finally:
        _Command.reporter = None


def _handle(handler: Callable[[int, FrameType | None], None] | signal.Handlers) -> None:
    for signum in _Command.held:
        signal.signal(signum, handler)


def _watch(reading: int) -> None:
    """Run in the thread that ends the process; its pipe receives the number of each signal immediately."""
    while True:
        for signum in os.read(reading, 64):
            if signum in _Command.held and not _waits(signum):
                _end(signum)


def _wait(signum: int, frame: FrameType | None) -> None:
    """Block the main thread while the process ends, so that it reports no error about a rank that ended first."""
    if signum == signal.SIGTERM and _Command.postponing and not _Command.ending:
        return
    time.sleep(GRACE)
    os._exit(128 + signum)


def _exit_at_once() -> None:
    """Exit before Python restores the default signal handling."""
    if _Command.code is not None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(_Command.code)


def _release() -> None:
    signal.set_wakeup_fd(-1)
    _handle(signal.SIG_DFL)
    _Command.held = ()


def _end(signum: int, silent: bool = False) -> NoReturn:
    _Command.ending = True
    try:
        children = [p for processes in _Command.ranks for p in processes() if p.returncode is None]
        if _Command.reporter is not None:
            children.append(_Command.reporter)
        elif is_rank_zero() and not silent:
            _print_error(f"stopped: {_Command.message}")
        # Whatever is still printed before the process ends is noise.
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


def is_rank_zero() -> bool:
    """Return whether this process's launcher calls it rank 0, or none has started it."""
    return next((os.environ[name] for name in RANKS if name in os.environ), "0") == "0"


def _print_error(text: str) -> None:
    line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    # The line may already hold a progress bar or the terminal's ^C.
    start = "\n" if os.isatty(2) or _bar_is_open() else ""
    with suppress(OSError):  # the terminal is gone
        os.write(2, f"{start}{line}\n".encode(errors="backslashreplace"))


def _bar_is_open() -> bool:
    bars = getattr(getattr(sys.modules.get("tqdm.std"), "tqdm", None), "_instances", ())
    return len(bars) > 0


def _end_all(pids: list[int]) -> None:
    """Terminate processes, kill those that do not exit in time, and reap them."""
    for signum in (signal.SIGTERM, signal.SIGKILL):
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signum)
        deadline = time.monotonic() + PATIENCE
        while pids and time.monotonic() < deadline:
            pids = [pid for pid in pids if not _gone(pid)]
            time.sleep(0.01)


def _gone(pid: int) -> bool:
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:  # reaped elsewhere
        return True
