"""Shared fixtures: tiny models made in code, no network, no global state left behind."""

import os

# Before anything imports torch or transformers.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import gc
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import T5Config, T5ForConditionalGeneration

from cl_lightning.adapters.base import AdapterStrategy
from cl_lightning.adapters.seqlora import SeqLoRA
from cl_lightning.data.base import Example
from cl_lightning.data.collate import training_batch
from cl_lightning.data.prompt import Encoded
from cl_lightning.model.backbone import Backbone
from cl_lightning.model.module import ContinualLM
from cl_lightning.model.random_llama import random_tokenizer
from tests.machine import never_wait, one_thread

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"

# In the background of a script Ctrl-C is ignored, and what the tests start would keep to that.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


never_wait()
one_thread()


@pytest.fixture(autouse=True, scope="session")
def _imports_frozen() -> Iterator[None]:
    """Spare each garbage collection the scan of what the tests have imported, most of the time of a small run."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def _one_seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def tiny() -> Callable[..., ContinualLM]:
    """Make a loaded ContinualLM on the random Llama: tiny(dtype="float64", adapter=SeqLoRA(rank=2))."""

    def make(dtype: str = "float64", adapter: AdapterStrategy | None = None, **backbone: Any) -> ContinualLM:
        module = ContinualLM(Backbone("random-llama", dtype=dtype, **backbone), adapter or SeqLoRA(rank=4, alpha=8))
        module.load(module.backbone.load_tokenizer())
        return module

    return make


def save_tiny_t5(path: Path, layers: int, dropout: float) -> Path:
    """A random T5 with its tokenizer, as a model folder."""
    tokenizer = random_tokenizer()
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=len(tokenizer), d_model=32, d_kv=8, d_ff=48, num_layers=layers, num_heads=4, dropout_rate=dropout,
        feed_forward_proj="gated-gelu", decoder_start_token_id=0, pad_token_id=0, eos_token_id=2,
    )  # fmt: skip
    T5ForConditionalGeneration(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def random_examples(count: int, seed: int = 0, vocabulary: int = 200) -> list[Encoded]:
    """Encoded examples of ragged lengths."""
    rng = torch.Generator().manual_seed(seed)

    def ids(low: int, high: int) -> tuple[int, ...]:
        length = int(torch.randint(low, high, (), generator=rng))
        return tuple(torch.randint(3, vocabulary, (length,), generator=rng).tolist())

    return [Encoded(Example(f"t/{i}", "p", "a"), ids(3, 12), (*ids(1, 5), 2), 0) for i in range(count)]


def batch_of(examples: list[Encoded]) -> dict[str, Any]:
    """One training batch at token-mean weight."""
    tokens = sum(len(e.answer_ids) for e in examples)
    batch = training_batch(examples, pad_id=0)
    return {**batch, "step_tokens": tokens, "weight": 1.0, "sample_weight": torch.full((len(examples),), 1 / tokens)}


def weight_gradients(module: ContinualLM, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
    """weight.grad of the effective weight of every adapted layer, by autograd on the unfrozen base (no branches)."""
    layers = module.adapter.layers
    for layer in layers.values():
        layer.base.weight.requires_grad_(True)
    with module.adapter.without_new_branch():
        loss = (module.sample_nll(batch) * batch["sample_weight"]).sum()
    grads = torch.autograd.grad(loss, [layer.base.weight for layer in layers.values()])
    for layer in layers.values():
        layer.base.weight.requires_grad_(False)
    return dict(zip(layers, grads, strict=True))


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    """||a - b|| / ||b||."""
    return float((a - b).norm() / b.norm())
