"""Links in a data folder that lead out of it. They are followed, and named. Imports no torch."""

import os
from pathlib import Path

from cl_lightning.common.errors import first_three
from cl_lightning.common.wording import counted


def links_out(root: Path) -> list[str]:
    """Say in one line which links below `root` lead out of it; none: no line."""
    inside = os.path.realpath(root)
    found = []
    for folder, folders, files in os.walk(root):
        for path in (Path(folder, name) for name in sorted((*folders, *files))):
            target = os.path.realpath(path)
            if path.is_symlink() and os.path.commonpath((inside, target)) != inside:
                found.append(f"{path.relative_to(root)} -> {target}")
    found.sort()
    return [f"{counted(len(found), 'link')} out of {root}, followed: {first_three(found)}"] if found else []
