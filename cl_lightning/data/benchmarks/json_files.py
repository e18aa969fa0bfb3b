"""Reads JSON files; every error is one line that names the place. Imports no torch."""

import json
import re
from numbers import Number
from pathlib import Path
from typing import Any

from cl_lightning.common.errors import DataError
from cl_lightning.common.lfs import is_pointer

#: Escape that yields half a surrogate pair; UTF-8 itself cannot hold one.
_ESCAPED_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_SURROGATE = re.compile("[\ud800-\udfff]")


def read_text(path: Path) -> str:
    """Read a file as text, without a byte order mark. Raises DataError if it is no file, unreadable or not UTF-8."""
    refuse_special(path)
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        there = sorted(p.name for p in path.parent.iterdir()) if path.parent.is_dir() else []
        raise DataError(f"{path} is missing; the folder holds: {', '.join(there) or 'nothing'}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text (byte {error.start})") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None


def refuse_special(path: Path) -> None:
    """Raise DataError for a pipe, a device or a socket, which reading could wait for without end, and for a pointer."""
    if path.is_file() and is_pointer(path):
        raise DataError(f"{path}: is a Git LFS pointer, not the file itself; run git lfs pull there")
    if path.exists() and not path.is_file() and not path.is_dir():
        raise DataError(f"{path}: is not a regular file (a pipe, a device or a socket); copy its content to a file")


def read_json(path: Path) -> Any:
    """Read a JSON file. Raises DataError as `read_text` and `parse_json` do."""
    return parse_json(read_text(path), str(path))


class _TwiceError(Exception):
    """An object names a key twice."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        raise _TwiceError(next(name for name in names if names.count(name) > 1))
    return made


def parse_json(text: str, where: str) -> Any:
    """Parse JSON; `where` names its place in errors, as "FILE" or "FILE, row 3".

    Raises:
        DataError: not JSON; nested too deeply or an integer too long for Python; half a surrogate pair, which can be
            neither tokenised nor hashed.
    """
    try:
        value = json.loads(text, object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        line = f", line {error.lineno}" if "\n" in text.rstrip() else ""
        raise DataError(f"{where}{line}, column {error.colno}: not valid JSON ({error.msg})") from None
    except _TwiceError as error:
        raise DataError(f"{where}: an object has {error.args[0]!a} twice; keep one of them") from None
    except RecursionError:
        raise DataError(f"{where}: not usable JSON (lists or objects are nested too deeply)") from None
    except ValueError as error:  # an integer of thousands of digits
        raise DataError(f"{where}: not usable JSON ({str(error).partition(';')[0]})") from None
    if _ESCAPED_SURROGATE.search(text):
        _refuse_halves(value, where)
    return value


def _refuse_halves(value: Any, where: str) -> None:
    """Raise DataError for a text or key with half a surrogate pair, naming its place."""
    left: list[tuple[Any, tuple[str, ...]]] = [(value, ())]
    while left:
        item, place = left.pop()
        if isinstance(item, dict):
            left += [(key, (*place, "a key")) for key in item]
            left += [(inner, (*place, ascii(key))) for key, inner in item.items()]
        elif isinstance(item, list):
            left += [(inner, (*place, f"item {number}")) for number, inner in enumerate(item, start=1)]
        elif isinstance(item, str) and (half := _SURROGATE.search(item)):
            inside = ", ".join(place) or "the text"
            raise DataError(f"{where}: {inside} holds {half[0]!a}, half a surrogate pair, which is not a character")


def records_in(data: Any, where: Path | str) -> list[Any]:
    """Return `data` if it is a non-empty list. Raises DataError."""
    if not isinstance(data, list):
        raise DataError(f"{where}: holds {kind(data)}, expected a list of records")
    if not data:
        raise DataError(f"{where}: empty split, expected at least one record")
    return data


def text_of(record: dict[str, Any], key: str, where: str) -> str:
    """Return the text under `key`. Raises DataError if it is missing, not text, or blank."""
    if key not in record:
        raise DataError(f"{where} has no {key!r}; its keys: {', '.join(map(str, record)) or 'none'}")
    value = record[key]
    if not isinstance(value, str):
        raise DataError(f"{where}: {key!r} is {kind(value)}, expected text")
    if not value.strip():
        raise DataError(f"{where}: {key!r} is empty")
    return value


def kind(value: object) -> str:
    """Describe the type of a value in JSON's terms."""
    names = {dict: "an object", list: "a list", str: "text", bytes: "bytes", bool: "a boolean", type(None): "null"}
    other = "a number" if isinstance(value, Number) else f"of type {type(value).__name__}"
    return names.get(type(value), other)
