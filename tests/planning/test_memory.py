"""The memory of a plan against that of a run of the same options, by the allocations that PyTorch's profiler notes."""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import pytest
import torch
import transformers as tf

from callbacks.attentive_reflection import AttentiveReflection
from callbacks.gate_orthogonalization import GateOrthogonalization
from callbacks.migu import MIGU
from callbacks.protected_subspaces import ProtectedSubspaces
from callbacks.replay_buffer import ReplayBuffer
from callbacks.slice_init import SliceInit
from cl_lightning.adapters.base import AdapterStrategy
from cl_lightning.adapters.gainlora import GainLoRA
from cl_lightning.adapters.inclora import IncLoRA
from cl_lightning.adapters.sapt import SAPTLoRA
from cl_lightning.adapters.seqlora import SeqLoRA
from cl_lightning.data.benchmarks.dataset_tasks import DatasetTask, DatasetTasks
from cl_lightning.data.task_sequence import TaskSequence
from cl_lightning.model.backbone import Backbone
from cl_lightning.model.module import ContinualLM
from cl_lightning.planning.memory import Memory, Setting, rehearse
from cl_lightning.planning.work import Division, Work
from cl_lightning.sequence.callback import TaskCallback
from tests.families import IDS, save
from tests.planning.measured import peaks

CLOSE = 0.1
SIZES = {**IDS, "hidden_size": 192, "intermediate_size": 384, "num_hidden_layers": 1, "num_attention_heads": 4}
LLAMA = tf.LlamaConfig(**SIZES, num_key_value_heads=2, max_position_embeddings=512)
TWO_LAYERS = tf.LlamaConfig(**{**LLAMA.to_dict(), "num_hidden_layers": 2})
GPT2 = tf.GPT2Config(**IDS, n_embd=192, n_layer=1, n_head=4, n_positions=512)
T5 = tf.T5Config(
    **IDS, d_model=192, d_kv=48, d_ff=384, num_layers=1, num_heads=4, decoder_start_token_id=0, tie_word_embeddings=True
)


@dataclass(frozen=True)
class Case:
    """A small run."""

    config: tf.PreTrainedConfig
    adapter: Callable[[], AdapterStrategy] = SeqLoRA
    boundary: Callable[[], dict[str, TaskCallback]] = dict
    checkpointing: bool = False
    parts: int = 1
    #: The stages whose own peak is compared.
    stages: tuple[str, ...] = ("training", "scoring")


CASES = {
    "Llama, SLICE": Case(
        TWO_LAYERS,
        boundary=lambda: {"memory": ReplayBuffer(16), "init": SliceInit(samples=8, memory_samples=8, batch_size=4)},
        stages=("boundary", "training", "scoring"),
    ),
    "GPT-2, a stack of branches": Case(GPT2, lambda: SeqLoRA(fold_into="stack")),
    "T5": Case(T5),
    "Llama, checkpointed micro-batches": Case(TWO_LAYERS, checkpointing=True, parts=2),
    "Llama, MIGU in protected subspaces": Case(
        LLAMA,
        boundary=lambda: {"protection": ProtectedSubspaces(), "migu": MIGU()},
        stages=("boundary", "training", "scoring"),
    ),
    "Llama, orthogonal gates": Case(
        LLAMA,
        lambda: GainLoRA(IncLoRA()),
        lambda: {"gates": GateOrthogonalization(samples=8, probes=1, batch_size=4)},
    ),
    "Llama, reflection": Case(LLAMA, SAPTLoRA, lambda: {"reflection": AttentiveReflection(samples=8, batch_size=4)}),
}
#: Callback -> the case that has it, and the stage in which what it takes is seen.
CALLBACKS: dict[type[TaskCallback], tuple[str, str]] = {
    MIGU: ("Llama, MIGU in protected subspaces", "training"),
    ProtectedSubspaces: ("Llama, MIGU in protected subspaces", "boundary"),
    GateOrthogonalization: ("Llama, orthogonal gates", "boundary"),
    AttentiveReflection: ("Llama, reflection", "training"),
}
each_case = pytest.mark.parametrize("name", CASES)


def tasks() -> TaskSequence:
    """Two tasks of random letters: no prompts share a prefix."""
    rng = random.Random(0)

    def example(answer: int) -> tuple[str, str]:
        return tuple(
            "".join(rng.choices("abcdefghij", k=rng.randint(least, most))) for least, most in ((90, 120), (2, answer))
        )

    made = [
        DatasetTask(name, [example(20) for _ in range(8)], test=[example(2) for _ in range(4)]) for name in ("a", "b")
    ]
    return TaskSequence(DatasetTasks(made), validation_samples=0, batch_size=4, max_new_tokens=2)


def backbone_of(case: Case, folder: str) -> Backbone:
    return Backbone(str(save(case.config, Path(folder, "model"))), "float32", gradient_checkpointing=case.checkpointing)


def planned_by(case: Case, backbone: Backbone) -> Memory:
    data = tasks()
    data.prepare(backbone.load_tokenizer(), backbone.encoder_decoder())
    work = Work(data, Division(1, case.parts))
    return rehearse(ContinualLM(backbone, case.adapter()), work, case.boundary(), Setting(torch.float32))


@cache
def planned_and_measured(name: str) -> tuple[Memory, Mapping[str, int]]:
    case = CASES[name]
    with TemporaryDirectory() as folder:
        backbone = backbone_of(case, folder)
        planned = planned_by(case, backbone)
        module = ContinualLM(backbone, case.adapter())
        return planned, peaks(module, tasks(), case.boundary(), Path(folder, "run"), accumulate_grad_batches=case.parts)


@each_case
def test_the_memory_planned_is_that_of_the_run(name: str) -> None:
    planned, measured = planned_and_measured(name)
    for stage in CASES[name].stages:
        assert planned.total(stage) == pytest.approx(measured[stage], rel=CLOSE), stage
    assert planned.total(planned.peak) == pytest.approx(max(measured.values()), rel=CLOSE)


@each_case
@pytest.mark.parametrize(
    ("part", "stage"),
    [("activations", "training"), ("base model", "scoring")],
)
def test_a_plan_without_one_of_its_parts_is_noticed(name: str, part: str, stage: str) -> None:
    planned, measured = planned_and_measured(name)
    without = planned.total(stage) - planned.parts[part][stage]
    assert without != pytest.approx(measured[stage], rel=CLOSE)


def test_a_plan_without_the_gradients_of_a_boundary_is_noticed() -> None:
    planned, measured = planned_and_measured("Llama, SLICE")
    without = planned.total("boundary") - planned.parts["gradients of the boundary"]["boundary"]
    assert without != pytest.approx(measured["boundary"], rel=CLOSE)


@pytest.mark.parametrize("kind", CALLBACKS)
def test_a_plan_counts_what_a_callback_takes(kind: type[TaskCallback], tmp_path: Path) -> None:
    name, stage = CALLBACKS[kind]
    planned, measured = planned_and_measured(name)
    assert planned.left_out == []
    case = CASES[name]
    with patch.object(kind, "rehearse", lambda *_: None):
        without = planned_by(case, backbone_of(case, str(tmp_path)))
    assert without.total(stage) < planned.total(stage) < (1 + CLOSE) * measured[stage]
