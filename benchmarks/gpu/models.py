"""Models for measurements: published shapes with random weights made on the device, or the embedded model."""

from dataclasses import dataclass
from typing import Any

import torch
from _common import BACKBONE, device
from shapes import SHAPES, TINY
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from cl_lightning.model.backbone import Backbone
from cl_lightning.model.random_llama import random_tokenizer

#: Ends the name of a model whose linear layers are held in nf4.
NF4 = "-nf4"


def configuration(name: str, tiny: bool = False) -> PreTrainedConfig:
    """Make the configuration of a published shape, or of a small model of its family."""
    settings = {**SHAPES[name], **(TINY if tiny else {})}
    return AutoConfig.for_model(settings.pop("model_type"), **settings, pad_token_id=0, bos_token_id=1, eos_token_id=2)


def backbone_of(name: str, tiny: bool, **options: Any) -> Backbone:
    """Make the backbone of a name in `SHAPES`, with or without the ending `NF4`, or of the embedded model."""
    if name == BACKBONE:
        return Backbone(name, **options)
    return RandomBackbone(name.removesuffix(NF4), load_in_4bit=name.endswith(NF4), tiny=tiny, **options)


@dataclass
class RandomBackbone(Backbone):
    """A published shape with random weights, drawn on the device in `dtype`: nothing passes through the CPU."""

    tiny: bool = False

    def load_tokenizer(self) -> PreTrainedTokenizerBase:
        return random_tokenizer()

    def fingerprint(self, llm: PreTrainedModel) -> str:
        """Return no hash: nothing is stored that it would have to fit, and hashing copies the model to the CPU."""
        return "random"

    def _source(self) -> str:
        return ""  # no file

    def _load_pretrained(self, dtype: torch.dtype, source: str) -> PreTrainedModel:
        torch.manual_seed(0)
        with torch.device(device()):
            llm = AutoModelForCausalLM.from_config(
                configuration(self.name, self.tiny), dtype=dtype, attn_implementation="sdpa"
            )
        return _in_4bit(llm, dtype) if self.load_in_4bit else llm.eval()


def _in_4bit(llm: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """Quantise the linear layers of the blocks one by one, with the settings of `Backbone`."""
    import bitsandbytes as bnb

    head = llm.get_output_embeddings()
    # Names alone: each layer is freed as soon as it is replaced.
    names = [name for name, layer in llm.named_modules() if isinstance(layer, nn.Linear) and layer is not head]
    for name in names:
        layer = llm.get_submodule(name)
        options = {"compress_statistics": True, "quant_type": "nf4"}
        with torch.device("meta"):
            packed = bnb.nn.Linear4bit(layer.in_features, layer.out_features, False, dtype, **options)
        packed.weight = bnb.nn.Params4bit(layer.weight.data, requires_grad=False, module=packed, **options)
        llm.set_submodule(name, packed.to(layer.weight.device))
    llm.is_loaded_in_4bit = True  # read by PEFT
    return llm.eval()
