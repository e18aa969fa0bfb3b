"""`cl_lightning.ContinualTrainer`: trains on a sequence of tasks from a script or a notebook."""

import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cl_lightning.commands import experiments, precheck
from cl_lightning.commands.execution import Parts, execute
from cl_lightning.commands.parser import Resolved
from cl_lightning.commands.task_trainer import TaskTrainers
from cl_lightning.common.described import arguments, describe
from cl_lightning.common.errors import ConfigError, StateError
from cl_lightning.common.expected import expect
from cl_lightning.common.noise import silenced
from cl_lightning.common.options import flat, label
from cl_lightning.common.yaml_files import parse_yaml
from cl_lightning.data.task_sequence import TaskSequence
from cl_lightning.export.loaded import LoadedModel
from cl_lightning.model.module import ContinualLM
from cl_lightning.model.sharding import is_sharded
from cl_lightning.model.strategies import SHARDED
from cl_lightning.results import report
from cl_lightning.sequence.callback import TaskCallback
from cl_lightning.sequence.folder import read_record
from cl_lightning.sequence.identity import is_computed
from cl_lightning.sequence.settings import SequenceSettings


@dataclass(frozen=True)
class Result:
    """A finished run of a script.

    Attributes:
        folder: the run folder, as the command line writes it: `cl-lightning report`, `export`, .. read it.
        matrix: R[i][j], score on task j after task i, 0..100; None if not scored.
        metrics: ap, fp, bwt, .. of R, see `docs/scores.md`; None for those that are not defined.
        record: the contents of sequence.json (order, data, seed, versions, ..).
        model: the trained model, as `cl_lightning.load` returns it.
    """

    folder: Path
    matrix: list[list[float | None]]
    metrics: dict[str, Any]
    record: dict[str, Any]
    model: LoadedModel | None

    @property
    def module(self) -> ContinualLM:
        """The LightningModule with all tasks' branches."""
        return self._model.module

    def generate(self, prompts: Sequence[str], **options: Any) -> list[str]:
        """Answer prompts with the trained model; see `LoadedModel.generate` for the options."""
        return self._model.generate(prompts, **options)

    def show(self) -> None:
        """Print the score matrix and the sequence metrics."""
        report.show(self.folder)

    @property
    def _model(self) -> LoadedModel:
        if self.model is None:
            if self.record["protocol"] != "independent":
                raise StateError(
                    f"{self.folder}: each rank holds a part of the base (trainer.strategy={SHARDED}); "
                    f"cl_lightning.load({str(self.folder)!r}), in another process, loads the whole model"
                )
            raise StateError(
                f"{self.folder}: holds one model per task (data.protocol=independent); "
                f"cl_lightning.load({str(self.folder)!r}, after=TASK) loads one"
            )
        return self.model


class ContinualTrainer:
    """Trains a model on a sequence of tasks and scores it, as `cl-lightning run` does.

    Example:
        >>> trainer = ContinualTrainer(boundary={"memory": ReplayBuffer(64), "init": SliceInit()})  # doctest: +SKIP
        >>> result = trainer.fit(ContinualLM(Backbone("Qwen/Qwen3-0.6B")), TaskSequence(benchmark))  # doctest: +SKIP

    Args:
        boundary: task-boundary callbacks by slot: memory, init, subspaces, gates, ..
        observers: callbacks that only observe, by name; None: those of `experiments/_base.yaml`.
        sequence: options of the run: its folder, its name, wandb.
        trainer: options of Lightning's Trainer; the rest is as in `experiments/_base.yaml`. Passes over the data are
            `TaskSequence(epochs=)`.
    """

    def __init__(
        self,
        boundary: Mapping[str, TaskCallback] | None = None,
        observers: Mapping[str, TaskCallback] | None = None,
        sequence: SequenceSettings | None = None,
        **trainer: Any,
    ) -> None:
        for name, callbacks in (("boundary", boundary or {}), ("observers", observers or {})):
            expect(name, callbacks, Mapping, f"callbacks by name: {name}={{'name': Callback(), ..}}")
            for slot, callback in callbacks.items():
                expect(f"{name}[{slot!r}]", callback, TaskCallback, "a task callback, such as ReplayBuffer(64)")
        precheck.check_trainer({f"trainer.{name}": value for name, value in trainer.items()})
        self.boundary, self.settings = dict(boundary or {}), sequence or SequenceSettings()
        self.given, defaults = trainer, _defaults()
        self.options = {**defaults["trainer"], **trainer}
        self.observers = _built(defaults["observers"]) if observers is None else dict(observers)
        self._fitted = False

    def fit(self, module: ContinualLM, data: TaskSequence) -> Result:
        """Train on all tasks of `data`, in order, or go on where the same script was interrupted.

        Args:
            module: a model that is not loaded yet.
            data: the tasks.

        Raises:
            UserError: something the caller can fix, in one line; finished tasks are kept.
        """
        expect("module", module, ContinualLM, "ContinualLM(Backbone(..), ..); the data comes second")
        expect("data", data, TaskSequence, "TaskSequence(benchmark, ..)")
        if self._fitted or hasattr(module, "llm"):
            used = "ContinualTrainer" if self._fitted else "ContinualLM"
            raise ConfigError(
                f"this {used} has been used; make new objects for each run: a finished run in the same folder is "
                "loaded, an interrupted one goes on"
            )
        self._fitted = True
        with silenced(), _interruptible():
            trainers = TaskTrainers(self.options, self.settings.log_every_n_steps, data)
            trainers.check()
            options = Resolved(self._described(module, data))
            path = execute(
                Parts(
                    module=module,
                    data=data,
                    settings=self.settings,
                    boundary=self.boundary,
                    observers=self.observers,
                    trainers=trainers,
                    experiment=self.settings.experiment or "script",
                    label=self._label(module, data),
                    config=options.plain,
                    resolved=options.resolved,
                )
            )
        record = read_record(path)
        model = None if data.protocol.alone or is_sharded(module.llm) else LoadedModel.of(module, data)
        return Result(path, record["R"], record["metrics"], record, model)

    def _described(self, module: ContinualLM, data: TaskSequence) -> dict[str, Any]:
        """Describe the objects as the options that would make them."""
        return {
            "seed_everything": data.seed,
            "model": arguments(module),
            "data": {name: value for name, value in arguments(data).items() if name != "seed"},
            "boundary": describe(self.boundary),
            "observers": describe(self.observers),
            "sequence": asdict(self.settings),
            "trainer": describe(self.options),
        }

    def _label(self, module: ContinualLM, data: TaskSequence) -> str:
        """Name in short what was given, but for the tasks."""
        given = {
            "model": arguments(module),
            "data": {name: value for name, value in arguments(data).items() if name != "benchmark"},
            "boundary": describe(self.boundary),
            "trainer": describe(self.given),
        }
        return label({name: value for name, value in flat(given).items() if is_computed(name)})


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let Ctrl-C end what runs inside by KeyboardInterrupt: Lightning exits the process, and ignores further ones."""
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as left:
        if isinstance(left.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt("interrupted; finished tasks are kept") from None
        raise
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, before)


def _defaults() -> dict[str, Any]:
    file = experiments.folder() / f"{experiments.BASE}.yaml"
    return parse_yaml(file.read_text(), str(file))


def _built(slots: Mapping[str, Any]) -> dict[str, TaskCallback]:
    import callbacks

    return {slot: getattr(callbacks, of["class_path"])(**of.get("init_args", {})) for slot, of in slots.items()}
