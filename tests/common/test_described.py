"""Objects described as the options that would make them."""

import copy
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.callbacks import EarlyStopping, LearningRateMonitor

from callbacks import ReplayBuffer, ScoreMatrix, SliceInit
from cl_lightning import Backbone, DatasetTask
from cl_lightning.adapters import GainLoRA, IncLoRA, SeqLoRA
from cl_lightning.common.described import describe
from cl_lightning.initializers import LoRAGA


class Named(ScoreMatrix):
    """Hands options on."""

    def __init__(self, name: str, **options: Any) -> None:
        super().__init__()


LOCAL = f"{__name__}.Named"


@pytest.mark.parametrize(
    ("made", "described"),
    [
        (None, None),
        (Path("a/b"), "a/b"),
        (SeqLoRA(2), {"class_path": "cl_lightning.adapters.SeqLoRA", "init_args": {"rank": 2}}),
        (ScoreMatrix(), {"class_path": "callbacks.ScoreMatrix"}),
        (Named("x", more=[1, (2, 3)]), {"class_path": LOCAL, "init_args": {"name": "x", "more": [1, [2, 3]]}}),
        (Backbone("b", config={"n": 1}), {"name": "b", "config": {"n": 1}}),
        (DatasetTask("t", [("a", "b")]), {"name": "t", "train": "rows of a script"}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_value_is_described_as_in_a_configuration(made: object, described: object) -> None:
    assert describe(made) == described


def test_objects_in_objects_are_described() -> None:
    found = describe({"init": SliceInit(LoRAGA(), operator=None), "memory": ReplayBuffer(capacity=3)})
    assert found == {
        "init": {
            "class_path": "callbacks.SliceInit",
            "init_args": {"initializer": {"class_path": "cl_lightning.initializers.LoRAGA"}, "operator": None},
        },
        "memory": {"class_path": "callbacks.ReplayBuffer", "init_args": {"capacity": 3}},
    }
    gated = describe(GainLoRA(IncLoRA(rank=2)))["init_args"]
    assert gated == {"branches": {"class_path": "cl_lightning.adapters.IncLoRA", "init_args": {"rank": 2}}}


def test_a_copy_is_described_like_its_original() -> None:
    made = SliceInit(LoRAGA(), samples=5)
    assert describe(copy.deepcopy(made)) == describe(made) != describe(SliceInit(LoRAGA(), samples=6))


def test_an_object_of_another_package_is_its_class_and_plain_arguments() -> None:
    found = describe(EarlyStopping("val/loss", patience=2))
    assert found["class_path"] == "lightning.pytorch.callbacks.early_stopping.EarlyStopping"
    assert (found["init_args"]["monitor"], found["init_args"]["patience"]) == ("val/loss", 2)
    assert describe(EarlyStopping("val/loss")) == describe(EarlyStopping("val/loss")), "no address is in it"
    assert describe(LearningRateMonitor())["class_path"].endswith("LearningRateMonitor")
