"""Creates the folder of an export, complete or not at all."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from cl_lightning.common import stopping
from cl_lightning.common.errors import ConfigError
from cl_lightning.common.files import DISK_ERRORS


def refuse_filled(out: Path) -> None:
    """Raise ConfigError if the output path exists and is not an empty folder."""
    if os.path.lexists(out) and (out.is_symlink() or not out.is_dir() or os.listdir(out)):
        raise ConfigError(
            f"--out: {out} already exists and is not an empty folder; it was not changed. Choose another folder"
        )


@contextmanager
def written_whole(out: Path) -> Iterator[Path]:
    """Yield a scratch folder beside `out`. It is renamed to `out` at the end, and deleted if anything fails.

    Raises:
        ConfigError: `out` is not empty, or cannot be written.
    """
    refuse_filled(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    except OSError as error:
        raise _unwritable(out, error.strerror) from None
    stopping.close_at_end(lambda code: shutil.rmtree(scratch, ignore_errors=True))  # Ctrl-C runs no `finally`
    try:
        yield scratch
        _share(scratch)
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
    return ConfigError(f"--out: {out} cannot be written ({why}); free some space or choose another folder")


def _share(folder: Path) -> None:
    """Give the folder and its files the default permissions; mkdtemp and safetensors make theirs private."""
    mask = _umask()
    folder.chmod(0o777 & ~mask)
    for path in folder.rglob("*"):
        path.chmod((0o777 if path.is_dir() else 0o666) & ~mask)


def _umask() -> int:
    """Return the permissions that new files are not given; the only way to read them is to set them."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
