"""Check that an adapted linear's input is the samples' tokens in order, so that gates can be applied to them.

Some layers flatten (B, L, n) to (B L, n), which keeps the order; routed experts read the tokens sent to them, which
does not. Shapes do not tell these apart, so a few samples are run together and one by one, and the inputs compared.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from cl_lightning.adapters.linear import AdaptedLinear
from cl_lightning.common.errors import ConfigError

#: Samples, and tokens of each.
SIZE = (4, 16)
#: Largest mean relative distance of a token's features from those with its sample run alone. Rounding in bf16 is far
#: below, another token's features are far above.
CLOSE = 0.1


def check_token_order(llm: PreTrainedModel) -> None:
    """Mark the adapted linears whose flattened inputs keep the samples' order, so that gates apply to them.

    Raises:
        ConfigError: an adapted linear's input does not keep the order.
    """
    layers = {name: module for name, module in llm.named_modules() if isinstance(module, AdaptedLinear)}
    ids = (torch.arange(SIZE[0] * SIZE[1]) % llm.get_input_embeddings().weight.shape[0]).reshape(SIZE).to(llm.device)
    together = _inputs(llm, layers, ids)
    doubtful = {name: layers[name] for name, x in together.items() if x.dim() < 3 or len(x) != len(ids)}
    if not doubtful:
        return
    alone = [_inputs(llm, doubtful, row[None]) for row in ids]
    for name, layer in doubtful.items():
        each = [found[name] for found in alone if name in found]
        if not _close(together[name], each):
            raise ConfigError(
                f"model.adapter.targets: gates cannot be applied to {name}, whose input is not each sample's tokens in "
                "order (routed experts, windows of attention); leave it out"
            )
        layer.in_order = True


def _close(x: Tensor, each: list[Tensor]) -> bool:
    rows = x.reshape(-1, x.shape[-1]).double()
    shares = [part.reshape(-1, part.shape[-1]).double() for part in each]
    if [len(share) for share in shares] != [SIZE[1]] * SIZE[0] or len(rows) != SIZE[0] * SIZE[1]:
        return False  # not all tokens of each sample
    wanted = torch.cat(shares)
    distance = (rows - wanted).norm(dim=1) / wanted.norm(dim=1).clamp_min(1e-30)
    return bool(distance.mean() < CLOSE)


@torch.no_grad()
def _inputs(llm: PreTrainedModel, layers: dict[str, AdaptedLinear], ids: Tensor) -> dict[str, Tensor]:
    """Return the last input of each layer that ran, by name."""
    found: dict[str, Tensor] = {}

    def watch(name: str) -> Any:
        return lambda _, args: found.__setitem__(name, args[0])

    hooks = [layer.register_forward_pre_hook(watch(name)) for name, layer in layers.items()]
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    training = llm.training
    llm.eval()
    try:
        llm(**inputs, **({"decoder_input_ids": ids} if llm.config.is_encoder_decoder else {}), use_cache=False)
    finally:
        llm.train(training)
        for hook in hooks:
            hook.remove()
    return found
