"""Code that goes no further, for tests of what ends a process then."""

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import NoReturn


def write_and_hold(file: Path) -> NoReturn:
    """Write this process's number, whole, and do nothing more, whatever is raised."""
    scratch = file.with_suffix(".part")
    scratch.write_text(str(os.getpid()))
    scratch.rename(file)
    while True:
        with suppress(BaseException):
            time.sleep(60)
