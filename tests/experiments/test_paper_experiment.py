"""Published settings build and run on small models of the same architectures; only data sizes are overridden."""

import json
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from cl_lightning.model.random_llama import random_tokenizer
from tests.conftest import ROOT, save_tiny_t5
from tests.launch import launched

#: Sizes of the data, and what a run shows; what makes the experiment is left as published.
SIZES = [
    "--sequence.threads=1",
    "--sequence.report=false",
    "--sequence.wandb=off",
    "--data.order=[FOMC,NumGLUE-cm]",
    "--data.train_samples=18",
    "--data.validation_samples=2",
    "--data.test_samples=2",
    "--data.max_prompt_tokens=160",
]


@pytest.fixture(scope="module")
def small_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Llama with grouped queries, wide enough for two slices of rank 64 in every matrix, saved in bf16."""
    folder = tmp_path_factory.mktemp("llama")
    tokenizer = random_tokenizer()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=256, intermediate_size=320, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=True, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_published_setting_runs(small_llama: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    configs = ["--config", "experiments/_base.yaml", "--config", "experiments/trace_slice_paper.yaml"]
    options = [f"--model.backbone.name={small_llama}", f"--sequence.run_dir={run}", *SIZES]
    done = launched([*configs, *options], ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    record = json.loads((run / "sequence.json").read_text())
    assert record["done"] == 2
    assert record["adapter"]["rank"] == 64
    assert record["clock"]["step"] == 2 * 3 * 2  # tasks x epochs x steps of at most 16 examples
    assert "6 steps per task in batches of 16" in done.stdout


@pytest.mark.parametrize(
    ("branches", "model"),
    [
        ("inflora", "t5"),
        ("olora", "llama"),
        pytest.param("inflora", "llama", marks=pytest.mark.long),
        pytest.param("olora", "t5", marks=pytest.mark.long),
    ],
)
def test_published_gainlora_settings_run(branches: str, model: str, small_llama: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    folder = small_llama if model == "llama" else save_tiny_t5(tmp_path / "t5", layers=1, dropout=0.1)
    configs = [f"experiments/{name}.yaml" for name in ("_base", f"superni_gainlora_{branches}_{model}_paper")]
    options = [f"--model.backbone.name={folder}", f"--sequence.run_dir={run}", *SIZES]
    done = launched([*[f"--config={c}" for c in configs], *options, "--data.epochs=2"], ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    record = json.loads((run / "sequence.json").read_text())
    assert record["done"] == 2
    assert record["adapter"]["rank"] == 4
    leaves = {name.rpartition(".")[2] for name in record["adapter"]["layers"]}
    assert leaves == ({"q", "v"} if model == "t5" else {"q_proj", "v_proj"})
    attentions = 1 + 1 + 1 if model == "t5" else 1
    assert len(record["adapter"]["layers"]) == 2 * attentions, "encoder, decoder and cross-attention"
