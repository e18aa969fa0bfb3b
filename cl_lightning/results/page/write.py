"""Writes a run's page and figures into its folder, each file completely or not at all."""

import secrets
from pathlib import Path
from shlex import quote

from cl_lightning.common.errors import StateError, UserError
from cl_lightning.common.files import replace_file, report_disk_errors
from cl_lightning.common.paths import below
from cl_lightning.common.terminal import say
from cl_lightning.results.page.assemble import assembled
from cl_lightning.results.page.sections import SECTIONS
from cl_lightning.results.page.source import Source
from cl_lightning.results.page.verdict import standing, verdict
from cl_lightning.results.tables import state_of
from cl_lightning.sequence.run_files import PAGE, is_report

#: The figure of the last line of a run.
PLANE = "figures/plane.svg"


def write(path: Path) -> Path:
    """Write `report.html` and `figures/` into a run folder; return the page's path.

    Raises:
        StateError: the folder is not a run, is damaged or not writable, or has another file of one of these names.
    """
    _write(Source(path))
    return path / PAGE


def _write(run: Source) -> set[str]:
    """Write the files; return their names."""
    path = run.path
    title = f"{run.record.get('name') or run.record['experiment']} on {state_of(run.record)}"
    page, drawn = assembled(title, verdict(run), (make(run) for make in SECTIONS))
    files = {f"figures/{name}.{kind}": data for name, figure in drawn.items() for kind, data in figure.files().items()}
    for name in (*files, PAGE):
        _check_ours(path, name)
    for name, data in {**files, PAGE: page}.items():
        _put(path, name, data)
    return {PAGE, *files}


def write_at_end(path: Path) -> None:
    """Call `write` after a run, and say where the run stands on the stability-plasticity plane.

    The run's result is saved by then, so an error is printed and does not fail the run. The printed command draws the
    report again and fails with the same error.
    """
    try:
        run = Source(path)
        names = _write(run)
    except Exception as error:
        why = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        again = f"the run is complete; cl-lightning report {quote(str(path))} draws it again"
        say(f"the report could not be drawn ({why}); {again}", error=True)
    else:
        say(f"report: {path / PAGE}")
        if PLANE in names and run.resampled is not None:
            say(f"{standing(run)} ({path / PLANE})")


def _put(folder: Path, name: str, data: bytes) -> None:
    """Replace an earlier report's file. A scratch file of its own: the run may be writing at the same time."""
    file = _check_ours(folder, name)
    with report_disk_errors(file, StateError):
        file.parent.mkdir(exist_ok=True)
        replace_file(file, data, below(folder, f".cl_lightning-{secrets.token_hex(8)}"))


def _check_ours(folder: Path, name: str) -> Path:
    """The path of a report's file. Raises StateError where a link or somebody else's file is in its place."""
    file = below(folder, name)
    if file.exists() and not is_report(file):
        raise StateError(f"{file}: is not a report's, and would be overwritten; move it away, then run again")
    return file
