"""Remove training texts from a run folder: `cl-lightning purge RUN`.

The replay memory (state/memory-*.json) then holds the ids of its examples instead of their texts. The run stays whole:
it can be read, resumed and continued, with the texts taken from its data again. Predictions and their references, logs
and exports stay as they are, and what was overwritten may be found on the disk until its blocks are used again.
"""

import json
import re
from pathlib import Path

from callbacks.replay_buffer import ids_only
from cl_lightning.commands.arguments import Arguments
from cl_lightning.common.errors import StateError
from cl_lightning.common.files import to_json
from cl_lightning.common.terminal import say
from cl_lightning.common.wording import counted
from cl_lightning.sequence.folder import RunFolder

#: Files of the slot `memory`, where callbacks look for a replay memory.
MEMORY = re.compile(r"state/memory-\d+\.json")


def main(argv: list[str]) -> None:
    """Purge the run that `argv` names. Raises StateError: it is damaged, or in use."""
    parser = Arguments("purge", __doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="a run folder")
    path = parser.parse_args(argv).run
    folder = RunFolder(path)
    folder.reopen()
    try:
        changed = {}
        for name in filter(MEMORY.fullmatch, folder.files):
            try:
                kept = json.loads(folder.read(name))
                ids = to_json(ids_only(kept))
            except (ValueError, KeyError, TypeError, AttributeError):
                raise StateError(f"{path / name}: does not hold a replay memory; nothing was changed") from None
            if ids != to_json(kept):
                changed[name] = ids
        folder.rewrite(changed)
    finally:
        folder.close()
    say(f"{path}: {counted(len(changed), 'file')} of the replay memory with texts, now with ids only")
