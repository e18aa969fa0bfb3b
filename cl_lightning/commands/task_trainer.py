"""Lightning's Trainer with the values of its options that can train a task."""

from typing import Any, Literal

import lightning.pytorch as pl

from cl_lightning.common.numbers import Count, Duration, NoLimit, NonNegative, Share

#: Options that end a task's training early, with the value that does not.
CUTS = {
    "fast_dev_run": False,
    "max_steps": -1,
    "max_time": None,
    "limit_train_batches": None,
}


class TaskTrainer(pl.Trainer):
    """A Trainer of one task. Its options are checked by the parser; the others are those of Lightning's Trainer."""

    def __init__(
        self,
        *,
        fast_dev_run: bool | Count = False,
        max_steps: NoLimit | Count = -1,
        min_steps: Count | None = None,
        max_time: Duration | None = None,
        limit_train_batches: Count | Share | None = None,
        overfit_batches: Literal[0] = 0,
        log_every_n_steps: Count | None = None,
        gradient_clip_val: NonNegative | None = None,
        num_nodes: Count = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            fast_dev_run=fast_dev_run,
            max_steps=max_steps,
            min_steps=min_steps,
            max_time=max_time,
            limit_train_batches=limit_train_batches,
            overfit_batches=overfit_batches,
            log_every_n_steps=log_every_n_steps,
            gradient_clip_val=gradient_clip_val,
            num_nodes=num_nodes,
            **kwargs,
        )


def _cuts(value: Any, whole: Any) -> bool:
    return value != whole and not (isinstance(value, float) and value == 1.0)


def cut(options: dict[str, Any]) -> str:
    """Name the options of `trainer` that end training early, as the end of a description of the data; "" if none."""
    set_ = [f"trainer.{name}={options[name]}" for name, whole in CUTS.items() if _cuts(options.get(name), whole)]
    return f"; TRAINING CUT by {', '.join(set_)}" if set_ else ""
