"""JSON files of users' own data: what is wrong with one is said in one line that names the place. No torch here."""

import json
from pathlib import Path
from typing import Any

from cl_lightning.errors import DataError


def read_json(path: Path) -> Any:
    """What the file holds. Raises DataError where it is absent, unreadable, not UTF-8 or not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        found = ", ".join(sorted(p.name for p in path.parent.iterdir())) or "nothing"
        raise DataError(f"{path} is missing; the folder holds: {found}") from None
    except json.JSONDecodeError as error:
        message = f"{path}, line {error.lineno}, column {error.colno}: not valid JSON ({error.msg})"
        raise DataError(message) from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text (byte {error.start})") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None


def records_in(data: Any, where: Path | str) -> list[Any]:
    """`data`, if it is a list with something in it. Raises DataError."""
    if not isinstance(data, list):
        raise DataError(f"{where}: holds {kind(data)}, expected a list of records")
    if not data:
        raise DataError(f"{where}: empty split, expected at least one record")
    return data


def text_of(record: dict[str, Any], key: str, where: str) -> str:
    """The text under `key`. Raises DataError where there is none, or only blanks."""
    if key not in record:
        raise DataError(f"{where} has no {key!r}; its keys: {', '.join(map(str, record)) or 'none'}")
    value = record[key]
    if not isinstance(value, str):
        raise DataError(f"{where}: {key!r} is {kind(value)}, expected text")
    if not value.strip():
        raise DataError(f"{where}: {key!r} is empty")
    return value


def kind(value: object) -> str:
    """What sort of JSON value it is, in words."""
    names = {dict: "an object", list: "a list", str: "text", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")
