"""Options of the mining."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class MiningOptions:
    """What is mined, and where it is written.

    Attributes:
        run: run folder of one finished task; None: learn the pool's first task, in `<out>/first`.
        out: folder of what is found.
        length: tasks in a sequence, 2 to 8.
        count: conflicting sequences written, and control sequences.
        start: "learnt": sequences begin with the task that was learnt; "any": all sets of the pool are searched.
        samples: training examples per task whose gradient is taken.
        width: numbers kept of each matrix's gradient.
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
    allow: list[str]
    trust_remote_code: bool
