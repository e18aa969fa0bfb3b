"""Greedy decoding ignores a model's generation settings unless an option asks for them."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf

from cl_lightning.adapters.seqlora import SeqLoRA
from cl_lightning.commands.first_lines import decoded
from cl_lightning.data.collate import training_batch
from cl_lightning.data.end_tokens import end_tokens
from cl_lightning.evaluation.generate import continuations, generate
from cl_lightning.model.backbone import Backbone
from cl_lightning.model.generation_settings import describe
from cl_lightning.model.module import ContinualLM
from cl_lightning.model.random_llama import random_tokenizer
from tests.conftest import random_examples
from tests.runs import smoke

PROMPTS = [e.prompt_ids for e in random_examples(6, seed=3)]
IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
LLAMA = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4, **IDS,
    "num_key_value_heads": 2, "initializer_range": 0.3,
}  # fmt: skip
BART = {
    "d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 4, "init_std": 0.3, **IDS,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "decoder_start_token_id": 2,
}  # fmt: skip
FAMILIES: dict[str, tuple[Any, dict[str, Any]]] = {
    "llama": (tf.LlamaForCausalLM, LLAMA),  # our decoding
    "mistral": (tf.MistralForCausalLM, {**LLAMA, "sliding_window": 4}),  # transformers' own
    "bart": (tf.BartForConditionalGeneration, BART),
}
MATTERS: dict[str, Any] = {
    "repetition_penalty": 50.0,
    "no_repeat_ngram_size": 1,
    "suppress_tokens": list(range(100, 259)),
    "bad_words_ids": [[i] for i in range(3, 150)],
    "forced_eos_token_id": 2,
    "begin_suppress_tokens": list(range(3, 259)),
    "sequence_bias": [[[77], 100.0]],
}


@pytest.fixture(params=FAMILIES, scope="module")
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def save(family: str, tmp_path: Path) -> Callable[..., Path]:
    """Write a model with these generation settings: save({"min_length": 9}, into="config.json")."""
    return partial(written, tmp_path, family)


def written(folder: Path, family: str, settings: dict[str, Any], into: str = "generation_config.json") -> Path:
    kind, options = FAMILIES[family]
    tokenizer = random_tokenizer()
    tokenizer.chat_template = None
    torch.manual_seed(1)
    kind(kind.config_class(vocab_size=len(tokenizer), **options)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if into == "config.json":
        (folder / "generation_config.json").unlink()
    file = folder / into
    file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))
    return folder


@pytest.fixture(scope="module")
def plain(family: str, tmp_path_factory: pytest.TempPathFactory) -> list[list[int]]:
    """Answers of a family's model without settings."""
    return answers(load(written(tmp_path_factory.mktemp("plain"), family, {})))


def load(folder: Path, **options: Any) -> ContinualLM:
    module = ContinualLM(Backbone(str(folder), dtype="float32", **options), SeqLoRA(rank=2))
    module.load(module.backbone.load_tokenizer())
    return module


def answers(module: ContinualLM) -> list[list[int]]:
    return continuations(module.llm, module.tokenizer, PROMPTS, 8, 4)


@pytest.mark.parametrize(
    ("name", "into"), [*((name, "generation_config.json") for name in MATTERS), ("repetition_penalty", "config.json")]
)
def test_neutral_ignores_the_setting_and_model_follows_it(
    save: Callable[..., Path], plain: list[list[int]], name: str, into: str
) -> None:
    folder = save({name: MATTERS[name]}, into)
    neutral, own = load(folder), load(folder, generation="model")
    assert answers(neutral) == plain != answers(own)
    bart = {"forced_eos_token_id": 2} if neutral.encoder_decoder else {}  # set in BART's configuration
    assert neutral.backbone.own_generation == own.backbone.own_generation == {name: MATTERS[name], **bart}


def test_answers_end_at_the_models_own_tokens_in_both_modes(save: Callable[..., Path]) -> None:
    folder = save({"eos_token_id": [2, 77], "decoder_start_token_id": 5, "min_length": 3})
    for generation in ("neutral", "model"):
        module = load(folder, generation=generation)
        assert end_tokens(module.llm, module.tokenizer) == [2, 77]
        settings = module.llm.generation_config
        assert (settings.decoder_start_token_id, settings.pad_token_id, settings.bos_token_id) == (5, 0, 1)


def test_sampling_and_beam_settings_are_ignored_and_not_reported(save: Callable[..., Path]) -> None:
    plain = answers(load(save({"forced_eos_token_id": None})))
    without_effect = {
        "do_sample": True, "temperature": 0.1, "top_p": 0.5, "top_k": 3, "num_beams": 3, "length_penalty": 2.0,
        "max_length": 5, "repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "min_length": 0, "suppress_tokens": [],
        "forced_eos_token_id": None,
    }  # fmt: skip
    folder = save(without_effect)
    for generation in ("neutral", "model"):
        module = load(folder, generation=generation)
        assert module.backbone.own_generation == {} and answers(module) == plain


def test_stop_strings_are_settings_of_the_model(save: Callable[..., Path]) -> None:
    free = load(save({"forced_eos_token_id": None}))
    plain = generate(free.llm, free.tokenizer, PROMPTS, 8, 4)
    letter = next(c for text in plain for c in text[1:-1] if c.isascii() and c.isprintable())
    module = load(save({"stop_strings": [letter], "forced_eos_token_id": None}), generation="model")
    cut = generate(module.llm, module.tokenizer, PROMPTS, 8, 4)
    assert cut == [text[: text.index(letter) + 1] if letter in text else text for text in plain] != plain


def test_likelihoods_do_not_depend_on_the_mode(save: Callable[..., Path]) -> None:
    folder = save({"repetition_penalty": 50.0, "suppress_tokens": list(range(100, 259))})
    modules = [load(folder, generation=generation) for generation in ("neutral", "model")]
    batch = training_batch(random_examples(4), 0, modules[0].encoder_decoder)
    with torch.no_grad():
        assert torch.equal(*(module.sample_nll(batch) for module in modules))


def test_settings_are_described_briefly() -> None:
    assert describe({"repetition_penalty": 1.05, "bad_words_ids": [[i] for i in range(99)], "min_length": 3}) == (
        "repetition_penalty=1.05, bad_words_ids, min_length=3"
    )


def test_the_first_lines_report_the_mode_and_unadapted_weights(tmp_path: Path) -> None:
    config = tf.Qwen3MoeConfig(
        vocab_size=len(random_tokenizer()), head_dim=8, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16,
        **LLAMA,
    )  # fmt: skip
    llm = tf.Qwen3MoeForCausalLM(config)
    llm.generation_config.repetition_penalty = 1.05
    llm.save_pretrained(tmp_path / "model")
    random_tokenizer().save_pretrained(tmp_path / "model")
    options = (f"--model.backbone.name={tmp_path / 'model'}", "--boundary.init=null", "--boundary.memory=null",
               "--data.order=[FOMC]", "--data.train_samples=7", "--data.test_samples=2")  # fmt: skip
    *_, base, adapter = smoke(tmp_path / "run", *options).stdout.splitlines()[:6]
    assert base.endswith(" in float32; greedy, without the model's own repetition_penalty=1.05")
    assert adapter.startswith(
        "  adapter   not adapted, since not nn.Linear: mlp.experts.gate_up_proj, mlp.experts.down_proj, "
    )


def test_the_first_line_reports_the_option_only_for_models_with_settings(tmp_path: Path) -> None:
    llm = Backbone("random-llama", dtype="float32").load(len(random_tokenizer()))
    random_tokenizer().save_pretrained(tmp_path)
    llm.save_pretrained(tmp_path)
    assert decoded(load(tmp_path)) == ""
    llm.generation_config.no_repeat_ngram_size = 3
    llm.save_pretrained(tmp_path)
    assert decoded(load(tmp_path, generation="model")) == "; greedy, with the model's own no_repeat_ngram_size=3"
