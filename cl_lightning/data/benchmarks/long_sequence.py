"""Long Sequence: fifteen English classification tasks, from the user's own copy; four form the standard benchmark.

The tasks are those of Razdaibiedina et al. 2023, arXiv:2301.12314 (four of Zhang et al. 2015, IMDB, the rest from GLUE
and SuperGLUE); prompt, label words and metric are from O-LoRA's, SAPT's and GainLoRA's published code. A task is a
folder `<root>/long_sequence/<task>`, `<root>/Long_Sequence/<task>` or `<root>/<task>` with `train.json` and
`test.json` in the layout of `instances`. `dev.json` is never read: the published one equals test.

Orders 3 and 4 are those of GainLoRA; `standard1` to `standard3` are O-LoRA's orders 1 to 3 of four tasks. O-LoRA adds
the names of task and data set to its prompts; ours are GainLoRA's in all orders. Imports no torch.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from cl_lightning.data.base import TaskSpec
from cl_lightning.data.benchmarks.ni_files import folders_in
from cl_lightning.data.benchmarks.ni_folders import NIFolders

Order = Literal["order3", "order4", "standard1", "standard2", "standard3"]

MAX_NEW_TOKENS = 50


def _spec(name: str, terms: str, train: int | None, test: int | None) -> TaskSpec:
    source = f"Long Sequence {name}: {terms}"
    return TaskSpec(name, "exact_match", MAX_NEW_TOKENS, source=source, published=(train, test))


_ZHANG = "Zhang et al. 2015"

TASKS: dict[str, TaskSpec] = {
    spec.name: spec
    for spec in (
        _spec("yelp", f"{_ZHANG}, Yelp's research terms", 5000, None),
        _spec("amazon", f"{_ZHANG}, research", 5000, 7600),
        _spec("mnli", "GLUE, OANC and others by source", 3000, 7600),
        _spec("cb", "SuperGLUE, research", 250, 56),
        _spec("copa", "SuperGLUE, BSD-2", 400, 100),
        _spec("qqp", "GLUE, Quora's terms", 2000, 7600),
        _spec("rte", "GLUE, research", 2000, 277),
        _spec("imdb", "Maas et al. 2011, no licence stated, research", 2000, None),
        _spec("sst2", "GLUE, research", 2000, 872),
        _spec("dbpedia", f"{_ZHANG}, CC BY-SA 3.0", None, 7600),
        _spec("agnews", f"{_ZHANG}, non-commercial", 4000, 7600),
        _spec("yahoo", f"{_ZHANG}, Yahoo's research terms", None, None),
        _spec("multirc", "SuperGLUE, research", 2000, None),
        _spec("boolq", "SuperGLUE, CC BY-SA 3.0", 2000, 3270),
        _spec("wic", "SuperGLUE, CC BY-NC 4.0", 2000, 638),
    )
}
"""The fifteen tasks, in order 3."""

ORDERS: dict[str, tuple[str, ...]] = {
    "order3": tuple(TASKS),
    "order4": (
        "mnli", "cb", "wic", "copa", "qqp", "boolq", "rte", "imdb", "yelp", "amazon", "sst2", "dbpedia", "agnews",
        "multirc", "yahoo",
    ),
    "standard1": ("dbpedia", "amazon", "yahoo", "agnews"),
    "standard2": ("dbpedia", "amazon", "agnews", "yahoo"),
    "standard3": ("yahoo", "amazon", "agnews", "dbpedia"),
}  # fmt: skip
"""The published task orders."""


class LongSequence(NIFolders):
    """Long Sequence from files, or the built-in sample without a root.

    Args:
        order: the published order used for `data.order=null`; the sample has one of its own.
    """

    title, cue = "Long Sequence", "\nOutput: "
    needs_definition = False
    evaluator = "sapt"
    official_max_new_tokens = MAX_NEW_TOKENS

    def __init__(self, order: Order = "order3") -> None:
        self.order = order

    def tasks_at(self, root: Path) -> Mapping[str, TaskSpec]:
        """Return the fifteen tasks, then any other task folder in the folders of this benchmark's name."""
        others = sorted(folders_in(self.bases(root)[:2]) - {*TASKS})
        found = {n: TaskSpec(n, "exact_match", MAX_NEW_TOKENS, source=f"found in {root.name}") for n in others}
        return {**TASKS, **found}

    def order_at(self, root: Path) -> list[str]:
        """Return the chosen published order."""
        return list(ORDERS[self.order])

    def bases(self, root: Path) -> Sequence[Path]:
        """List the folders described at the top of this module."""
        return root / "long_sequence", root / "Long_Sequence", root

    def before_input(self, definition: str) -> str:
        """Return the line of the instruction. copa has none, because its inputs ask the question."""
        return f"{definition}\n" if definition else ""

    def published_epochs(self) -> Mapping[str, int]:
        """Return GainLoRA's epochs for T5 in orders 3 and 4, and O-LoRA's in its own."""
        return dict.fromkeys(TASKS, 1 if self.order.startswith("standard") else 10)
