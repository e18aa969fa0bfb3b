"""Resolve names below a folder, refusing those that would leave it. No torch here.

Names from records, task names, options and callbacks are untrusted; all of them are resolved here.
"""

from pathlib import Path, PureWindowsPath

from cl_lightning.common.errors import ConfigError, StateError, UserError

#: Limit in bytes for one part of a path, on common file systems.
LONGEST_PART = 255


def check_utf8(option: str, text: str) -> None:
    """Raise ConfigError if `text` cannot be encoded as UTF-8, as records, configurations and logs are."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ConfigError(f"{option}: {text!r} is not valid UTF-8; rename it, or choose another") from None


def in_home(given: str, option: str) -> Path:
    """Return the path that an option names, with a leading "~" or "~user" as that home folder.

    Raises:
        ConfigError: there is no such user, or no home.
    """
    try:
        return Path(given).expanduser()
    except RuntimeError:
        raise ConfigError(f"{option}: {given}: no home folder is known for the ~; write the whole path") from None


def name_fault(name: object) -> str | None:
    """Return why `name` is not a valid name below a folder ("a/b.csv"), as the end of a sentence, or None if it is."""
    if not isinstance(name, str) or not name:
        return "is not text" if name != "" else "is empty"
    if not name.isprintable():
        return "has unprintable characters"
    if "\\" in name or name.startswith("/") or PureWindowsPath(name).anchor:
        return "is not a plain relative name"
    parts = name.split("/")
    if not all(part.strip(".") for part in parts):
        return "has an empty part or one of dots only"
    if any(len(part.encode()) > LONGEST_PART for part in parts):
        return f"has a part of more than {LONGEST_PART} bytes"
    return None


def part_fault(name: object) -> str | None:
    """Like `name_fault`, for a name that is one part of a path: of a task or a slot."""
    return name_fault(name) or ("has a slash" if "/" in str(name) else None)


def below(root: Path, name: str, kind: type[UserError] = StateError) -> Path:
    """Return the path of `name` below `root`; it need not exist. `root` itself may be a link.

    Raises:
        StateError (or `kind`): `name` is not a valid name, or one of its parts is a link.
    """
    if why := name_fault(name):
        raise kind(f"{root}: the name {name!r} {why}; only names below the folder are read or written")
    path = root
    for part in name.split("/"):
        path = path / part
        if path.is_symlink():
            raise kind(f"{path}: is a link, and links are not followed; put the file or folder itself there")
    return path
