"""Shows the command that repeats the run, and its configuration."""

from shlex import quote

from cl_lightning.results.page.parts import Section
from cl_lightning.results.page.source import Source
from cl_lightning.sequence.folder import CONFIG


def section(run: Source) -> Section:
    """Build the command, which reads the run's config.yaml and writes to another folder."""
    experiment = quote(f"--sequence.experiment={run.record['experiment']}")
    command = f"cl-lightning run --config={quote(str(run.path / CONFIG))} --sequence.run_dir=FOLDER {experiment}"
    text = [
        "The command repeats the run in a folder of your choice. With the same versions, device kind and number of "
        "threads the numbers are the same."
    ]
    listings = [("Command", command), (CONFIG, run.configuration)]
    return Section("Configuration", text, listings=listings)
