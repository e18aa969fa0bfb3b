"""Composition root of `run`: parses the options, builds the objects, and prints the report of what `execution` runs.

Imports every room; `commands.run` checks what it can before importing this.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cl_lightning.commands import experiments, precheck
from cl_lightning.commands.execution import Parts, execute
from cl_lightning.commands.parser import ContinualCLI, make_cli
from cl_lightning.common.noise import silence
from cl_lightning.common.options import label
from cl_lightning.results import report
from cl_lightning.sequence.identity import is_computed
from cl_lightning.sequence.settings import SequenceSettings
from cl_lightning.sequence.slots import slot_package

#: Where an option was given, its name and its value.
Given = tuple[str, str, Any]


def run() -> None:
    """Parse `sys.argv`, run or continue the sequence, and print the report."""
    silence()
    cli = make_cli()
    settings = SequenceSettings(**vars(cli.config_init.sequence))
    execute(
        Parts(
            module=cli.model,
            data=cli.datamodule,
            settings=settings,
            boundary=cli.slots("boundary"),
            observers=cli.slots("observers"),
            trainers=cli.trainers,
            experiment=settings.experiment or _experiment(cli),
            label=_label(list(precheck.options(sys.argv[1:]))),
            config=cli.config.as_dict(),
            resolved=cli.resolved,
            as_written=cli.as_written,
            show=report.show,
        )
    )


def _experiment(cli: ContinualCLI) -> str:
    """Return the name of the last configuration file."""
    files = cli.config.config
    return Path(files[-1]).stem if files else "default"


def _label(given: Sequence[Given]) -> str:
    """Name the options shortly that differ from the experiment's own files, of those with an effect on results."""
    ours, own, theirs = experiments.folder().absolute(), {}, {}
    for where, option, value in given:
        if slot_package(option) is not None:
            value = str(value).rpartition(".")[2]  # a class by its short name
        (own if ours in Path(where).absolute().parents else theirs)[option] = value
    return label({o: v for o, v in theirs.items() if is_computed(o) and (o not in own or own[o] != v)})
