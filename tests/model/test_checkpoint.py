"""Incomplete checkpoints: those that lack weights, have another head or come with an adapter are refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor

from cl_lightning.common.errors import ConfigError
from cl_lightning.model.backbone import Backbone
from cl_lightning.model.module import ContinualLM
from cl_lightning.model.random_llama import random_tokenizer

VOCABULARY = len(random_tokenizer())
IDS = {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
LLAMA = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, **IDS,
}  # fmt: skip
MIXTRAL = {**LLAMA, "num_local_experts": 3}
NEOX = {k: v for k, v in LLAMA.items() if k != "num_key_value_heads"}
GPT2 = {"n_embd": 16, "n_layer": 1, "n_head": 2, **IDS}
T5 = {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 1, "num_heads": 2, "decoder_start_token_id": 0, **IDS}
BART = {
    "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_start_token_id": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "max_position_embeddings": 64, **IDS,
}  # fmt: skip


def save(path: Path, kind: Any, options: dict[str, Any], **save: Any) -> Path:
    torch.manual_seed(0)
    kind(kind.config_class(**options)).save_pretrained(path, **save)
    return path


def edit(path: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]], **config: Any) -> None:
    """Rewrite a checkpoint's tensors and its configuration."""
    file, about = path / "model.safetensors", path / "config.json"
    save_file({k: t.clone() for k, t in change(load_file(file)).items()}, file, {"format": "pt"})
    about.write_text(json.dumps({**json.loads(about.read_text()), **config}))


def without(*ends: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda tensors: {k: t for k, t in tensors.items() if not k.endswith(ends)}


def refused(path: Path, expected: str, **options: Any) -> None:
    backbone = Backbone(str(path), dtype="float32", **options)
    with pytest.raises(ConfigError, match=expected) as caught:
        backbone.load(VOCABULARY)
    assert "\n" not in str(caught.value) and str(caught.value).startswith("model.backbone.name: ")


# --- complete checkpoints are accepted ---------------------------------------------------------------------

WHOLE = {
    "llama": (tf.LlamaForCausalLM, LLAMA), "neox": (tf.GPTNeoXForCausalLM, NEOX), "gpt2": (tf.GPT2LMHeadModel, GPT2),
    "mixtral": (tf.MixtralForCausalLM, MIXTRAL), "t5": (tf.T5ForConditionalGeneration, T5),
    "bart": (tf.BartForConditionalGeneration, BART), "bart's decoder": (tf.BartForCausalLM, BART),
}  # fmt: skip


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", WHOLE)
def test_a_complete_checkpoint_is_loaded_tied_or_not_in_any_format(family: str, tied: bool, tmp_path: Path) -> None:
    kind, options = WHOLE[family]
    options = {**options, "tie_word_embeddings": tied}
    one = Backbone(str(save(tmp_path / "one", kind, options)), dtype="float32").load(VOCABULARY)
    parts = save(tmp_path / "parts", kind, options, max_shard_size="8KB")
    assert len(list(parts.glob("*.safetensors"))) > 1
    old = save(tmp_path / "old", kind, options)
    torch.save(one.state_dict(), old / "pytorch_model.bin")
    (old / "model.safetensors").unlink()
    for folder in (parts, old):
        other = Backbone(str(folder), dtype="float32").load(VOCABULARY).state_dict()
        assert all(torch.equal(t, other[k]) for k, t in one.state_dict().items())


@pytest.mark.parametrize("family", ["llama", "t5", "mixtral"])
def test_a_complete_checkpoint_is_loaded_in_4_bit(family: str, tmp_path: Path) -> None:
    kind, options = WHOLE[family]
    Backbone(str(save(tmp_path, kind, options)), load_in_4bit=True).load(VOCABULARY)


@pytest.mark.parametrize(
    ("kind", "options"), [(tf.LlamaModel, LLAMA), (tf.GPT2Model, GPT2), (tf.BartModel, BART), (tf.T5Model, T5)]
)
def test_a_base_model_is_complete_if_its_head_is_tied(kind: Any, options: dict[str, Any], tmp_path: Path) -> None:
    Backbone(str(save(tmp_path, kind, {**options, "tie_word_embeddings": True})), dtype="float32").load(VOCABULARY)


def test_further_heads_beside_the_output_head_are_ignored(tmp_path: Path) -> None:
    save(tmp_path, tf.LlamaForCausalLM, LLAMA)
    edit(tmp_path, lambda t: {**t, "v_head.summary.weight": torch.ones(1, 16), "mtp.fc.weight": torch.ones(2, 16)})
    Backbone(str(tmp_path), dtype="float32").load(VOCABULARY)


# --- weights that are missing -----------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"load_in_4bit": True}], ids=["", "4-bit"])
@pytest.mark.parametrize("tied", [True, False])
def test_a_layer_under_other_names_is_refused_and_the_missing_names_are_given(
    tied: bool, options: dict[str, Any], tmp_path: Path
) -> None:
    save(tmp_path, tf.LlamaForCausalLM, {**LLAMA, "tie_word_embeddings": tied})
    edit(tmp_path, lambda t: {("base." if "layers.1." in k else "") + k: v for k, v in t.items()})
    three = ", ".join(f"model.layers.1.{part}.weight" for part in ("input_layernorm", "mlp.down_proj", "mlp.gate_proj"))
    expected = rf"lacks weights, .*random: {three} and 6 more \(it has base.model.layers.1.*; name a complete"
    refused(tmp_path, expected, **options)


LACKING = {
    "a norm": (tf.LlamaForCausalLM, LLAMA, "model.norm.weight"),
    "an untied head": (tf.LlamaForCausalLM, LLAMA, "lm_head.weight"),
    "a bias": (tf.GPTNeoXForCausalLM, NEOX, "layers.1.attention.dense.bias"),
    "what both ends are tied to": (tf.GPT2LMHeadModel, GPT2, "wte.weight"),
    "an encoder's layer": (tf.T5ForConditionalGeneration, T5, "encoder.block.0.layer.1.DenseReluDense.wi.weight"),
    "a decoder's positions": (tf.BartForConditionalGeneration, BART, "decoder.embed_positions.weight"),
    "a stack of experts": (tf.MixtralForCausalLM, MIXTRAL, "gate.weight"),
}  # fmt: skip


@pytest.mark.parametrize("what", LACKING)
def test_a_single_missing_weight_is_named(what: str, tmp_path: Path) -> None:
    kind, options, name = LACKING[what]
    edit(save(tmp_path, kind, options), without(name))
    refused(tmp_path, rf"lacks weights, which would be initialised at random: .*{name}")


def test_a_missing_buffer_is_named(tmp_path: Path) -> None:
    options = {**LLAMA, "n_routed_experts": 4, "n_group": 1, "topk_group": 1, "num_experts_per_tok": 2,
               "q_lora_rank": 4, "moe_intermediate_size": 8, "first_k_dense_replace": 0, "kv_lora_rank": 4,
               "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8, "num_key_value_heads": 2}  # fmt: skip
    edit(save(tmp_path, tf.DeepseekV3ForCausalLM, options), without("e_score_correction_bias"))
    refused(tmp_path, "lacks weights, .*e_score_correction_bias")


@pytest.mark.parametrize("name", ["experts.1.w2.weight", "experts.1.w1.weight"])
def test_one_missing_expert_is_refused(name: str, tmp_path: Path) -> None:
    edit(save(tmp_path, tf.MixtralForCausalLM, MIXTRAL), without(f"layers.0.block_sparse_moe.{name}"))
    refused(tmp_path, "experts.down_proj .2, 16, 24., not .3, 16, 24.|lacks keys of experts")


def test_a_missing_shard_entry_is_named(tmp_path: Path) -> None:
    save(tmp_path, tf.LlamaForCausalLM, LLAMA, max_shard_size="8KB")
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    file = tmp_path / index["weight_map"].pop("model.layers.0.mlp.up_proj.weight")
    save_file({k: t for k, t in load_file(file).items() if "layers.0.mlp.up_proj" not in k}, file, {"format": "pt"})
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(tmp_path, "at random: model.layers.0.mlp.up_proj.weight; name a complete")


def test_weights_of_another_shape_are_named(tmp_path: Path) -> None:
    edit(save(tmp_path, tf.LlamaForCausalLM, LLAMA), lambda t: {**t, "lm_head.weight": t["lm_head.weight"][:99]})
    refused(tmp_path, rf"whose shapes contradict .*: lm_head.weight \(99, 16\), not \({VOCABULARY}, 16\)")


# --- heads of another kind --------------------------------------------------------------------------------

OTHERS = [
    (tf.LlamaForSequenceClassification, LLAMA), (tf.LlamaForTokenClassification, LLAMA), (tf.T5EncoderModel, T5),
    (tf.LlamaForQuestionAnswering, LLAMA), (tf.GPT2ForSequenceClassification, GPT2), (tf.BertForMaskedLM, NEOX),
    (tf.T5ForSequenceClassification, T5), (tf.BartForQuestionAnswering, BART),
]  # fmt: skip


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(("kind", "options"), OTHERS)
def test_another_kind_of_model_is_refused_by_its_name(
    kind: Any, options: dict[str, Any], tied: bool, tmp_path: Path
) -> None:
    save(tmp_path, kind, {**options, "tie_word_embeddings": tied})
    refused(tmp_path, f"is a {kind.__name__}, (whose head is not|which transformers has no language model)")


@pytest.mark.parametrize("declared", [None, ["LlamaModel"], ["LlamaForCausalLM"]])
def test_another_head_is_refused_even_if_no_weight_is_missing(declared: list[str] | None, tmp_path: Path) -> None:
    save(tmp_path, tf.LlamaForSequenceClassification, {**LLAMA, "tie_word_embeddings": True})
    edit(tmp_path, lambda t: t, architectures=declared)
    refused(tmp_path, "has the head of another kind of model, score.weight, and no output head")


@pytest.mark.parametrize("key", ["scorer.weight", "model.critic.weight", "head.weight", "v_head.summary.weight"])
def test_a_head_of_any_name_beside_a_tied_one_is_refused(key: str, tmp_path: Path) -> None:
    save(tmp_path, tf.LlamaForCausalLM, {**LLAMA, "tie_word_embeddings": True})
    Backbone(str(tmp_path), dtype="float32").load(VOCABULARY)
    edit(tmp_path, lambda t: {**t, key: torch.ones(1, 16)})
    refused(tmp_path, f"has the head of another kind of model, {key}, and no output head")


def test_computed_positions_may_be_missing(tmp_path: Path) -> None:
    save(tmp_path, tf.PegasusForConditionalGeneration, BART)
    edit(tmp_path, without("embed_positions.weight"))
    Backbone(str(tmp_path), dtype="float32").load(VOCABULARY)


def test_a_model_that_sees_later_tokens_is_refused(tmp_path: Path) -> None:
    save(tmp_path, tf.BertLMHeadModel, {**NEOX, "is_decoder": False})
    edit(tmp_path, lambda t: t, architectures=None)
    with pytest.raises(ConfigError, match="predicts a token from those that follow it"):
        ContinualLM(Backbone(str(tmp_path), dtype="float32")).load(random_tokenizer())
    edit(tmp_path, lambda t: t, is_decoder=True)
    ContinualLM(Backbone(str(tmp_path), dtype="float32")).load(random_tokenizer())


@pytest.mark.parametrize(
    ("architecture", "expected"),
    [("LlamaForRewardModel", "is a LlamaForRewardModel, whose head"), ("Later4LMHeadModel", None), (None, None)],
)
def test_declared_architectures(architecture: str | None, expected: str | None, tmp_path: Path) -> None:
    save(tmp_path, tf.LlamaForCausalLM, LLAMA)
    edit(tmp_path, lambda t: t, architectures=architecture and [architecture])
    if expected:
        refused(tmp_path, expected)
    else:
        Backbone(str(tmp_path), dtype="float32").load(VOCABULARY)


def test_half_an_encoder_decoder_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "bart", tf.BartForConditionalGeneration, BART)
    edit(tmp_path / "bart", lambda t: t, is_encoder_decoder=False)
    refused(tmp_path / "bart", "is a BartForConditionalGeneration, an encoder-decoder, but")
    save(tmp_path / "decoder", tf.BartForCausalLM, BART)
    edit(tmp_path / "decoder", lambda t: t, is_encoder_decoder=True)
    refused(tmp_path / "decoder", "lacks weights, .*model.encoder.embed_positions.weight")


def test_an_untied_head_of_t5_must_be_in_the_checkpoint(tmp_path: Path) -> None:
    """transformers ties it if its weights are missing, whatever the configuration says."""
    save(tmp_path, tf.T5ForConditionalGeneration, T5)
    edit(tmp_path, lambda t: {**t, "lm_head.weight": torch.ones(VOCABULARY, 16)}, tie_word_embeddings=False)
    llm = Backbone(str(tmp_path), dtype="float32").load(VOCABULARY)
    assert bool((llm.get_output_embeddings().weight == 1).all())
    edit(tmp_path, without("lm_head.weight"))
    refused(tmp_path, "lacks the output head, which is not tied according to its configuration")


# --- adapters beside the base -----------------------------------------------------------------------------


@pytest.fixture
def adapted(tmp_path: Path) -> Path:
    """A model with its tokenizer and a PEFT adapter in one folder."""
    folder = save(tmp_path / "model", tf.LlamaForCausalLM, LLAMA)
    random_tokenizer().save_pretrained(folder)
    llm = tf.AutoModelForCausalLM.from_pretrained(folder)
    get_peft_model(llm, LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("content", [b"\xff", b'{"base_model_name_or_path": "a\\q"}', b"[]", b"{}"])
def test_an_adapter_that_cannot_be_read_is_refused_too(content: bytes, adapted: Path) -> None:
    (adapted / "adapter_config.json").write_bytes(content)
    refused(adapted, "comes with a PEFT adapter .*or name its base alone, without that file")


def test_an_adapter_beside_the_base_is_refused_and_its_base_is_named(adapted: Path, tmp_path: Path) -> None:
    expected = r"comes with a PEFT adapter .*merge it first .*name its base alone \(.*model\)"
    with pytest.raises(ConfigError, match=expected):
        Backbone(str(adapted)).load_tokenizer()
    refused(adapted, expected)
    alone = tmp_path / "alone"
    alone.mkdir()
    for file in adapted.glob("adapter_*"):
        shutil.move(file, alone)
    Backbone(str(adapted)).load(VOCABULARY)
    refused(alone, expected)


def test_an_adapter_of_a_hub_model_is_refused(adapted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = "0" * 40
    hub = tmp_path / "hub"
    stored = hub / "models--someone--adapted"
    (stored / "refs").mkdir(parents=True)
    (stored / "refs" / "main").write_text(commit)
    shutil.copytree(adapted, stored / "snapshots" / commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(hub))
    refused(Path("someone/adapted"), "someone/adapted comes with a PEFT adapter")
    (stored / "snapshots" / commit / "adapter_config.json").unlink()
    Backbone("someone/adapted", dtype="float32").load(VOCABULARY)


# --- GGUF -------------------------------------------------------------------------------------------------


def write_gguf(path: Path, shift: float = 0.0, lacking: str = "", width: int = 24) -> Path:
    """A tiny Llama with a byte tokenizer as a GGUF file; its output head, which comes last, is shifted."""
    import gguf

    path.parent.mkdir(parents=True, exist_ok=True)
    tokens = [*sorted(random_tokenizer().get_vocab(), key=random_tokenizer().get_vocab().get), "ab"]
    torch.manual_seed(0)
    llm = tf.LlamaForCausalLM(tf.LlamaConfig(**{**LLAMA, "vocab_size": len(tokens), "intermediate_size": width}))
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(16)
    writer.add_block_count(2)
    writer.add_feed_forward_length(width)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_dimension_count(8)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3] * 3 + [1] * (len(tokens) - 3))
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(2)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 2)
    for name, tensor in llm.state_dict().items():
        if name != lacking:
            moved = tensor + shift if name == "lm_head.weight" else tensor
            writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), moved.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_gguf_file_that_lacks_weights_is_refused_and_leaves_no_conversion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CL_CACHE", str(tmp_path / "cache"))
    file = write_gguf(tmp_path / "half" / "m.gguf", lacking="model.layers.1.mlp.up_proj.weight")
    refused(
        file,
        r"half/m.gguf lacks weights, .*at random: model.layers.1.mlp.up_proj.weight; name",
    )
    assert not list((tmp_path / "cache").glob("m-*/"))
    write_gguf(file)
    Backbone(str(file)).load(VOCABULARY)
    (file.parent / "adapter_config.json").write_text("{}")
    refused(file, "half/m.gguf comes with a PEFT adapter")


def test_gguf_files_that_differ_in_weights_only_are_two_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In their last weights only, as far from the head of the file as those of a real model."""
    monkeypatch.setenv("CL_CACHE", str(tmp_path / "cache"))
    files = [write_gguf(tmp_path / str(shift) / "m.gguf", shift, width=8192) for shift in (0.0, 0.5)]
    alike = 3 << 20
    assert len({file.read_bytes()[:alike] for file in files}) == 1 < len({file.read_bytes() for file in files})
    one, two = (Backbone(str(file)).load(VOCABULARY).get_output_embeddings().weight for file in files)
    assert torch.allclose(two, one + 0.5, atol=1e-2)
