"""Conversations: checks their turns, and writes them as one text. Imports no torch."""

from collections.abc import Mapping, Sequence
from typing import Any

from cl_lightning.common.errors import DataError, nearest
from cl_lightning.common.wording import brief
from cl_lightning.data.base import Turn
from cl_lightning.data.benchmarks.json_files import kind
from cl_lightning.data.layouts.base import Asked, field, text

#: Fields of a row or a turn that would be left out, and what they hold.
NOT_READ = {
    "tools": "tools",
    "tool_calls": "calls of tools",
    "function_call": "a call of a function",
    "reasoning_content": "a train of thought",
    "thinking": "a train of thought",
}
#: Names of the speakers where a model has no chat template.
SPEAKERS = {"user": "User: ", "assistant": "Assistant: "}


def conversation(turns: Sequence[Turn], answers: Sequence[Any]) -> Asked:
    """Return what a conversation asks that ends with the user's turn.

    One message of a user and nothing else is a plain prompt.
    """
    system = [said for role, said in turns if role == "system"]
    rest = [turn for turn in turns if turn[0] != "system"]
    if len(turns) == 1:
        return Asked(turns[0][1], answers)
    alone = len(rest) == 1
    written = rest[0][1] if alone else "\n".join(f"{SPEAKERS[role]}{said}" for role, said in rest) + "\nAssistant:"
    return Asked("\n\n".join([*system, written]), answers, tuple(turns))


def turns_of(
    row: Mapping[str, Any], name: str, where: str, keys: tuple[str, str], roles: Mapping[str, str]
) -> list[Turn]:
    """Read the list of turns in a field: a system message first or none, then user and assistant in turn.

    Args:
        keys: names of a turn's speaker and text.
        roles: speaker -> "system", "user" or "assistant".

    Raises:
        DataError: not such a list; the message names the turn.
    """
    listed = field(row, name, where)
    if not isinstance(listed, list):
        raise DataError(f"{where}: {name!r} is {kind(listed)}, expected a list of turns")
    turns: list[Turn] = []
    for number, item in enumerate(listed, start=1):
        place = f"{where}, turn {number} of {name!r}"
        if not isinstance(item, dict):
            raise DataError(f"{place} is {kind(item)}, expected an object with {keys[0]!r} and {keys[1]!r}")
        role = roles.get(speaker) if isinstance(speaker := field(item, keys[0], place), str) else None
        if role is None:
            shown = repr(brief(speaker)) if isinstance(speaker, str) else kind(speaker)
            raise DataError(f"{place} is by {shown}; {nearest(brief(str(speaker)), roles)}")
        refuse_not_read(item, place)
        said = _said(field(item, keys[1], place), place, keys[1])
        if role == "system" and not said.strip() and not turns:
            continue
        expected = _next(turns)
        if role not in expected:
            raise DataError(f"{place} is by the {role}, expected the {' or the '.join(expected)}")
        if not said.strip():
            raise DataError(f"{place}: {keys[1]!r} is empty")
        turns.append((role, said))
    if not turns or turns[-1][0] != "assistant":
        ends = f"ends with the {turns[-1][0]}" if turns else "is empty"
        raise DataError(f"{where}: {name!r} {ends}, expected an assistant's turn at its end, which is the answer")
    return turns


def refuse_not_read(row: Mapping[str, Any], place: str) -> None:
    """Raise DataError for a row or a turn with a field of NOT_READ that is not empty."""
    for name, what in NOT_READ.items():
        if row.get(name):
            raise DataError(
                f"{place} has {what} ({name!r}), which cannot be trained on; write it in the text, or leave it out"
            )


def system_of(row: Mapping[str, Any], where: str) -> list[Turn]:
    """Return the system message in a row's field `system`, if there is one."""
    said = "" if row.get("system") is None else text(row, "system", where)
    return [("system", said)] if said.strip() else []


def _next(turns: Sequence[Turn]) -> tuple[str, ...]:
    """Return who may speak next."""
    if not turns:
        return "system", "user"
    return ("assistant",) if turns[-1][0] == "user" else ("user",)


def _said(value: Any, place: str, key: str) -> str:
    """Return a turn's text, which may be a list of parts."""
    if not isinstance(value, list):
        if not isinstance(value, str):
            raise DataError(f"{place}: {key!r} is {kind(value)}, expected text")
        return value
    for part in value:
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            what = repr(brief(str(part["type"]))) if isinstance(part, dict) and "type" in part else kind(part)
            raise DataError(f"{place}: {key!r} has a part of type {what}; only parts of type 'text' can be read")
    return "".join(part["text"] for part in value)
