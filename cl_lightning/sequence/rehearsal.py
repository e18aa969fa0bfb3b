"""A rehearsal: a run's work on tensors without data, to count the memory that it takes. See `cl_lightning.planning`.

Task callbacks take part by `TaskCallback.rehearse`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from cl_lightning.common.live_bytes import LiveBytes
from cl_lightning.model.module import ContinualLM
from cl_lightning.model.shapes import Assumed


@dataclass(frozen=True)
class Size:
    """Size of a batch of examples.

    Attributes:
        rows: examples.
        prompt, answer: tokens of the longest prompt and answer.
        length: tokens of the longest row that a model reads: prompt and answer, or the prompt of an encoder.
        labelled: answer tokens of all rows.
    """

    rows: int
    prompt: int
    answer: int
    length: int
    labelled: int

    @property
    def tokens(self) -> int:
        """Tokens with padding."""
        return self.rows * self.length


#: Rows of a batch -> the size of the largest one that is drawn from a task.
Drawn = Callable[[int], Size]


@dataclass
class Rehearsal:
    """What a task callback rehearses with.

    Attributes:
        module: the model without data, with the branch of the task.
        order: names of the tasks.
        task: the task that is rehearsed, from 0. Earlier ones only shape what they leave to later ones.
        seed: the run's.
        drawn: size of batches at a boundary.
        live: counts the bytes in use.
        assumed: what is assumed of masks.
        held, made: see `hold`.
        after_training: what callbacks do when training ends, to give back what they held for it alone.
    """

    module: ContinualLM
    order: list[str]
    task: int
    seed: int
    drawn: Drawn
    live: LiveBytes
    assumed: Assumed
    held: int = 0
    made: int = 0
    after_training: list[Callable[[], None]] = field(default_factory=list)

    @property
    def last(self) -> bool:
        """Whether the task is the last one, which takes the most."""
        return self.task == len(self.order) - 1

    def hold(self, held: int, made: int) -> None:
        """Say how many bytes the callback holds at its peak, of which it has made so many here."""
        self.held, self.made = held, made

    def batch(self, rows: int, loss_on: str = "answer") -> dict[str, Any]:
        """Make the largest batch of `rows` examples that is drawn, with `sample_weight`."""
        size = self.drawn(rows)
        made = self.training_batch(size, size.tokens - size.rows if loss_on == "full" else size.labelled)
        dtype = torch.promote_types(torch.float32, self.module.llm.dtype)
        return {**made, "sample_weight": torch.ones(size.rows, dtype=dtype)}

    def training_batch(self, size: Size, labelled: int) -> dict[str, Tensor]:
        """Make a batch as `data.collate.training_batch` does, with so many labelled tokens."""
        self.assumed.labelled = labelled
        inputs = [torch.zeros(size.rows, size.length, dtype=torch.long) for _ in range(4)]
        width = size.answer if self.module.encoder_decoder else size.length
        names = ("input_ids", "attention_mask", "prompt_mask", "own_mask")
        return {**dict(zip(names, inputs, strict=True)), "labels": torch.zeros(size.rows, width, dtype=torch.long)}
