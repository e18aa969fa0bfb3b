"""Options of `cl-lightning mine`."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class MiningOptions:
    """Options of the search and of its output.

    Attributes:
        run: run folder with one finished task; None: train the pool's first task, in `<out>/first`.
        out: output folder.
        length: tasks per sequence, 2 to 8.
        count: number of conflicting sequences to write, and of control sequences.
        start: "learnt": sequences begin with the trained task; "any": all sets of the pool are searched.
        samples: training examples per task for its gradient.
        width: sketch size of each matrix's gradient.
        base: where the base model of `run` is now; None: where it was.
        allow: classes of the user's own that the configuration of `run` may name.
        trust_remote_code: let code that comes with the model of `run` run.
    """

    run: str | None
    out: str
    length: int
    count: int
    start: Literal["learnt", "any"]
    samples: int
    width: int
    base: str | None
    allow: list[str]
    trust_remote_code: bool
