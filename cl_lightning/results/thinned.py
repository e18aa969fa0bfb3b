"""What tables say of the scores of old tasks that `data.score_every` and `data.score_samples_old` leave out."""

from typing import Any

from cl_lightning.data.protocol import PROTOCOLS
from cl_lightning.data.thinning import Thinning

#: Stands for a score of a task learnt before, which was not scored.
UNSCORED = "-"


def marked(record: dict[str, Any]) -> list[list[Any]]:
    """Return R with UNSCORED where a task that was learnt before was not scored."""
    builds_on = PROTOCOLS[record["protocol"]].builds_on
    return [
        [UNSCORED if builds_on and j < i and score is None else score for j, score in enumerate(row)]
        for i, row in enumerate(record["R"])
    ]


def note(record: dict[str, Any]) -> str | None:
    """Say what was left out, and what rests on less by it; None if nothing was left out."""
    thinning = Thinning.of(record["metrics"])
    left_out = thinning.note(PROTOCOLS[record["protocol"]])
    if left_out is None:
        return None
    few = "; few prompts scatter more, which raises f_ra and lowers min_acc" if thinning.samples else ""
    return f"{left_out}; f_ra, aaa and min_acc rest on these scores{few}"


def sentences(record: dict[str, Any]) -> list[str]:
    """Return the note as a sentence for a text; [] without one."""
    said = note(record)
    return [] if said is None else [f"{said[0].upper()}{said[1:]}."]
