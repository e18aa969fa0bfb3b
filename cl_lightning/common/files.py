"""Write files whole or not at all, and the formats that are written: JSON, JSON Lines, CSV."""

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

#: The disk's fault, not ours: told in one line. FULL wherever it happens, PLACE if it is about the path in question.
FULL = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EROFS, errno.EIO}
PLACE = {
    errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOENT, errno.ENAMETOOLONG, errno.ELOOP
}  # fmt: skip

#: What a spreadsheet may take for the beginning of a formula, wide forms included.
FORMULA = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")
NUMBER = re.compile(r"[+-]?\d+(\.\d+)?")


def _about(error: OSError, path: Path) -> bool:
    """Whether an error names `path`, what lies in it or what it lies in."""
    if not isinstance(error.filename, str):
        return False
    named, path = Path(error.filename).absolute(), path.absolute()
    return named.is_relative_to(path) or path.is_relative_to(named) or named.parent == path.parent


@contextmanager
def disk_errors_told(path: Path, kind: type[UserError] = TrainingError) -> Iterator[None]:
    """Turn a full or unwritable disk into one clear line."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL and not (error.errno in PLACE and _about(error, path)):
            raise
        raise kind(
            f"{path}: cannot be written ({os.strerror(error.errno)}); what was saved before is intact. "
            "Make room or choose another folder with RUN_DIR=, then run the same command again, without FRESH=1"
        ) from error


def write_output(path: Path, data: bytes) -> None:
    """Write a file that a command was asked for by an option, whole or not at all; its folder is made.

    A file keeps its permissions, a link stays and the file that it leads to is written. A device or a pipe is written
    to as it is.

    Raises:
        ConfigError: it cannot be written there.
    """
    try:
        file = Path(os.path.realpath(path))
        file.parent.mkdir(parents=True, exist_ok=True)
        mode = _mode(path)
        # /dev/stdout may lead to what has no name: a pipe, a deleted file.
        if mode is None or (stat.S_ISREG(mode) and file.exists()):
            replace_file(file, data, file.with_name(f".cl_lightning-{secrets.token_hex(8)}"), mode)
        else:
            path.write_bytes(data)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror}); name another file") from None


def _mode(path: Path) -> int | None:
    """Kind and permissions of what is there, links followed; None where nothing is."""
    try:
        return path.stat().st_mode
    except FileNotFoundError:
        return None


def replace_file(path: Path, data: bytes, scratch: Path, mode: int | None = None) -> None:
    """Write to `scratch`, sync, rename. A link at `path` or `scratch` is replaced, never followed.

    `mode`: the permissions it gets; None: those of any new file.
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
    """Indented JSON; NaN and infinity are refused."""
    return (json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def to_jsonl(rows: list[dict[str, Any]]) -> bytes:
    """One JSON object a line."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def from_jsonl(data: bytes) -> list[dict[str, Any]]:
    """What `to_jsonl` wrote. Lines end in a line feed alone: texts may hold Unicode's other line ends."""
    return [json.loads(line) for line in data.decode().split("\n") if line]


def to_csv(columns: list[str], rows: list[list[Any]]) -> bytes:
    """CSV with empty cells for None."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([["" if cell is None else cell for cell in row] for row in rows])
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
