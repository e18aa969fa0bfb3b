"""A script chooses among the same texts as the command line."""

from typing import TYPE_CHECKING, Any

import pytest

from callbacks import GeneralAbility, ReplayBuffer
from cl_lightning import Backbone, SequenceSettings, TaskSequence
from cl_lightning.adapters import SLAO, GainLoRA, IncLoRA, SeqLoRA
from cl_lightning.common.described import Described
from cl_lightning.common.errors import ConfigError
from cl_lightning.data import TRACE
from cl_lightning.data.benchmarks.user_tasks import UserTask

if TYPE_CHECKING:
    from typing import Literal

UNKNOWN = [
    (lambda: UserTask("t", "accuracy", "a", loss_on="all"), "UserTask.loss_on: 'all' is not known; .*last"),
    (lambda: Backbone("m", dtype="bf16"), "Backbone.dtype: 'bf16' is not known; did you mean bfloat16"),
    (lambda: Backbone("m", generation="greedy"), "Backbone.generation: 'greedy' is not known"),
    (lambda: TaskSequence(TRACE(), score_by="likelyhood"), "TaskSequence.score_by: 'likelyhood' .*mean likelihood"),
    (lambda: TaskSequence(TRACE(), epochs="publishd"), "TaskSequence.epochs: 'publishd' .*mean published"),
    (lambda: SequenceSettings(wandb="on"), "SequenceSettings.wandb: 'on' is not known"),
    (lambda: SeqLoRA(per_task="fresh"), "SeqLoRA.per_task: 'fresh' is not known; did you mean fresh_folded"),
    (lambda: SLAO(merge_weight="roots"), "SLAO.merge_weight: 'roots' is not known; did you mean root"),
    (lambda: GainLoRA(IncLoRA(), pooling="max"), "GainLoRA.pooling: 'max' is not known"),
    (lambda: ReplayBuffer(4, keep="texts"), "ReplayBuffer.keep: 'texts' is not known; did you mean text"),
    (lambda: GeneralAbility(when="end"), "GeneralAbility.when: 'end' is not known; did you mean ends"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "expected"), UNKNOWN, ids=lambda value: value if isinstance(value, str) else "")
def test_a_text_that_is_not_listed_is_refused(make: Any, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        make()


def test_texts_that_are_listed_and_other_values_are_taken() -> None:
    SeqLoRA(2, per_task="continue"), Backbone("m", dtype="float32"), SLAO(merge_weight=0.5), SLAO(merge_weight="mean")
    TaskSequence(TRACE(), epochs=2), UserTask("bf16", "accuracy", "a", layout="any", loss_on="every")


@pytest.mark.parametrize("task", [9, -1, "a", None, True])
def test_what_is_no_task_is_refused(task: Any) -> None:
    data = TaskSequence(TRACE(), order=["FOMC", "C-STANCE"])
    with pytest.raises(ConfigError, match=rf"activate: {task!r} is not the number of a task; there are 2, from 0 to 1"):
        data.activate(task)
    data.activate(1)
    assert data.current == 1


class Base(Described):
    def __init__(self, kind: "Literal['a', 'b']" = "a") -> None: ...


class Derived(Base):
    def __init__(self, **more: Any) -> None:
        super().__init__(**more)


def test_annotations_that_a_script_imports_for_type_checking_alone_are_passed_over() -> None:
    assert Derived(kind="c")


def test_an_argument_that_is_handed_on_is_checked() -> None:
    class Handed(SeqLoRA):
        def __init__(self, **more: Any) -> None:
            super().__init__(**more)

    with pytest.raises(ConfigError, match=r"Handed.per_task: 'fresh' is not known"):
        Handed(per_task="fresh")
