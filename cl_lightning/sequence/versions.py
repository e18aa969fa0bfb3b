"""Compare the versions that a record was written by with those that are installed. No torch here."""

import platform
from collections.abc import Mapping
from importlib.metadata import version

from cl_lightning.common.errors import StateError

#: Packages whose release (the first two numbers) may change a run's numbers.
PACKAGES = ("torch", "lightning", "transformers", "cl-lightning")


def installed() -> dict[str, str]:
    """Return the installed versions of Python and of PACKAGES."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def differences(stored: Mapping[str, str], now: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """Return the packages of another release, then those that differ less, each as "torch 2.12.0 (now 2.13.0)".

    A local version (2.13.0+cpu) is no other release: where a run runs is no part of its identity.
    """
    other = [name for name in now if stored.get(name) != now[name]]
    serious = [name for name in PACKAGES if name in other and _release(stored.get(name, "")) != _release(now[name])]
    texts = {name: f"{name} {stored.get(name, 'unknown')} (now {now[name]})" for name in other}
    return [texts[name] for name in serious], [texts[name] for name in other if name not in serious]


def _release(text: str) -> list[str]:
    return text.split(".")[:2]


def check_versions(stored: Mapping[str, str], unfinished: bool, allow: bool) -> str | None:
    """Compare a record's versions with the installed ones; return a warning, or None if they are equal.

    Args:
        unfinished: tasks are left, whose results another release may change.
        allow: continue with another release (`sequence.other_versions`).

    Raises:
        StateError: tasks are left, and a package has another release that is not allowed.
    """
    serious, slight = differences(stored, installed())
    if serious and unfinished and not allow:
        raise StateError(
            f"the finished tasks were trained with {', '.join(serious)}, and another release may give other numbers; "
            "install that one, or add --sequence.other_versions=true"
        )
    found = [*serious, *slight]
    return f"warning: the finished tasks were trained with {', '.join(found)}" if found else None
