"""The contract of adapter strategies, for every one that `cl_lightning.adapters` exports. Float64, tiny Llama."""

import copy
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from cl_lightning import adapters
from cl_lightning.adapters.base import AdapterStrategy
from cl_lightning.model.backbone import Backbone
from cl_lightning.model.module import ContinualLM
from tests.conftest import batch_of, random_examples
from tests.contracts import broken_strategies, contract
from tests.contracts.contract import Clause, Contract, exported, require

CONTRACT = Contract("strategy", AdapterStrategy)

#: What the docstring of a strategy says whose new branch changes the logits before it is trained.
MOVES = "logits change when a task begins"
#: And of one that scores another model than the one it trained.
MERGES = "logits change when a task ends"
#: Rounding of float64 logits.
ROUNDING = 1e-10


#: One block has every kind of layer that a strategy adapts.
TINY: dict[str, Any] = {"name": "random-llama", "dtype": "float64", "config": {"num_hidden_layers": 1}}


@cache
def base() -> tuple[Any, Any]:
    """The tiny Llama in float64 and its tokenizer, to be copied."""
    backbone = Backbone(**TINY)
    tokenizer = backbone.load_tokenizer()
    return backbone.load(len(tokenizer)), tokenizer


class CopiedBackbone(Backbone):
    """A backbone that copies `base()`."""

    def load(self, vocabulary: int) -> nn.Module:
        return copy.deepcopy(base()[0])


def loaded(strategy: Callable[[], AdapterStrategy]) -> ContinualLM:
    """The tiny Llama with the strategy on it."""
    module = ContinualLM(CopiedBackbone(**TINY), strategy())
    module.load(base()[1])
    return module


@cache
def batch(seed: int = 0) -> dict[str, Any]:
    return batch_of(random_examples(3, seed))


@torch.no_grad()
def logits(module: ContinualLM) -> Tensor:
    """Of a fixed batch's tokens, (N, V), with what the strategy hands to the forward pass."""
    inputs = {name: batch()[name] for name in ("input_ids", "attention_mask")}
    return module.llm(**inputs, **module.adapter.forward_kwargs(batch())).logits[inputs["attention_mask"].bool()]


def distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max())


def begin(module: ContinualLM, task: int) -> None:
    module.adapter.begin_task(task, torch.Generator().manual_seed(task))


def train(module: ContinualLM, task: int) -> None:
    """Two steps of AdamW on the task's own batch, penalties included."""
    optimizer = torch.optim.AdamW(module.adapter.param_groups(), lr=1e-2)
    examples = batch(task + 1)
    for _ in range(2):
        optimizer.zero_grad()
        loss = (module.sample_nll(examples) * examples["sample_weight"]).sum()
        (loss + sum(module.adapter.penalties().values())).backward()
        optimizer.step()


def after(strategy: type[AdapterStrategy], tasks: int) -> ContinualLM:
    """The model after so many tasks."""
    module = loaded(strategy)
    for task in range(tasks):
        begin(module, task)
        train(module, task)
        module.adapter.end_task(task)
    return module


# --- the clauses ------------------------------------------------------------------------------------------


@CONTRACT.clause
def is_complete(strategy: type) -> None:
    """Defines every method of a strategy."""
    contract.complete(strategy, AdapterStrategy)


@CONTRACT.clause
def is_documented(strategy: type) -> None:
    """Has a docstring with Args and a source."""
    contract.documented(strategy)


@CONTRACT.clause
def checks_options(strategy: type) -> None:
    """Has defaults, and refuses a bad option in one line."""
    contract.options_are_checked(strategy)


@CONTRACT.clause
def refuses_in_lines(strategy: type[AdapterStrategy]) -> None:
    """`check` returns reasons not to run, one line each."""
    reasons = strategy().check({})
    require(contract.is_lines(reasons), f"check({{}}) returns {reasons!r}, not a list of lines")


@CONTRACT.clause
def attaches_to_the_model(strategy: type[AdapterStrategy]) -> None:
    """`attach` adapts layers and leaves the logits unchanged."""
    module = loaded(strategy)
    require(bool(module.adapter.layers), "adapts no layer: `layers` is empty after attach")
    with torch.no_grad():
        inputs = {name: batch()[name] for name in ("input_ids", "attention_mask")}
        before = base()[0](**inputs).logits[inputs["attention_mask"].bool()]
    require(torch.equal(logits(module), before), f"logits move by {distance(logits(module), before):.2g}")


@CONTRACT.clause
def begins_without_a_change(strategy: type[AdapterStrategy]) -> None:
    """`begin_task` leaves the logits unchanged."""
    module, text = loaded(strategy), contract.docstrings(strategy)
    for task in range(2):
        before = logits(module)
        begin(module, task)
        moved = distance(logits(module), before)
        require(
            moved <= ROUNDING or (task > 0 and MOVES in text),
            f"task {task} moves them by {moved:.2g}; start B at 0 or take the start off again with set_factors, or "
            f"say in the docstring that {MOVES!r}",
        )
        train(module, task)
        module.adapter.end_task(task)


@CONTRACT.clause
def trains_its_factors_only(strategy: type[AdapterStrategy]) -> None:
    """Only `trainable_factors` of the new branch get gradients, the base and earlier branches none."""
    module = after(strategy, 1)
    begin(module, 1)
    loss = module.sample_nll(batch()).sum() + sum(module.adapter.penalties().values())
    loss.backward()
    wanted = {f"lora_{factor}" for factor in module.adapter.trainable_factors}
    for name, layer in module.adapter.layers.items():
        found = {n for n, p in layer.named_parameters() if p.grad is not None}
        require(found == wanted, f"{name} has gradients of {sorted(found)}, trainable_factors are {sorted(wanted)}")


@CONTRACT.clause
def says_what_it_penalises(strategy: type[AdapterStrategy]) -> None:
    """`penalties` are finite numbers by name, with and without earlier branches."""
    for earlier in range(2):
        module = after(strategy, earlier)
        begin(module, earlier)
        found = module.adapter.penalties()
        for name, term in found.items():
            kept = isinstance(name, str) and isinstance(term, Tensor) and term.dim() == 0 and bool(term.isfinite())
            require(kept, f"penalties() has {name!r}: {term!r}, not a finite tensor without dimensions")


@CONTRACT.clause
def optimises_what_it_trains(strategy: type[AdapterStrategy]) -> None:
    """`param_groups` has everything that requires a gradient, once, and nothing else."""
    module = after(strategy, 1)
    begin(module, 1)
    named = {id(p): name for name, p in module.named_parameters()}
    wanted = [id(p) for p in module.parameters() if p.requires_grad]
    found = [id(p) for group in module.adapter.param_groups() for p in group["params"]]
    left = sorted(named[p] for p in {*wanted} - {*found})
    added = sorted(named.get(p, "a tensor that is no parameter of the model") for p in {*found} - {*wanted})
    require(bool(found), "has nothing to train")
    require(not left, f"leaves out {', '.join(left[:3])}")
    require(not added, f"adds {', '.join(added[:3])}, frozen or unknown")
    require(len(found) == len({*found}), "names a parameter twice")


@CONTRACT.clause
def ends_without_a_change(strategy: type[AdapterStrategy]) -> None:
    """`end_task` changes the logits by rounding at most."""
    module, text = loaded(strategy), contract.docstrings(strategy)
    for task in range(2):
        begin(module, task)
        train(module, task)
        before = logits(module)
        module.adapter.end_task(task)
        moved = distance(logits(module), before)
        require(
            moved <= ROUNDING or (task > 0 and MERGES in text),
            f"task {task} moves them by {moved:.2g}; say in the docstring that {MERGES!r} if they should",
        )


@CONTRACT.clause
def leaves_a_file(strategy: type[AdapterStrategy]) -> None:
    """`task_state` is a dict of tensors that safetensors writes."""
    module = loaded(strategy)
    begin(module, 0)
    train(module, 0)
    state = module.adapter.task_state()
    require(bool(state), "task_state() is empty")
    for name, tensor in state.items():
        require(isinstance(name, str) and isinstance(tensor, Tensor), f"task_state() has {name!r}: {type(tensor)}")
        require(not tensor.requires_grad, f"task_state()[{name!r}] requires a gradient; detach it")
    again = load(save({name: tensor.cpu().contiguous() for name, tensor in state.items()}))
    require(all(torch.equal(again[name], tensor) for name, tensor in state.items()), "the file holds other values")


@CONTRACT.clause
def is_restored(strategy: type[AdapterStrategy]) -> None:
    """`restore` from the tasks' states gives equal logits, and the next task can begin."""
    module, states = loaded(strategy), []
    for task in range(2):
        begin(module, task)
        train(module, task)
        states.append(load(save({n: t.cpu().contiguous() for n, t in module.adapter.task_state().items()})))
        module.adapter.end_task(task)
    again = loaded(strategy)
    again.adapter.restore(states)
    moved = distance(logits(again), logits(module))
    require(moved <= ROUNDING, f"the restored model's logits differ by {moved:.2g}; keep all of it in task_state")
    begin(again, 2)
    train(again, 2)


@CONTRACT.clause
def leaves_the_new_branch_out(strategy: type[AdapterStrategy]) -> None:
    """`without_new_branch` gives the earlier branches' logits, and lets go of it again."""
    module = after(strategy, 1)
    before = logits(module)
    begin(module, 1)
    with torch.no_grad():
        for layer in module.adapter.layers.values():
            for factor in (layer.lora_A, layer.lora_B):
                factor.add_(0.1 * torch.randn(factor.shape, dtype=factor.dtype))
    moved = logits(module)
    require(distance(moved, before) > ROUNDING, "the new branch has no part in the logits")
    with module.adapter.without_new_branch():
        rest = distance(logits(module), before)
    require(rest <= ROUNDING, f"logits still differ by {rest:.2g}")
    require(torch.equal(logits(module), moved), "the branch stays out after the context")


@CONTRACT.clause
def goes_back_before_the_task(strategy: type[AdapterStrategy]) -> None:
    """`before_task` gives the logits from before the task, however it was trained, and comes back."""
    module = after(strategy, 2)
    before = logits(module)
    begin(module, 2)
    train(module, 2)
    trained = logits(module)
    with module.adapter.before_task():
        rest = distance(logits(module), before)
    require(rest <= ROUNDING, f"logits differ by {rest:.2g} from those before the task")
    require(torch.equal(logits(module), trained), "what was trained is not there after the context")


@CONTRACT.clause
def discards_a_task(strategy: type[AdapterStrategy]) -> None:
    """`discard` gives back the model from before the task."""
    module = loaded(strategy)
    before = logits(module)
    begin(module, 0)
    train(module, 0)
    module.adapter.discard()
    rest = distance(logits(module), before)
    require(rest <= ROUNDING, f"logits differ by {rest:.2g} from those before the task")


@CONTRACT.clause
def new_branch_weighs_per_sample_or_not(strategy: type[AdapterStrategy]) -> None:
    """`per_sample` says whether `forward_kwargs` gives anything; `new_branch_weight` is one share a sample."""
    module = loaded(strategy)
    begin(module, 0)
    extra = module.adapter.forward_kwargs(batch())
    require(isinstance(extra, dict), f"forward_kwargs returns {type(extra).__name__}, not a dict")
    require(bool(extra) == strategy.per_sample, f"per_sample is {strategy.per_sample}, forward_kwargs gives {[*extra]}")
    shares = module.adapter.new_branch_weight(batch())
    kept = shares.shape == (len(batch()["input_ids"]),) and bool(((shares >= 0) & (shares <= 1)).all())
    require(kept, f"new_branch_weight gives {shares}, not a share 0..1 for each sample")


# --- what is exported keeps them --------------------------------------------------------------------------


@pytest.mark.parametrize("clause", CONTRACT.clauses, ids=lambda clause: clause.__name__)
@pytest.mark.parametrize("strategy", exported(adapters, AdapterStrategy), ids=lambda kind: kind.__name__)
def test_every_exported_strategy_keeps_the_contract(strategy: type, clause: Clause) -> None:
    CONTRACT.hold(strategy, clause)


# --- each clause can fail ---------------------------------------------------------------------------------


BROKEN: dict[Clause, tuple[type, str]] = {
    is_complete: (broken_strategies.Abstract, "does not define begin_task, end_task, restore, task_state"),
    is_documented: (broken_strategies.Unsourced, "describes no share; add it to Args"),
    checks_options: (broken_strategies.Unchecked, "strength=nan: is accepted; raise UserError with one line"),
    refuses_in_lines: (broken_strategies.SaysYes, "returns 'no', not a list of lines"),
    attaches_to_the_model: (broken_strategies.Edits, "logits move by"),
    begins_without_a_change: (broken_strategies.Starts, "task 0 moves them by .* take the start off again"),
    trains_its_factors_only: (
        broken_strategies.Declares,
        r"gradients of \['lora_A', 'lora_B'\], trainable_factors are \['lora_B'\]",
    ),
    says_what_it_penalises: (broken_strategies.Penalises, "not a finite tensor without dimensions"),
    optimises_what_it_trains: (broken_strategies.Forgets, "leaves out llm.*lora_"),
    ends_without_a_change: (broken_strategies.Drops, "task 0 moves them by"),
    leaves_a_file: (broken_strategies.Attached, "requires a gradient; detach it"),
    is_restored: (broken_strategies.Loses, "keep all of it in task_state"),
    leaves_the_new_branch_out: (broken_strategies.Stays, "logits still differ by"),
    goes_back_before_the_task: (broken_strategies.Lingers, "from those before the task"),
    discards_a_task: (broken_strategies.Keeps, "from those before the task"),
    new_branch_weighs_per_sample_or_not: (broken_strategies.Gates, "not a share 0..1 for each sample"),
}


@pytest.mark.parametrize("clause", CONTRACT.clauses, ids=lambda clause: clause.__name__)
def test_a_broken_strategy_is_said_what_is_missing(clause: Clause) -> None:
    broken, what = BROKEN[clause]
    with pytest.raises(AssertionError, match=what) as said:
        CONTRACT.hold(broken, clause)
    assert f"strategy {broken.__name__} (tests/contracts/broken_strategies.py) breaks the contract" in str(said.value)
    assert "See AdapterStrategy in cl_lightning/adapters/base.py, and docs/extending.md" in str(said.value)


def test_a_strategy_without_docstring_or_source_is_said_so() -> None:
    with pytest.raises(AssertionError, match="has no docstring"):
        contract.documented(broken_strategies.Undocumented)
    Described = type(
        "Described", (broken_strategies.Unsourced,), {"__doc__": "Nothing.\n\nArgs:\n    rank, share: r, and more."}
    )
    with pytest.raises(AssertionError, match="add 'Source: paper"):
        contract.documented(Described)
