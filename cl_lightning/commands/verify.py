"""Verify a run folder: `cl-lightning verify RUN`.

Compares the record with its own checksum, and every file that it names with its digest; the same for further scores
below the run. Every other command does this too when it opens a run, with the digests of large files when it reads
them. Exit code 2: something is damaged.
"""

from pathlib import Path

from cl_lightning.commands.arguments import Arguments
from cl_lightning.common.errors import StateError
from cl_lightning.common.terminal import say
from cl_lightning.common.wording import counted
from cl_lightning.sequence import status
from cl_lightning.sequence.folder import records_below
from cl_lightning.sequence.record_file import read_record_file
from cl_lightning.sequence.unfinished import unfinished_of
from cl_lightning.sequence.verify import REMEDY, export_faults, faults, previous_record, read_record, unfinished_faults
from cl_lightning.sequence.versions import differences, installed


def main(argv: list[str]) -> None:
    """Verify the run that `argv` names. Raises StateError for the first damage, after all of it is printed."""
    parser = Arguments("verify", __doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="a run folder, or a view below one")
    path = parser.parse_args(argv).run
    for folder in (path, *(path / name for name in records_below(path))):
        _verify(folder)


def _verify(path: Path) -> None:
    record = _record(path)
    found = list(faults(path, record, whole=True))
    for line in found:
        say(f"damaged: {line}")
    read_record(path)  # which raises the line that every command prints
    if found:
        raise StateError(f"{found[0]}; {REMEDY}")
    of = f"{record['done']} of {len(record['order'])} tasks done, {counted(len(record['files']), 'file')}"
    say(f"{path}: whole ({of})")
    for line in (text for texts in differences(record["versions"], installed()) for text in texts):
        say(f"note: trained with {line}")
    for line in unfinished_faults(path, record, whole=True):
        say(f"damaged: {line}; the task that was not finished begins again")
    for line in export_faults(path, record):
        say(f"damaged: {line}; a copy for other programs, which the run's own command writes again")
    inside = unfinished_of(record)
    if inside is not None and (line := status.resumed(record["done"], record["order"], inside)):
        say(f"note: the run's own command goes on, {line}")
    if (earlier := previous_record(path)) is not None:
        say(f"note: the state after task {earlier['done']} is kept, too")


def _record(path: Path) -> dict:
    try:
        return read_record_file(path)
    except StateError:
        read_record(path)  # the same, with what remains
        raise
