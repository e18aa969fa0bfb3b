"""A base that two ranks share: what it computes, gathers and learns is what a whole one does, in float64 to the bit."""

from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy, ModelParallelStrategy, Strategy
from torch.distributed.tensor import DTensor

from cl_lightning.adapters.seqlora import SeqLoRA
from cl_lightning.common import distributed
from cl_lightning.common.errors import ConfigError, StateError
from cl_lightning.data.task_sequence import TaskSequence
from cl_lightning.evaluation.generate import generate
from cl_lightning.export.loaded import LoadedModel
from cl_lightning.model.backbone import Backbone
from cl_lightning.model.module import ContinualLM
from cl_lightning.model.plain_trainer import suitable_data
from cl_lightning.model.sharding import blocks, check_sharding, in_step, is_sharded, shard
from cl_lightning.model.strategies import ShardedBaseStrategy, check_strategy
from tests.conftest import batch_of, random_examples, save_tiny_t5
from tests.launch import on_two_ranks
from tests.ragged_words import words

CPU = torch.device("cpu")


def module(**backbone: Any) -> ContinualLM:
    made = ContinualLM(Backbone("random-llama", dtype="float64", **backbone), SeqLoRA(rank=2, alpha=4))
    made.load(made.backbone.load_tokenizer())
    return made


def begun(task: int, *modules: ContinualLM) -> None:
    """Begin a task with branches that are not zero."""
    for one in modules:
        one.adapter.begin_task(task, torch.Generator().manual_seed(task))
        draw = torch.Generator().manual_seed(100 + task)
        for layer in one.adapter.layers.values():
            layer.lora_B.data.normal_(0, 0.1, generator=draw)


def gradients(one: ContinualLM, seed: int) -> list[torch.Tensor]:
    """Of all trained parameters."""
    one.zero_grad()
    one.sample_nll(batch_of(random_examples(3, seed)), share_prefix=False).sum().backward()
    return [p.grad for group in one.adapter.param_groups() for p in group["params"]]


def equal(some: Any, others: Any) -> bool:
    return all(torch.equal(a, b) for a, b in zip(some, others, strict=True))


def joined(rank: int, folder: str, name: str) -> None:
    torch.set_num_threads(1)
    store, wait = f"file://{folder}/{name}", timedelta(seconds=60)  # for a rank that is out of step
    dist.init_process_group("gloo", init_method=store, timeout=wait, rank=rank, world_size=2)


def _as_a_whole_one(rank: int, folder: str, backbone: dict[str, Any]) -> None:
    joined(rank, folder, "whole")
    whole, half = module(**backbone), module(**backbone)
    whole.train(), half.train()
    begun(0, whole, half)
    whole.adapter.end_task(0), half.adapter.end_task(0)
    begun(1, whole, half)  # two tasks stand already, as in a run that is resumed
    shard(half.llm, CPU)
    assert is_sharded(half.llm)
    assert not is_sharded(whole.llm)

    for name, layer in half.adapter.layers.items():
        held, there = layer.weight, whole.adapter.layers[name].weight
        assert isinstance(held, DTensor)
        assert held.to_local().numel() * 2 == there.numel()
        assert torch.equal(layer.dense_weight(), there)
        assert not isinstance(layer.lora_A, DTensor)
    assert equal(gradients(half, rank), gradients(whole, rank)), "each rank has other examples"
    alike = batch_of(random_examples(1) * 40)
    if not backbone["gradient_checkpointing"]:
        assert whole._shared_columns(alike) > 0
    assert half._shared_columns(alike) == 0, "a pass more than the other rank"

    for one in (whole, half):  # the branch goes into W
        one.adapter.end_task(1)
    assert equal(
        [x.dense_weight() for x in half.adapter.layers.values()], [x.weight for x in whole.adapter.layers.values()]
    )
    with pytest.raises(StateError, match="each rank holds a part of the base"):
        LoadedModel.of(half, words(["one"]))
    begun(2, whole, half)
    assert equal(gradients(half, rank), gradients(whole, rank))
    half.adapter.discard(), whole.adapter.discard()
    dist.destroy_process_group()


@pytest.mark.parametrize("checkpointing", [False, True])
def test_two_halves_compute_as_a_whole(tmp_path: Path, checkpointing: bool) -> None:
    on_two_ranks(_as_a_whole_one, str(tmp_path), {"gradient_checkpointing": checkpointing})


def _ragged(rank: int, folder: str, kept: bool) -> None:
    """Rank 0 has all the work, then both have some; then answers of other numbers and lengths."""
    joined(rank, folder, "ragged")
    whole, half = module(), module()
    begun(0, whole, half)
    shard(half.llm, CPU)
    step = in_step if kept else lambda llm: nullcontext()
    if rank and not kept:
        return  # has no work, so ends
    batches = [batch_of(random_examples(2, seed)) for seed in range(3)]
    with step(half.llm), torch.no_grad():
        nll = [half.sample_nll(batch) for batch in batches[: 0 if rank else 3]]
    assert equal(nll, [whole.sample_nll(batch) for batch in batches[: 0 if rank else 3]])
    with step(half.llm):
        mine = half.gradients(batches[:1] if rank else batches[1:])
    for name, both in whole.gradients(batches).items():
        assert torch.allclose(distributed.sum_(mine[name]), both, rtol=1e-12, atol=1e-15), name
    prompts = [e.prompt_ids for e in random_examples(5)]
    share = prompts[:1] if rank else prompts[1:]
    with step(half.llm):
        said = generate(half.llm, half.tokenizer, share, 3 + 4 * rank, 2)
    assert said == generate(whole.llm, whole.tokenizer, share, 3 + 4 * rank, 2)
    assert equal(gradients(half, rank), gradients(whole, rank)), "after passes of one rank alone"
    dist.destroy_process_group()


def test_ranks_with_other_numbers_of_passes_are_kept_in_step(tmp_path: Path) -> None:
    on_two_ranks(_ragged, str(tmp_path), True)


def test_out_of_step_a_rank_waits_for_the_other(tmp_path: Path) -> None:
    """Negative control."""
    with pytest.raises(Exception, match=r"Connection closed by peer|Connection reset by peer|Broken pipe"):
        on_two_ranks(_ragged, str(tmp_path), False)


# ---- what is refused ---------------------------------------------------------------------------------------


def test_tensor_parallelism_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^trainer\.strategy: ModelParallelStrategy leaves it to the model"):
        check_strategy(ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1))
    check_strategy(ShardedBaseStrategy())


def test_a_trainer_of_the_users_own_is_refused_alike() -> None:
    def suits(strategy: Strategy) -> TaskSequence:
        trainer = SimpleNamespace(datamodule=words(["one"]), precision="32-true", strategy=strategy)
        return suitable_data(trainer, Backbone("random-llama"), SeqLoRA(), None)

    with pytest.raises(ConfigError, match=r"^trainer\.strategy: FSDPStrategy splits the model"):
        suits(FSDPStrategy())
    assert suits(ShardedBaseStrategy()).order == ["one"]


def refusal(of: ContinualLM) -> str:
    check_sharding(of, DDPStrategy())  # the control
    with pytest.raises(ConfigError) as caught:
        check_sharding(of, ShardedBaseStrategy())
    return str(caught.value)


def test_bases_that_cannot_be_sharded_are_refused(tmp_path: Path) -> None:
    decoder = module()
    check_sharding(decoder, ShardedBaseStrategy())
    decoder.backbone.load_in_4bit = True
    assert "cannot shard a base in 4 bits" in refusal(decoder)

    backwards = module()
    backwards.llm.base_model.layers = backwards.llm.base_model.layers[::-1]
    check_sharding(backwards, ShardedBaseStrategy())  # the order in which they are held counts
    twice = module()
    twice.llm.base_model.layers.append(twice.llm.base_model.layers[0])
    twice.llm.config.num_hidden_layers = 3
    assert len(blocks(twice.llm.base_model)) == 2
    assert "needs a decoder whose blocks each run once" in refusal(twice)

    t5 = ContinualLM(Backbone(str(save_tiny_t5(tmp_path / "t5", 1, 0.0)), dtype="float32"), SeqLoRA(rank=2))
    t5.load(t5.backbone.load_tokenizer())
    assert "needs a decoder whose blocks each run once" in refusal(t5)
