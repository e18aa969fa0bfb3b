"""Atomic file writes, and serialisation to JSON, JSON Lines and CSV."""

import csv
import errno
import io
import json
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cl_lightning.common.errors import ConfigError, TrainingError, UserError

#: Errors of the disk, reported as such whatever file they concern.
DISK_ERRORS = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EROFS, errno.EIO}
#: Errors of a path, reported only if they concern the path in question.
PATH_ERRORS = {
    errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOENT, errno.ENAMETOOLONG, errno.ELOOP
}  # fmt: skip

#: What a spreadsheet may take for the beginning of a formula, wide forms included.
FORMULA = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")
#: A number, alone or with a spread and an interval as in comparisons.
NUMBER = re.compile(r"[+-]?\d+(\.\d+)?(e[+-]?\d+)?( [±\[][-+\d ±\[\],.]*)?")


def _concerns(error: OSError, path: Path) -> bool:
    """Return whether the file of `error` is `path`, a sibling, or above or below it."""
    if not isinstance(error.filename, str):
        return False
    named, path = Path(error.filename).absolute(), path.absolute()
    return named.is_relative_to(path) or path.is_relative_to(named) or named.parent == path.parent


@contextmanager
def report_disk_errors(path: Path, kind: type[UserError] = TrainingError) -> Iterator[None]:
    """Raise OSErrors of a full or unwritable disk as a one-line `kind`."""
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_ERRORS and not (error.errno in PATH_ERRORS and _concerns(error, path)):
            raise
        raise kind(
            f"{path}: cannot be written ({os.strerror(error.errno)}); what was saved before is intact. "
            "Make room or choose another folder with RUN_DIR=, then run the same command again, without FRESH=1"
        ) from error


def write_output(path: Path, data: bytes) -> None:
    """Write the output file of a command atomically, creating its folder.

    An existing file keeps its permissions. Links are followed. Devices and pipes are written to directly.

    Raises:
        ConfigError: the file cannot be written.
    """
    try:
        file = Path(os.path.realpath(path))
        file.parent.mkdir(parents=True, exist_ok=True)
        mode = _mode(path)
        # /dev/stdout may resolve to something without a name: a pipe, a deleted file.
        if mode is None or (stat.S_ISREG(mode) and file.exists()):
            replace_file(file, data, file.with_name(f".cl_lightning-{secrets.token_hex(8)}"), mode)
        else:
            path.write_bytes(data)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror}); name another file") from None


def refuse_existing(option: str, path: Path, overwrite: bool) -> None:
    """Raise ConfigError if the output file of an option is a folder, or exists and is not to be overwritten.

    Devices and pipes are written to.
    """
    if path.is_dir():
        raise ConfigError(f"{option}: {path} is a folder; name a file")
    if (path.is_file() or (path.is_symlink() and not path.exists())) and not overwrite:
        raise ConfigError(f"{option}: {path} already exists; name another file, or add --overwrite to replace it")


def _mode(path: Path) -> int | None:
    """Return the file type and permissions at `path`, following links; None if nothing is there."""
    try:
        return path.stat().st_mode
    except FileNotFoundError:
        return None


def replace_file(path: Path, data: bytes, scratch: Path, mode: int | None = None) -> None:
    """Write `data` to `scratch`, sync, and rename to `path`. A link at either is replaced, never followed.

    `mode`: permissions of the file; None: the default of new files.
    """
    scratch.unlink(missing_ok=True)
    allowed = 0o666 if mode is None else stat.S_IMODE(mode)
    try:
        with os.fdopen(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, allowed), "wb") as file:
            if mode is not None:
                os.fchmod(file.fileno(), allowed)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch, path)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise


def to_json(value: Any) -> bytes:
    """Serialise to indented JSON; raises ValueError for NaN and infinity."""
    return (json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def to_jsonl(rows: list[dict[str, Any]]) -> bytes:
    """Serialise to JSON Lines, one object per line."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def from_jsonl(data: bytes) -> list[dict[str, Any]]:
    """Parse the output of `to_jsonl`. Only a line feed ends a line: strings may hold other Unicode line ends."""
    return [json.loads(line) for line in data.decode().split("\n") if line]


def to_csv(columns: list[str], rows: list[list[Any]], plain: bool = True) -> bytes:
    """Serialise to CSV, with empty cells for None. `plain`: no text that a spreadsheet would run, see `plain_cell`."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for row in (columns, *rows):
        writer.writerow(
            ["" if cell is None else plain_cell(cell) if plain and isinstance(cell, str) else cell for cell in row]
        )
    return text.getvalue().encode()


def plain_cell(text: str) -> str:
    """A text for a CSV cell that no spreadsheet takes for a formula: ' before it where one might, numbers apart.

    Example:
        >>> plain_cell("=1+1"), plain_cell("-2.5"), plain_cell("yes")
        ("'=1+1", '-2.5', 'yes')
    """
    if text.lstrip()[:1] not in FORMULA or NUMBER.fullmatch(text):
        return text
    return f"'{text}"
