"""Git LFS pointers: small files that stand for large ones until `git lfs pull` gets those. No torch here."""

from pathlib import Path

POINTER = b"version https://git-lfs.github.com/spec"


def is_pointer(path: Path) -> bool:
    """Return whether a file is such a pointer. One that cannot be read is none: that is said where it is read."""
    try:
        with path.open("rb") as file:
            return file.read(len(POINTER)) == POINTER
    except OSError:
        return False
