"""Memory of a run at its last task, which takes the most, from a rehearsal on tensors without data.

The base is made from its configuration; branches, boundary work, a training step and scoring then run in full on
tensors without data, while the bytes in use are counted. What operations need within themselves, and what an allocator
wastes, is not seen.
"""

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor

from cl_lightning.common.live_bytes import LiveBytes
from cl_lightning.common.memory import gc_frozen
from cl_lightning.model.module import ContinualLM
from cl_lightning.model.shapes import without_data
from cl_lightning.planning.products import Products
from cl_lightning.planning.quantized import saved_by_4bit
from cl_lightning.planning.scoring import score
from cl_lightning.planning.sharded import saved_by_sharding
from cl_lightning.planning.work import Work
from cl_lightning.sequence.callback import TaskCallback
from cl_lightning.sequence.rehearsal import Rehearsal, Size

BOUNDARY, TRAINING, SCORING = STAGES = ("boundary", "training", "scoring")
BASE, EARLIER, BRANCH = "base model", "earlier branches", "this task's branch"
GRADIENTS, STATE, COLLECTED = "its gradients", "optimiser's state", "gradients of the boundary"
CACHE, ACTIVATIONS = "keys and values", "activations"
#: All parts, as they are listed.
PARTS = (BASE, EARLIER, BRANCH, GRADIENTS, STATE, COLLECTED, CACHE, ACTIVATIONS)


@dataclass(frozen=True)
class Setting:
    """Where and how a run computes.

    Attributes:
        held: dtype that the base is held in.
        precision: the Trainer's.
        vocabulary: size of the tokenizer, for the random model.
    """

    held: torch.dtype
    precision: str = "32-true"
    vocabulary: int = 259

    def autocast(self) -> AbstractContextManager[None]:
        """Return the context of a training step."""
        return torch.autocast("cpu", torch.bfloat16) if "bf16" in self.precision else nullcontext()


@dataclass
class Memory:
    """Memory of one rank.

    Attributes:
        parts: part -> stage -> bytes. Activations are what a stage takes at its peak beside the other parts.
        parameters: numbers in the base and in the trained branch.
        stored: bytes of a task's branch on disk.
        checkpoint: bytes of the state inside a task on disk.
        prompts: the largest batch of scoring.
        products: floating-point operations of the products of the largest micro-batch of training.
        left_out: slots of callbacks whose memory is not counted.
    """

    parts: dict[str, dict[str, int]] = field(default_factory=dict)
    parameters: dict[str, int] = field(default_factory=dict)
    stored: int = 0
    checkpoint: int = 0
    prompts: Size = field(default_factory=lambda: Size(0, 0, 0, 0, 0))
    products: int = 0
    left_out: list[str] = field(default_factory=list)

    def put(self, part: str, count: int, *stages: str) -> None:
        """Set the bytes of a part in these stages, in all if none is named."""
        if count:
            self.parts.setdefault(part, {}).update(dict.fromkeys(stages or STAGES, count))

    def total(self, stage: str) -> int:
        """Return the bytes of a stage at its peak."""
        return sum(part.get(stage, 0) for part in self.parts.values())

    @property
    def peak(self) -> str:
        """The stage that takes the most."""
        return max(STAGES, key=self.total)


def rehearse(module: ContinualLM, work: Work, boundary: Mapping[str, TaskCallback], setting: Setting) -> Memory:
    """Count the memory of a run. Module and callbacks cannot be used for anything else afterwards.

    Raises:
        ConfigError: the model cannot be made from its configuration, or its code needs values.
    """
    slots = dict(sorted(boundary.items(), key=lambda item: item[1].phase))
    found = Memory(left_out=[slot for slot, one in slots.items() if type(one).rehearse is TaskCallback.rehearse])
    with gc_frozen(), without_data(module.backbone.name) as assumed, Products() as products, LiveBytes() as live:
        module.load_shapes(setting.vocabulary, setting.held)
        module.loss_terms = [callback.loss_terms for callback in slots.values()]
        base = live.reset()
        found.parameters["base"] = sum(p.numel() for p in module.llm.parameters())
        shared = saved_by_sharding(module, work.division.ranks) if work.division.sharded else 0
        found.put(BASE, base - saved_by_4bit(module) - shared)

        alone = work.data.protocol.alone
        rehearsal = Rehearsal(module, work.data.order, 0, work.data.seed, work.drawn, live, assumed)
        _earlier_tasks(rehearsal, slots, alone)
        earlier = live.reset()
        found.put(EARLIER, earlier - base, BOUNDARY, TRAINING)

        module.adapter.begin_task(0 if alone else rehearsal.task, torch.Generator())
        _boundary(rehearsal, slots, found)
        products.take()
        branch = live.reset() - earlier
        found.put(BRANCH, branch)
        found.parameters["trained"] = sum(p.numel() for p in module.adapter.trained)
        found.stored = _bytes(module.adapter.task_state().values())

        optimizer = _training(rehearsal, work, setting, found)
        found.products = products.take() // min(2, work.division.parts)
        found.checkpoint = _bytes(module.training_tensors().values()) + found.parts[STATE][TRAINING]
        held = live.reset()
        for give_back in rehearsal.after_training:
            give_back()
        branch -= held - live.reset()
        found.put(BRANCH, branch, SCORING)
        trained, others = _bytes(module.adapter.trained), live.reset() - earlier - branch
        if not alone:
            module.adapter.end_task(rehearsal.task)
            found.put(BRANCH, trained, SCORING)  # the Trainer still holds it, beside what it was folded into
        found.put(EARLIER, live.reset() - base - found.parts[BRANCH][SCORING] - others, SCORING)
        found.prompts = work.prompts(module.most_prompts(work.data.eval_batch_size))
        cache = score(rehearsal, found.prompts)
        found.put(CACHE, cache, SCORING)
        found.put(ACTIVATIONS, live.peak - live.reset() - cache, SCORING)
        del optimizer
    return found


def _earlier_tasks(rehearsal: Rehearsal, slots: Mapping[str, TaskCallback], alone: bool) -> None:
    """Leave behind what earlier tasks do."""
    module, live, last = rehearsal.module, rehearsal.live, len(rehearsal.order) - 1
    for task in range(0 if alone else last):
        before, rehearsal.task = live.now, task
        module.adapter.begin_task(task, torch.Generator())
        for callback in slots.values():
            callback.rehearse(rehearsal)
        module.adapter.end_task(task)
        if live.now == before:
            break  # folded into W: later ones leave nothing behind either
    rehearsal.task = last


def _boundary(rehearsal: Rehearsal, slots: Mapping[str, TaskCallback], found: Memory) -> None:
    """Rehearse the boundary's work; the callback that takes the most counts."""
    most = 0
    for callback in slots.values():
        before = rehearsal.live.reset()
        rehearsal.held = rehearsal.made = 0
        callback.rehearse(rehearsal)
        kept = rehearsal.live.now - before  # counts with the branch
        beside = rehearsal.live.peak - before - rehearsal.made - kept
        if rehearsal.held + beside > most:
            most = rehearsal.held + beside
            found.put(COLLECTED, rehearsal.held, BOUNDARY)
            found.put(ACTIVATIONS, beside, BOUNDARY)


def _training(rehearsal: Rehearsal, work: Work, setting: Setting, found: Memory) -> torch.optim.Optimizer:
    """Rehearse an optimiser step that is not the first, and return the optimiser."""
    module, live = rehearsal.module, rehearsal.live
    module.train()
    before = live.reset()
    optimizer = module.optimizer(setting.precision)
    for parameter in module.adapter.trained:
        parameter.grad = torch.zeros_like(parameter)
    gradients = live.reset() - before
    optimizer.step()
    state = live.reset() - before - gradients
    for part in range(min(2, work.division.parts)):
        with setting.autocast():
            loss, _ = module.loss(rehearsal.training_batch(work.micro_batch, work.micro_batch.labelled), 1.0)
        if part == 0:
            optimizer.zero_grad()  # Lightning does so after the forward pass
        loss.backward()
        del loss
    optimizer.step()
    found.put(ACTIVATIONS, live.peak - before - gradients - state, TRAINING)
    # DistributedDataParallel reduces gradients in buckets of their own.
    found.put(GRADIENTS, gradients * (2 if work.division.ranks > 1 else 1), TRAINING, SCORING)
    found.put(STATE, state, TRAINING, SCORING)
    return optimizer


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)
