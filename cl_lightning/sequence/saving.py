"""Saves a run to its folder: the state inside a task, and after it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from pickle import UnpicklingError

import lightning.pytorch as pl
import torch
from safetensors.torch import save as save_tensors

from cl_lightning.common import distributed, stopping
from cl_lightning.common.files import to_json
from cl_lightning.common.terminal import say
from cl_lightning.sequence import status
from cl_lightning.sequence.callback import TaskCallback
from cl_lightning.sequence.folder import RunFolder, prediction_file, read_predictions, state_file
from cl_lightning.sequence.record import Record
from cl_lightning.sequence.unfinished import Unfinished, unfinished_of


class Saving:
    """What a run saves, and what was saved of the task that it works on.

    Args:
        slots: the task callbacks by slot, whose states are saved.
        fresh: whether the command starts over, for messages.

    Attributes:
        inside: the state inside the task that is worked on; None between tasks.
    """

    def __init__(self, folder: RunFolder, record: Record, slots: Mapping[str, TaskCallback], fresh: bool) -> None:
        self.folder, self.record, self.slots, self.fresh = folder, record, slots, fresh
        self.order: Sequence[str] = record.data.order
        self.inside: Unfinished | None = None

    def restore(self) -> int:
        """Restore the record and what was saved inside a task. Returns the number of tasks to restore the rest of."""
        self.record.restore(self.folder.state)
        self.inside = unfinished_of(self.folder.state)
        if self.inside is None:
            return len(self.record.matrix)
        self.record.restore_inside(self.inside)
        for after, cells in self.inside.cells.items():
            for task in cells:
                file = prediction_file(after, task)
                self.record.show(task, read_predictions(self.folder.path, self.folder.state, file))
        return self.inside.restored

    def begin(self, task: int) -> Unfinished:
        """Return what was saved inside a task, or begin to save it."""
        if self.inside is None:
            self.inside = Unfinished(task, clock=dict(vars(self.record.clock)), cells=self.record.cells)
        return self.inside

    @property
    def checkpoint(self) -> str | None:
        """Path of the checkpoint that the task goes on from."""
        name = self.inside.checkpoint
        return None if name is None else str(self.folder.path.absolute() / name)

    # ---- inside a task -----------------------------------------------------------------------------------

    def base(self) -> None:
        """Save that all callbacks have seen the base model."""
        self.states(0)
        self.inside.measured_base = True
        self.cell()

    def training(self, trainer: pl.Trainer, batches: int) -> None:
        """Save the state after an optimiser step, `batches` of this rank's micro-batches into the epoch.

        A file from elsewhere must not run code when it is read, so what needs that is not saved, with a warning.
        """
        inside, before = self.inside, replace(self.inside)
        name = f"unfinished/step_{trainer.global_step}.ckpt"
        distributed.on_main(partial(self.folder.prepare, name))
        trainer.save_checkpoint(self.folder.path.absolute() / name, weights_only=False)
        inside.stage, inside.checkpoint, inside.clock = "training", name, dict(vars(self.record.clock))
        inside.step, inside.epoch, inside.batches = trainer.global_step, trainer.current_epoch, batches
        distributed.on_main(partial(self._take, before))

    def _take(self, before: Unfinished) -> None:
        name = self.inside.checkpoint
        self.folder.take(name)
        if why := _not_plain(self.folder.path / name):
            say(f"warning: {why}; an interrupted task begins again, since checkpoints hold numbers and texts only")
            self.folder.discard([name])
            self.inside = before
        elif before.checkpoint not in (None, name):
            self.folder.discard([before.checkpoint])
        self._save()

    def trained(self) -> None:
        """Save that the task is trained and its branch frozen."""
        self.inside.stage, self.inside.clock = "scoring", dict(vars(self.record.clock))
        self._drop_training()
        distributed.on_main(self._save)

    def cell(self) -> None:
        """Save the scores so far."""
        distributed.on_main(self._save)

    def states(self, done: int) -> None:
        """Write the callbacks' states for a run with `done` tasks; the next save takes them up."""
        distributed.on_main(partial(self._states, done))

    def _states(self, done: int) -> None:
        for slot, callback in self.slots.items():
            if state := callback.state():
                self.folder.write(state_file(slot, done), to_json(state), callback.private)
            if tensors := callback.tensors():
                self.folder.write(state_file(slot, done, "safetensors"), save_tensors(tensors), callback.private)

    def _save(self) -> None:
        inside = self.inside
        inside.attempts = self.record.attempts + 1
        inside.costs = self.record.costs.tasks[self.order[inside.task]]
        self.folder.save_inside(vars(inside))
        self._set_message()

    def _drop_training(self) -> None:
        """Discard what only the training of the task needed."""
        base = [state_file(slot, 0, kind) for slot in self.slots for kind in ("json", "safetensors")]
        self.folder.discard(name for name in (self.inside.checkpoint, *base) if name in self.folder.files)
        self.inside.checkpoint = None

    # ---- after a task ------------------------------------------------------------------------------------

    def task(self) -> None:
        """Save the state after a task, whose row is in the record."""
        self._drop_training()
        self.inside, self.record.cells = None, {}
        distributed.on_main(self._commit)
        distributed.on_main(self.exports)

    def _commit(self) -> None:
        tables = {slot: [vars(t) for t in callback.tables()] for slot, callback in self.slots.items()}
        self.folder.commit({**self.record.content(), "attempts": self.record.attempts + 1, "tables": tables})
        self._set_message()

    def exports(self) -> None:
        """Write the record for other programs. Rank 0 only."""
        self.folder.export(self.record.exports())

    def _set_message(self) -> None:
        done = len(self.record.matrix)
        stopping.set_message(status.saved(self.folder.path, done, self.order, self.fresh, self.inside))


def _not_plain(checkpoint: Path) -> str | None:
    """Say what keeps a checkpoint from being read as plain values and tensors, or None."""
    try:
        torch.load(checkpoint, map_location="cpu", mmap=True, weights_only=True)
    except UnpicklingError as error:
        kind = re.search(r"GLOBAL (\S+)", str(error))
        return f"a callback or the optimiser keeps {kind[1] if kind else 'objects of classes'} in its state"
    return None
