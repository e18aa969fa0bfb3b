"""Refuse Lightning's callbacks that cannot work on a task, before anything is loaded."""

from collections.abc import Iterable
from difflib import get_close_matches

from lightning.pytorch.callbacks import (
    BaseFinetuning,
    BatchSizeFinder,
    Callback,
    GradientAccumulationScheduler,
    LearningRateFinder,
    ModelPruning,
    StochasticWeightAveraging,
    WeightAveraging,
)

from cl_lightning.common.errors import ConfigError

#: Kind of callback -> why it is refused, and what to do.
REFUSED = {
    BatchSizeFinder: "it would change the batch of the task; find one by hand with data.batch_size",
    LearningRateFinder: "its steps and its rate would be no part of the run; try rates with cl-lightning sweep",
    GradientAccumulationScheduler: "a step's loss is the mean over all its micro-batches, whose number stays; "
    "use trainer.accumulate_grad_batches",
    ModelPruning: "it would prune the frozen base as well; choose a smaller model.adapter.rank",
    StochasticWeightAveraging: "it would average the frozen base as well; try model.schedule=cosine",
    WeightAveraging: "it would average the frozen base as well; try model.schedule=cosine",
    BaseFinetuning: "the strategy says what is trained (model.adapter)",
}
#: What is logged in training, whatever the options.
TRAINING, VALIDATION = "train/loss", "val/loss"


def check_stock(callbacks: Iterable[Callback], validates: bool) -> None:
    """Check callbacks of `trainer.callbacks`. `validates`: whether tasks are validated.

    Raises:
        ConfigError: one that would change what is trained, or that monitors what is not logged.
    """
    for callback in callbacks:
        name = type(callback).__name__
        for kind, why in REFUSED.items():
            if isinstance(callback, kind):
                raise ConfigError(f"trainer.callbacks: {name}: {why}")
        monitor = getattr(callback, "monitor", None)
        if monitor == VALIDATION and not validates:
            raise ConfigError(
                f"trainer.callbacks: {name} monitors {VALIDATION}, but nothing is validated; set "
                "trainer.limit_val_batches=1.0 and data.validation_samples to more than 0"
            )
        known = [TRAINING, VALIDATION]
        if monitor not in (None, *known) and (close := get_close_matches(monitor, known, n=1, cutoff=0.75)):
            raise ConfigError(f"trainer.callbacks: {name} monitors {monitor!r}; did you mean {close[0]}?")
