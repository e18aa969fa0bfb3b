"""Checks of a Trainer of the user's own, which trains one task without a run."""

from lightning.pytorch import Trainer

from cl_lightning.adapters.base import AdapterStrategy
from cl_lightning.common.errors import ConfigError
from cl_lightning.data.sampler import StepSampler
from cl_lightning.data.task_sequence import TaskSequence
from cl_lightning.model.backbone import Backbone
from cl_lightning.model.names import dtype_fault, precision_fault
from cl_lightning.model.strategies import check_strategy


def suitable_data(trainer: Trainer, backbone: Backbone, adapter: AdapterStrategy, begun: int | None) -> TaskSequence:
    """Return the tasks that a Trainer was given. `begun`: number of the task that was trained before, if one was.

    Raises:
        ConfigError: it was given other data, which serves another task than before, or its precision, the base's dtype
            or the strategy do not suit.
    """
    data = getattr(trainer, "datamodule", None)
    if not isinstance(data, TaskSequence):
        raise ConfigError("trainer.fit(module, datamodule=data): data must be a cl_lightning.TaskSequence")
    if why := precision_fault(str(trainer.precision)) or dtype_fault(backbone.dtype):
        raise ConfigError(why)
    check_strategy(trainer.strategy)
    if reasons := adapter.check({}):
        raise ConfigError(f"{'; '.join(reasons)}; cl_lightning.ContinualTrainer takes boundary=")
    if begun not in (None, data.current):
        raise ConfigError(
            f"the model has been trained on {data.order[begun or 0]}, and a Trainer trains one task; "
            "cl_lightning.ContinualTrainer trains several"
        )
    return data


def check_sampler(trainer: Trainer) -> None:
    """Raise ConfigError if Lightning has put a sampler of its own in the place of a task's."""
    if not isinstance(trainer.train_dataloader.sampler, StepSampler):
        raise ConfigError("trainer.use_distributed_sampler: TaskSequence divides batches itself; set it to false")
