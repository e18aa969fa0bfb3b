"""Turn an allocation that failed into one line that names the option to turn."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from cl_lightning.common.errors import TrainingError
from cl_lightning.sequence.stages import Stages

#: Signs of a failed allocation in errors of torch that have no class of their own.
SIGNS = ("can't allocate memory", "not enough memory")
SCORING = "lower data.eval_batch_size, which changes no score"
TRAINING = (
    "raise trainer.accumulate_grad_batches, which makes the same steps of smaller micro-batches, set "
    "model.backbone.gradient_checkpointing=true, or lower data.max_prompt_tokens"
)
BOUNDARY = "lower batch_size of the boundary callbacks, or set boundary.init.memory_budget (bytes)"
#: What to do, by stage; BOUNDARY elsewhere.
ADVICE = {
    "training": TRAINING,
    "scoring": SCORING,
    "zero-shot": SCORING,
    "probes": "lower observers.probes.batch_size",
    "general": "lower observers.general.batch_size",
}


@contextmanager
def report_out_of_memory(stages: Stages, resume: str) -> Iterator[None]:
    """Raise TrainingError where memory, of a GPU or the CPU, does not suffice. `resume`: how to go on."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:  # torch.OutOfMemoryError is a RuntimeError
        known = isinstance(error, torch.OutOfMemoryError | MemoryError)
        if not known and not any(sign in str(error) for sign in SIGNS):
            raise
        name = stages.current.name if stages.current is not None else "saving"
        task = f" of task {stages.order[stages.task]}" if 0 <= stages.task < len(stages.order) else ""
        advice = ADVICE.get(name, BOUNDARY)
        fault = TrainingError(
            f"out of memory in {name}{task}: {advice}; or load the base with model.backbone.load_in_4bit=true. "
            f"What was saved is kept; {resume}"
        )
        fault.of_one_rank = True
        raise fault from error
