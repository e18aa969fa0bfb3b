"""Options of a run: its folder, what it continues, what it saves, and logging."""

from dataclasses import dataclass, field

from cl_lightning.common.choices import check_choices
from cl_lightning.common.errors import ConfigError
from cl_lightning.common.numbers import Count, SaveEvery, Threads
from cl_lightning.common.paths import in_home
from cl_lightning.sequence.loggers import Wandb

#: Most characters of a run's name, the limit of wandb.
LONGEST_NAME = 128


@dataclass
class SequenceSettings:
    """Options of a run.

    Attributes:
        experiment: name of the folder under runs/; by default the name of the last --config.
        run_dir: the run folder; null: runs/<experiment>/<hash of configuration, data and base>.
        fresh: start over, deleting the run in the folder. Applies to this command only; config.yaml stores false.
        continue_from: run folder of a finished sequence of the first tasks of `data.order`; only the rest is trained.
        zero_shot: score the base model on all tasks before the first.
        wandb: "offline" (no key, no network), "online" or "off". The CSV log is always written.
        name: the run's name in loggers, reports and comparisons; null: the experiment's.
        group, job_type, tags, notes: what wandb files the run under.
        log_every_n_steps: optimiser steps between logged losses, and between Lightning's own values unless
            `trainer.log_every_n_steps` says otherwise.
        report: write report.html and figures/ into the run folder at the end.
        other_versions: continue an unfinished run with another release of torch, transformers, lightning or this
            package than its finished tasks were trained with.
        save_every: steps or minutes of training between saves of the state inside a task, as in "10 minutes" or
            "500 steps". A killed run goes on from the last one.
        threads: CPU threads per process; null: cores / processes. The same number gives the same rounding.
    """

    experiment: str | None = None
    run_dir: str | None = None
    fresh: bool = False
    continue_from: str | None = None
    zero_shot: bool = True
    wandb: Wandb = "offline"
    name: str | None = None
    group: str | None = None
    job_type: str | None = None
    tags: list[str] = field(default_factory=list)
    notes: str | None = None
    log_every_n_steps: Count = 1
    report: bool = True
    other_versions: bool = False
    save_every: SaveEvery = "10 minutes"
    threads: Threads | None = None

    def __post_init__(self) -> None:
        check_choices(SequenceSettings, (), vars(self))
        if self.name is not None and len(self.name) > LONGEST_NAME:
            raise ConfigError(f"sequence.name: has {len(self.name)} characters; loggers take at most {LONGEST_NAME}")
        for name in ("run_dir", "continue_from"):
            if (given := getattr(self, name)) is not None:
                setattr(self, name, str(in_home(given, f"sequence.{name}")))
