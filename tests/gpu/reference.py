"""The model in float64 on the CPU, written from its equation alone: dense weights W + s (B A - B0 A0), plain autograd.

Nothing of adapters, capture or generation is used here.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaForCausalLM, PreTrainedModel

from cl_lightning.model.module import ContinualLM
from cl_lightning.model.precision import keep_float64, widened


def wide(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().to(torch.float64)


def dense_model(module: ContinualLM, weights: Mapping[str, Tensor] | None = None) -> PreTrainedModel:
    """Copy the base into a plain float64 model; `weights` replace those of the named layers."""
    with widened():
        llm = LlamaForCausalLM(module.llm.config).to(torch.float64)
    keep_float64(llm)
    base = {name.replace(".base.", "."): t for name, t in module.llm.state_dict().items() if "lora" not in name}
    chosen = {f"{name}.weight": weight for name, weight in (weights or {}).items()}
    llm.load_state_dict({name: wide(t) for name, t in (base | chosen).items()})
    return llm.eval()


def effective(module: ContinualLM) -> dict[str, Tensor]:
    """W + s (B A - B0 A0) of every adapted layer, float64."""
    out = {}
    for name, layer in module.adapter.layers.items():
        W = wide(layer.base.weight) + layer.scaling * wide(layer.lora_B) @ wide(layer.lora_A)
        if layer.lora_A0 is not None:
            W = W - layer.scaling * wide(layer.lora_B0) @ wide(layer.lora_A0)
        out[name] = W
    return out


def loss(llm: PreTrainedModel, batch: dict[str, Any]) -> Tensor:
    """Mean negative log-likelihood of the batch's answer tokens."""
    logits = llm(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False).logits
    return nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten())


def weight_gradients(llm: PreTrainedModel, batch: dict[str, Any], names: list[str]) -> dict[str, Tensor]:
    """dLoss/dW (m, n) of the named layers."""
    wanted = [llm.get_submodule(name).weight for name in names]
    return dict(zip(names, torch.autograd.grad(loss(llm, batch), wanted), strict=True))


def moved(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    return {key: value.to(device) if isinstance(value, Tensor) else value for key, value in batch.items()}
