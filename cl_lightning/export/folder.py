"""The folder that an export is written to: a new one, which appears whole or not at all."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from cl_lightning.common.errors import ConfigError
from cl_lightning.common.files import DISK_ERRORS


def refuse_filled(out: Path) -> None:
    """Refuse an output folder in which anything lies. Raises ConfigError."""
    if os.path.lexists(out) and (out.is_symlink() or not out.is_dir() or os.listdir(out)):
        raise ConfigError(f"--out: {out} is there already and no empty folder; nothing was touched. Name another")


@contextmanager
def written_whole(out: Path) -> Iterator[Path]:
    """A folder beside `out` to write to, which takes its place at the end, and goes where anything fails.

    Raises:
        ConfigError: something lies in `out`, or it cannot be written.
    """
    refuse_filled(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    except OSError as error:
        raise _unwritable(out, error.strerror) from None
    try:
        yield scratch
        scratch.chmod(0o777 & ~_umask())  # mkdtemp's are private
        refuse_filled(out)
        os.replace(scratch, out)
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        raise _unwritable(out, error.strerror) from None
    except SafetensorError as error:
        if "os error" not in str(error):
            raise
        raise _unwritable(out, str(error)) from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _unwritable(out: Path, why: str | None) -> ConfigError:
    return ConfigError(f"--out: {out} cannot be written ({why}); make room or name another folder")


def _umask() -> int:
    """The permissions that new files are not given; there is no way to ask but to set it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
