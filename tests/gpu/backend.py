"""An observer that writes down by what the ranks of its run speak to each other."""

import torch.distributed as dist

from cl_lightning.sequence.callback import TaskCallback
from cl_lightning.sequence.context import RunContext


class Backend(TaskCallback):
    """Writes the backend of the process group, and the model's device, to `file` as a task begins."""

    def __init__(self, file: str) -> None:
        self.file = file

    def on_task_start(self, run: RunContext, task: int) -> None:
        backend = dist.get_backend() if dist.is_initialized() else "none"
        with open(self.file, "a") as out:
            out.write(f"{backend} {run.module.llm.device.type}\n")
