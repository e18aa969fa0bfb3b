"""Plant each fault of `tests.mutants.faults` in a copy of the repository and see that its tests fail there.

`python -m tests.mutants [WORD ...]`: the faults whose names hold one of the words, or all. Exit code 1: one survived.
Each fault runs in a fork of this process, which has imported the libraries but none of our own code.
"""

import contextlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tests.mutants.faults import FAULTS
from tests.mutants.faults.fault import Fault

ROOT = Path(__file__).parents[2]


def copied(folder: Path) -> Path:
    """A copy of the files that git tracks, with the shared data beside it where there is any."""
    root = folder / "checkout"
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, listed.split("\0")):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, root / name)
    if (ROOT.parent / "shared").exists():
        (folder / "shared").symlink_to(ROOT.parent / "shared")
    return root


def survives(fault: Fault, root: Path, log: Path) -> bool:
    """Whether the tests pass with the fault in place. The file is restored."""
    path = root / fault.file
    text = path.read_text()
    if text.count(fault.right) < 1:
        raise SystemExit(f"{fault.name}: {fault.file} does not hold {fault.right!r}; bring the list up to date")
    path.write_text(text.replace(fault.right, fault.wrong, 1))
    try:
        child = os.fork()
        if child == 0:
            _test(fault, root, log)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != pytest.ExitCode.TESTS_FAILED
    finally:
        path.write_text(text)


def _test(fault: Fault, root: Path, log: Path) -> None:
    os.chdir(root)
    sys.path[:] = [str(root), *(p for p in sys.path if Path(p or ".").resolve() != ROOT)]
    for name in [n for n in sys.modules if n.split(".")[0] == "tests"]:
        del sys.modules[name]
    with log.open("w") as out, contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        code = pytest.main(["-n", "0", "-x", "-q", "-p", "no:cacheprovider", *shlex.split(fault.tests)])
    os._exit(int(code))


def main(words: list[str]) -> int:
    """Plant the faults and say which tests noticed."""
    import hypothesis  # noqa: F401
    import jsonargparse  # noqa: F401
    import lightning.pytorch  # noqa: F401
    import torch
    import transformers  # noqa: F401

    torch.set_num_threads(1)
    sys.dont_write_bytecode = True  # a file may be restored within the second in which it was compiled
    chosen = [fault for fault in FAULTS if not words or any(word in fault.name for word in words)]
    survivors = 0
    with tempfile.TemporaryDirectory() as folder:
        root = copied(Path(folder))
        for fault in chosen:
            begun, log = time.monotonic(), Path(folder) / "log"
            alive = survives(fault, root, log)
            survivors += alive
            print(f"{'SURVIVED' if alive else 'noticed '}  {fault.name} ({time.monotonic() - begun:.0f} s)", flush=True)
            if alive:
                print(log.read_text()[-2000:])
    print(f"{len(chosen) - survivors} of {len(chosen)} faults noticed")
    return survivors > 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
