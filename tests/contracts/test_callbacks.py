"""The contract of task callbacks, for every one that `callbacks` exports: each lives through a tiny run."""

import ast
import inspect
import json
import tempfile
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import callbacks
from callbacks import ReplayBuffer
from cl_lightning import adapters
from cl_lightning.adapters.base import AdapterStrategy
from cl_lightning.common.errors import UserError
from cl_lightning.common.files import to_json
from cl_lightning.model.module import Step
from cl_lightning.sequence.callback import Table, TaskCallback
from cl_lightning.sequence.context import RunContext
from tests.contracts import contract
from tests.contracts.contract import Clause, Contract, exported, require
from tests.contracts.test_context import members
from tests.contracts.tiny_run import TinyRun

CONTRACT = Contract("callback", TaskCallback)

#: Callbacks that no tiny run can hold, and which tests do.
ELSEWHERE = {"GeneralAbility": "tests/evaluation/test_general.py: it needs lm-eval's data"}
HOOKS = {name: hook for name, hook in vars(TaskCallback).items() if inspect.isfunction(hook)}


@contextmanager
def tiny_run(kind: type[TaskCallback]) -> Iterator[tuple[TinyRun, str] | None]:
    """A run with the callback in it, and its slot: on the first exported strategy that it goes with.

    None where it refuses the tiny run itself, or tests of its own hold it.
    """
    if kind.__name__ in ELSEWHERE:
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        for strategy in exported(adapters, AdapterStrategy):
            slots = {"memory": ReplayBuffer(), "mine": kind()}
            if kind is ReplayBuffer:
                del slots["mine"]
            slot, adapter = list(slots)[-1], strategy()
            if slots[slot].check(slots, adapter):
                continue
            run = TinyRun(adapter, slots, Path(folder))
            try:
                run.check()
            except UserError:
                continue
            yield run, slot
            return
        yield None


# --- the clauses ------------------------------------------------------------------------------------------


@CONTRACT.clause
def is_complete(kind: type) -> None:
    """Is a TaskCallback."""
    contract.complete(kind, TaskCallback)


@CONTRACT.clause
def is_documented(kind: type) -> None:
    """Has a docstring with Args."""
    contract.documented(kind, sourced=False)


@CONTRACT.clause
def checks_options(kind: type) -> None:
    """Has defaults, and refuses a bad option in one line."""
    contract.options_are_checked(kind)


@CONTRACT.clause
def has_a_phase(kind: type[TaskCallback]) -> None:
    """`phase` is an int: its place among the boundary callbacks."""
    require(type(kind.phase) is int, f"phase is {kind.phase!r}; memory has 10, subspaces 20, gates 30, init 40")


@CONTRACT.clause
def refuses_in_lines(kind: type[TaskCallback]) -> None:
    """`check` returns reasons not to run, one line each, beside any strategy."""
    for strategy in exported(adapters, AdapterStrategy):
        reasons = kind().check({}, strategy())
        kept = contract.is_lines(reasons)
        require(kept, f"check({{}}, {strategy.__name__}()) returns {reasons!r}, not a list of lines")


@CONTRACT.clause
def takes_what_hooks_get(kind: type[TaskCallback]) -> None:
    """Hooks take the arguments of TaskCallback's, by name and order."""
    for name, hook in HOOKS.items():
        wanted, found = ([*inspect.signature(f).parameters] for f in (hook, getattr(kind, name)))
        require(found == wanted, f"{name} takes {', '.join(found)}, not {', '.join(wanted)}")


@CONTRACT.clause
def asks_what_the_context_has(kind: type[TaskCallback]) -> None:
    """Of `run`, only public members of RunContext are asked."""
    for parent in kind.__mro__[: kind.__mro__.index(TaskCallback)]:
        for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(parent)))):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "run":
                known = node.attr in members()
                require(known, f"asks for run.{node.attr}; RunContext has {', '.join(sorted(members()))}")


@CONTRACT.clause
def lives_through_a_run(kind: type[TaskCallback]) -> None:
    """All hooks run, terms of the loss are finite numbers by name, tables have rows of their columns."""
    with tiny_run(kind) as found:
        if found is None:
            return
        run, slot = found
        for task in range(2):
            for name, term in run.task(task).items():
                kept = isinstance(term, Tensor) and term.dim() == 0 and bool(term.isfinite())
                require(kept, f"loss_terms has {name!r}: {term!r}, not a finite tensor without dimensions")
        run.finish()
        for table in run.slots[slot].tables():
            require(isinstance(table, Table), f"tables() has a {type(table).__name__}, not a Table")
            wrong = [row for row in table.rows if len(row) != len(table.columns)]
            require(not wrong, f"table {table.title!r} has {len(table.columns)} columns and a row {wrong[:1]}")
            json.loads(to_json(vars(table)))


@CONTRACT.clause
def survives_a_resume(kind: type[TaskCallback]) -> None:
    """What `state` and `tensors` give, through JSON and safetensors, makes a new one that goes on the same."""
    with tiny_run(kind) as found:
        if found is None:
            return
        run, slot = found
        run.task(0)
        kept = run.slots[slot]
        run.resume(slot, kind())
        fresh = run.slots[slot]
        state = [json.loads(to_json(c.state())) for c in (kept, fresh)]
        require(state[0] == state[1], f"state() after load() is {state[1]!r:.200}, was {state[0]!r:.200}")
        tensors = [c.tensors() for c in (kept, fresh)]
        require(tensors[0].keys() == tensors[1].keys(), "tensors() after load_tensors() have other names")
        for name, tensor in tensors[0].items():
            require(torch.equal(tensors[1][name].cpu(), tensor), f"{name} is another tensor after load_tensors()")
        lost = [
            name
            for name, value in vars(kept).items()
            if isinstance(value, list | dict) and value and not getattr(fresh, name) and name not in PER_TASK
        ]
        require(
            not lost or state[0] or tensors[0], f"{', '.join(lost)} is filled by task 1 and lost; give it to state()"
        )
        run.task(1)
        run.finish()


#: Attributes that a callback may fill anew in every process: times, hooks, what is loaded.
PER_TASK = {"durations"}


# --- what is exported keeps them --------------------------------------------------------------------------


@pytest.mark.parametrize("clause", CONTRACT.clauses, ids=lambda clause: clause.__name__)
@pytest.mark.parametrize("kind", exported(callbacks, TaskCallback), ids=lambda kind: kind.__name__)
def test_every_exported_callback_keeps_the_contract(kind: type, clause: Clause) -> None:
    CONTRACT.hold(kind, clause)


@pytest.mark.parametrize("kind", exported(callbacks, TaskCallback), ids=lambda kind: kind.__name__)
def test_the_tiny_run_holds_every_callback_that_no_other_test_does(kind: type) -> None:
    with tiny_run(kind) as found:
        assert (found is None) == (kind.__name__ in ELSEWHERE)


# --- each clause can fail ---------------------------------------------------------------------------------


class Undescribed(TaskCallback):
    """Takes a share."""

    def __init__(self, share: bool = True) -> None:
        super().__init__()


class Unchecked(TaskCallback):
    """Takes any strength.

    Args:
        strength: of nothing.
    """

    def __init__(self, strength: float = 1.0) -> None:
        self.strength = strength


class Named(TaskCallback):
    """Has a phase by name."""

    phase = "late"


class SaysNo(TaskCallback):
    """Refuses with a text."""

    def check(self, slots: dict[str, TaskCallback], adapter: Any) -> Any:
        return "never"


class Renames(TaskCallback):
    """Wants a name in the place of a number."""

    def on_task_end(self, run: RunContext, name: str) -> None:
        pass


class Asks(TaskCallback):
    """Asks for the run's folder."""

    def on_task_end(self, run: RunContext, task: int) -> None:
        (run.folder.path / "mine.txt").write_text("x")


class Spreads(TaskCallback):
    """Has a term for every token."""

    def loss_terms(self, step: Step) -> dict[str, Tensor]:
        return {"spread": step.logits.logsumexp(-1)[:2].sum(0, keepdim=True)}


class Forgets(TaskCallback):
    """Keeps the tasks seen, and does not write them down."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def on_task_end(self, run: RunContext, task: int) -> None:
        self.seen.append(task)


BROKEN: dict[Clause, tuple[Any, str]] = {
    is_complete: (int, "is not a subclass of TaskCallback"),
    is_documented: (Undescribed, "describes no share"),
    checks_options: (Unchecked, "strength=nan: is accepted"),
    has_a_phase: (Named, "phase is 'late'"),
    refuses_in_lines: (SaysNo, "returns 'never', not a list of lines"),
    takes_what_hooks_get: (Renames, "on_task_end takes self, run, name, not self, run, task"),
    asks_what_the_context_has: (Asks, "asks for run.folder; RunContext has batches, boundary"),
    lives_through_a_run: (Spreads, "not a finite tensor without dimensions"),
    survives_a_resume: (Forgets, "seen is filled by task 1 and lost; give it to state"),
}


@pytest.mark.parametrize("clause", CONTRACT.clauses, ids=lambda clause: clause.__name__)
def test_a_broken_callback_is_told_what_is_missing(clause: Clause) -> None:
    broken, what = BROKEN[clause]
    with pytest.raises(AssertionError, match=what) as said:
        CONTRACT.hold(broken, clause) if broken is not int else clause(broken)
    if broken is not int:
        assert f"callback {broken.__name__} (tests/contracts/test_callbacks.py)" in str(said.value)
        assert "See TaskCallback in cl_lightning/sequence/callback.py" in str(said.value)
