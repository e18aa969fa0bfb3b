"""Gradient capture beyond a plain Llama: encoder-decoder, bf16, dropout in the model, tied and repeated modules."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from cl_lightning.adapters.seqlora import SeqLoRA
from cl_lightning.data.collate import training_batch
from cl_lightning.gradients.capture import capture_gradients
from cl_lightning.model.backbone import Backbone
from cl_lightning.model.module import ContinualLM
from tests.conftest import batch_of, random_examples, relative, save_tiny_t5, weight_gradients


@pytest.fixture(scope="module")
def t5_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_t5(tmp_path_factory.mktemp("t5"), layers=1, dropout=0.1)


def t5(folder: Path, dtype: str = "float64", checkpointing: bool = False) -> ContinualLM:
    backbone = Backbone(str(folder), dtype=dtype, gradient_checkpointing=checkpointing)
    module = ContinualLM(backbone, SeqLoRA(rank=4, alpha=8))
    module.load(backbone.load_tokenizer())
    return module


def t5_batch(count: int, seed: int = 0) -> dict:
    examples = random_examples(count, seed)
    tokens = sum(len(e.answer_ids) for e in examples)
    batch = training_batch(examples, pad_id=0, encoder_decoder=True)
    return {**batch, "sample_weight": torch.full((count,), 1 / tokens, dtype=torch.float64)}


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-10), ("float32", 1e-6)])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_encoder_decoder_with_dropout_in_the_model(
    t5_folder: Path, dtype: str, tolerance: float, checkpointing: bool
) -> None:
    module, batch = t5(t5_folder, dtype, checkpointing), t5_batch(5)
    module.llm.eval()  # the reference without dropout
    wanted = weight_gradients(module, batch)
    module.llm.train()
    module.adapter.begin_task(0, torch.Generator().manual_seed(0))
    captured = module.gradients([batch])
    assert any("EncDecAttention" in name for name in captured)
    assert captured.keys() == wanted.keys()
    assert max(relative(captured[n], wanted[n]) for n in wanted) < tolerance
    assert module.llm.training


def test_input_moments_of_an_encoder_decoder_leave_out_both_paddings(t5_folder: Path) -> None:
    module = t5(t5_folder)
    module.adapter.begin_task(0, torch.Generator().manual_seed(0))
    together = module.input_moments([t5_batch(4)])
    examples = random_examples(4)
    alone = module.input_moments(
        [
            {**training_batch([e], pad_id=0, encoder_decoder=True), "sample_weight": torch.ones(1, dtype=torch.float64)}
            for e in examples
        ]
    )
    prompts, answers = sum(len(e.prompt_ids) for e in examples), sum(len(e.answer_ids) for e in examples)
    assert prompts != answers
    for name, owner in together.owners.items():
        assert torch.allclose(together.totals[owner], alone.totals[owner], atol=1e-10), name
        crosses = "EncDecAttention.k" in name or "EncDecAttention.v" in name
        expected = prompts if name.startswith("encoder") or crosses else answers
        assert together.tokens[owner] == expected, name


def test_bf16_outer_products_are_near_the_float32_ones(
    tiny: Callable[..., ContinualLM], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cl_lightning.model.backbone.held_dtype", lambda dtype: dtype)
    batch, captured = batch_of(random_examples(6)), {}
    for dtype in ("bfloat16", "float32"):
        module = tiny(dtype)
        module.llm.to(torch.bfloat16).to(getattr(torch, dtype))  # the same weights
        module.adapter.begin_task(0, torch.Generator().manual_seed(0))
        captured[dtype] = module.gradients([batch])
    for name, g in captured["bfloat16"].items():
        assert g.dtype == torch.float32
        # The whole backward pass is in bf16 here, not the products alone.
        assert relative(g, captured["float32"][name]) < 0.1, name


def test_a_module_under_two_names_is_adapted_once_and_adds_both_uses(tiny: Callable[..., ContinualLM]) -> None:
    torch.manual_seed(0)
    embedding = nn.Embedding(7, 5).double().requires_grad_(False)
    shared = nn.Linear(5, 5, bias=False).double()
    stack = nn.ModuleDict({"first": shared, "second": shared})
    ids = torch.tensor([[1, 2, 3], [4, 5, 0]])

    def loss() -> torch.Tensor:
        return stack["second"](torch.tanh(stack["first"](embedding(ids)))).pow(3).sum()

    (wanted,) = torch.autograd.grad(loss(), shared.weight)
    shared.requires_grad_(False)
    layers = {n: m for n, m in stack.named_modules() if isinstance(m, nn.Linear)}
    assert list(layers) == ["first"]
    with capture_gradients(layers, embedding) as grads:
        loss().backward()
    assert relative(grads["first"], wanted) < 1e-12
