"""A fault to plant."""

from typing import NamedTuple


class Fault(NamedTuple):
    """Replace `right` by `wrong`, once, in `file`; `tests` are arguments of pytest."""

    name: str
    file: str
    right: str
    wrong: str
    tests: str
