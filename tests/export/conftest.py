"""Runs to export: one of each kind of branch, trained for four steps on a tiny model, once a session."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from tokenizers import Tokenizer, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from cl_lightning.data.sample.tasks import load as sample
from cl_lightning.model.random_llama import random_model, random_tokenizer
from tests.commands.test_cli import configs, launch
from tests.conftest import save_tiny_t5
from tests.export.tiny import Trained, trained_in

#: So large a rate that every branch changes the logits.
SMALL = (
    *configs("smoke"),
    "--data.train_samples=8",
    "--data.validation_samples=0",
    "--data.test_samples=1",
    "--data.batch_size=4",
    "--model.lr=0.05",
    "--sequence.zero_shot=false",
    "--boundary.memory=null",
)
PLAIN = ("--boundary.init=null",)
DISPLACED = ("--boundary.init=BranchInit", "--boundary.init.initializer=PiSSA")
KINDS = {
    "folded": (*SMALL, *PLAIN),
    "stacked": (*SMALL, *PLAIN, "--model.adapter=IncLoRA", "--model.adapter.rslora=true"),
    "displaced": (*SMALL, *DISPLACED, "--model.adapter=IncLoRA"),
    "baked": (*SMALL, *DISPLACED, "--model.adapter.offset=baked"),
    "core": (*SMALL, "--boundary.init.initializer=LoRASB", "--boundary.init.operator=null"),
    "continued": (*SMALL, *PLAIN, "--model.adapter.per_task=continue"),
    "slao": (*SMALL, *PLAIN, "--model.adapter=SLAO"),
    "inflora": (*SMALL, *PLAIN, "--model.adapter=InfLoRA", "--boundary.subspaces=InputSubspaces"),
    # A smaller rate: branches twice the base's size would amplify its rounding beyond 1e-2 on both sides.
    "bfloat16": (*SMALL, *DISPLACED, "--model.backbone.dtype=bfloat16", "--model.lr=0.01"),
    "gated": (*SMALL, *PLAIN, "--model.adapter=GainLoRA", "--boundary.gates=GateOrthogonalization"),
    "independent": (*SMALL, *PLAIN, "--data.protocol=independent"),
}
Runs = Callable[[str], Path]


def save_bpe_llama(path: Path) -> Path:
    """The tiny Llama with a tokenizer that has merges, as a model folder; its output head is its own."""
    byte, texts = random_tokenizer(), [example.prompt for example in sample("FOMC").train]
    core = Tokenizer.from_str(byte.backend_tokenizer.to_str())
    core.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=400, special_tokens=byte.all_special_tokens,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))  # fmt: skip
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token=byte.pad_token, bos_token=byte.bos_token, eos_token=byte.eos_token
    )
    tokenizer.chat_template = byte.chat_template
    tokenizer.save_pretrained(path)
    # More embeddings than tokens, as many models have.
    random_model(len(tokenizer) + 5, {"tie_word_embeddings": False}).save_pretrained(path)
    return path


#: Base models that are folders, by the kind of run on them.
MODELS = {"t5": lambda path: save_tiny_t5(path, layers=1, dropout=0.0), "bpe": save_bpe_llama}


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """The finished run of a kind: one of KINDS, or of MODELS. Whoever asks for it first trains it, 1 to 3 s."""

    @cache
    def run(kind: str) -> Path:
        folder = tmp_path_factory.mktemp(kind)
        options = KINDS.get(kind)
        if options is None:
            model = MODELS[kind](folder / kind)
            options = (*SMALL, *DISPLACED, f"--model.backbone.name={model}")
        result = launch(*options, f"--sequence.run_dir={folder / 'run'}")
        assert result.code == 0, result.err
        return folder / "run"

    return run


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """The finished run of a name in `tests.export.tiny`. Whoever asks for it first trains it, 2 s."""
    return trained_in(tmp_path_factory.mktemp("trained"))
