"""Names below a folder: which file a name means, and whether it stays in the folder. No torch here.

Names come from records, task names, options and callbacks, so from anyone. Every one of them is resolved here.
"""

from pathlib import Path, PureWindowsPath

from cl_lightning.common.errors import ConfigError, StateError, UserError

#: Bytes of one part of a path, on common file systems.
LONGEST_PART = 255


def check_utf8(option: str, text: str) -> None:
    """Refuse what is no UTF-8 text, in which records, configurations and logs are written. Raises ConfigError."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ConfigError(f"{option}: {text!r} is no UTF-8 text; rename it, or choose another") from None


def name_fault(name: object) -> str | None:
    """Why `name` ("a/b.csv") names nothing below a folder, as the rest of a sentence; None where it does."""
    if not isinstance(name, str) or not name:
        return "is no text" if name != "" else "is empty"
    if not name.isprintable():
        return "has characters that do not print"
    if "\\" in name or name.startswith("/") or PureWindowsPath(name).anchor:
        return "is no plain name below a folder"
    parts = name.split("/")
    if not all(part.strip(".") for part in parts):
        return "has a part that is empty or dots alone"
    if any(len(part.encode()) > LONGEST_PART for part in parts):
        return f"has a part of more than {LONGEST_PART} bytes"
    return None


def part_fault(name: object) -> str | None:
    """As `name_fault`, for a name that is one part of a path: a task's, a slot's."""
    return name_fault(name) or ("has a slash" if "/" in str(name) else None)


def below(root: Path, name: str, kind: type[UserError] = StateError) -> Path:
    """The file or folder called `name` below `root`; it need not exist. `root` itself may be a link.

    Raises:
        StateError (or `kind`): the name leaves `root`, or one of its parts is a link there.
    """
    if why := name_fault(name):
        raise kind(f"{root}: the name {name!r} {why}; only names below the folder are read or written")
    path = root
    for part in name.split("/"):
        path = path / part
        if path.is_symlink():
            raise kind(f"{path}: is a link, and links are not followed; put the file or folder itself there")
    return path
