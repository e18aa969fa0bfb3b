"""Numbers and pairs that no run can use are refused by the parser, each in one line, before anything is loaded."""

from importlib import import_module
from typing import get_args, get_type_hints

import pytest

from cl_lightning.commands.task_trainer import TaskTrainer, cut
from cl_lightning.data.task_sequence import TaskSequence
from cl_lightning.model.backbone import Backbone
from cl_lightning.model.module import ContinualLM
from cl_lightning.sequence.settings import SequenceSettings
from cl_lightning.sequence.slots import SLOTS
from tests.commands.test_bad_input import SMALL
from tests.commands.test_cli import launch

#: Option -> what the line says.
REFUSED = {
    "--seed_everything=-1": "seed_everything: expected a seed of 0 or more, below 2^32, not '-1'",
    "--seed_everything=4294967296": "seed_everything: expected a seed of 0 or more, below 2^32, not '4294967296'",
    "--data.train_samples+=1": "data.train_samples+: += adds to lists only; write data.train_samples=VALUE",
    "--model.weight_decay=-1": "model.weight_decay: expected a finite number of 0 or more, not '-1'",
    "--model.betas=[2,2]": "model.betas: expected a factor of 0 to below 1, not '2'",
    "--model.lr=.nan": "model.lr: expected float, not '.nan'",
    "--trainer.gradient_clip_val=-1": "trainer.gradient_clip_val: expected a finite number of 0 or more or null",
    "--sequence.log_every_n_steps=0": "sequence.log_every_n_steps: expected a count of 1 or more, not '0'",
    "--sequence.threads=100000": "sequence.threads: expected a number of threads, 1 to 1024 or null, not '100000'",
    "--trainer.max_steps=0": "trainer.max_steps: expected -1, no limit or a count of 1 or more, not '0'",
    "--trainer.limit_train_batches=0": "trainer.limit_train_batches: expected a count of 1 or more or a share above 0",
    "--trainer.val_check_interval=0": "trainer.val_check_interval: expected a count of 1 or more or a share above 0",
    "--trainer.check_val_every_n_epoch=0": "trainer.check_val_every_n_epoch: expected a count of 1 or more or null",
    "--trainer.max_time=00:00:00:00": "trainer.max_time: expected a duration above 0 as DD:HH:MM:SS or null",
    "--data.epochs=4294967296": "data.epochs: expected an integer of at most 31 bits or list or 'published'",
    "--boundary.ewc={class_path: EWC, init_args: {strength: .inf}}": "EWC.strength: expected a finite number",
    "--trainer.callbacks+=OnExceptionCheckpoint": "OnExceptionCheckpoint.dirpath: is null or left out; give it a",
    "--trainer.callbacks=EarlyStopping": "EarlyStopping.monitor: is null or left out; give it a value (str)",
    "--trainer.callbacks={class_path: Timer, init_args: {interval: 2}}": "Timer.interval: expected",
    "--boundary.init.scope=null": "SliceInit.scope: is null or left out; give it a value ('matrix' or 'block' or 'gl",
}


@pytest.mark.parametrize("option", REFUSED)
def test_a_value_outside_is_one_line(option: str) -> None:
    result = launch(*SMALL, option)
    assert result.code == 2
    assert result.line.startswith(REFUSED[option])


def test_what_cuts_training_is_named() -> None:
    whole = {"fast_dev_run": False, "max_steps": -1, "max_time": None, "limit_train_batches": None}
    assert cut(whole) == cut({**whole, "limit_train_batches": 1.0}) == ""
    assert cut({**whole, "max_steps": 3}) == "; TRAINING CUT by trainer.max_steps=3"
    assert cut({**whole, "limit_train_batches": 1}) == "; TRAINING CUT by trainer.limit_train_batches=1"


def has_plain_numbers(kind: type) -> list[str]:
    """Options of a class that take any number of Python, infinities and NaN included."""

    def plain(annotation: object) -> bool:
        return annotation in (int, float) or any(map(plain, get_args(annotation)))

    return [name for name, annotation in get_type_hints(kind.__init__).items() if plain(annotation)]


def test_every_number_of_every_section_and_class_is_held_to_its_kind() -> None:
    sections = [Backbone, ContinualLM, SequenceSettings, TaskSequence, TaskTrainer]
    packages = map(import_module, set(SLOTS.values()))
    classes = [getattr(package, name) for package in packages for name in package.EXPORTS]
    kinds = [*sections, *(kind for kind in classes if isinstance(kind, type))]
    assert len(kinds) > 50
    found = {kind.__name__: names for kind in kinds if (names := has_plain_numbers(kind))}
    assert found == {}

    class Unchecked:
        def __init__(self, rate: float | None = None, counts: list[int] | str = "all", name: str = "") -> None:
            pass

    assert has_plain_numbers(Unchecked) == ["rate", "counts"], "the control"
