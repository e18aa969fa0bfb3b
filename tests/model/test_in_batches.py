"""Padding changes no prediction on any architecture; where it does, prompts are answered one at a time, or refused."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf

from cl_lightning.commands.first_lines import base
from cl_lightning.common.errors import ConfigError
from cl_lightning.evaluation.generate import continuations
from cl_lightning.export.loaded import LoadedModel, PromptSettings
from cl_lightning.model.backbone import Backbone
from cl_lightning.model.in_batches import generates_in_batches
from cl_lightning.model.module import ContinualLM
from tests.families import FAMILIES, WHOLE, make, save

QUICK = ("Llama", "Mixtral", "Mamba", "BART", "RWKV")


@pytest.mark.parametrize(
    "family", [pytest.param(name, marks=[] if name in QUICK else pytest.mark.long) for name in FAMILIES]
)
def test_rounding_is_not_taken_for_a_fault(family: str) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        llm = make(FAMILIES[family]()).to(dtype)
        assert generates_in_batches(family, llm, pad_id=0) == (family != "RWKV")


def loaded(folder: Path) -> LoadedModel:
    module = ContinualLM(Backbone(str(folder), dtype="float32"))
    module.load(module.backbone.load_tokenizer())
    return LoadedModel(module, PromptSettings(64), [])


def test_rwkv_answers_one_prompt_at_a_time_and_says_so(tmp_path: Path) -> None:
    model = loaded(save(FAMILIES["RWKV"](), tmp_path))
    prompts = ["a", "red and green", "so it is"]
    alone = [model.generate([prompt], max_new_tokens=4)[0] for prompt in prompts]
    assert model.generate(prompts, max_new_tokens=4) == alone
    assert "; answers one prompt at a time, since batches give other answers" in base(model.module)
    with pytest.raises(ConfigError, match="3 in a batch, which this model answers wrongly; give one at a time"):
        model.inputs(prompts)
    ids = [model.inputs([prompt])["input_ids"][0].tolist() for prompt in prompts]
    three, one = (continuations(model.model, model.tokenizer, ids, 4, size) for size in (3, 1))
    assert three != one, "negative control: in a batch it answers otherwise"


def test_a_model_that_takes_padding_is_not_slowed_down(tmp_path: Path) -> None:
    module = loaded(save(FAMILIES["Llama"](), tmp_path)).module
    assert module.most_prompts(7) == 7 and "one prompt" not in base(module)


def test_a_model_that_generates_from_other_positions_is_refused(tmp_path: Path) -> None:
    config = tf.RobertaConfig(**{**WHOLE, "pad_token_id": 1}, is_decoder=True, type_vocab_size=1)
    with pytest.raises(ConfigError, match="predicts other tokens when it generates than in training"):
        loaded(save(config, tmp_path))


class Mixing(tf.LlamaForCausalLM):
    """Adds to each sample what the batch's next one predicts."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        out = super().forward(*args, **kwargs)
        return replace(out, logits=out.logits + out.logits.roll(1, 0))


def test_a_model_that_mixes_the_samples_of_a_batch_is_refused() -> None:
    llm = make(FAMILIES["Llama"]())
    assert generates_in_batches("plain", llm, 0)
    llm.__class__ = Mixing
    with pytest.raises(ConfigError, match="mixing predicts other tokens in a padded batch than of each example alone"):
        generates_in_batches("mixing", llm, 0)


@pytest.mark.parametrize(("value", "matrix"), [(float("nan"), "q_proj"), (0.0, "o_proj")])
def test_predictions_that_cannot_be_compared_are_left_to_other_checks(value: float, matrix: str) -> None:
    """Not finite, or of the last token alone."""
    llm = make(FAMILIES["Llama"]())
    for layer in llm.model.layers:
        torch.nn.init.constant_(getattr(layer.self_attn, matrix).weight, value)
    assert generates_in_batches("plain", llm, 0)
