"""Whether the rows that an adapted linear reads are the samples' tokens in order, so that gates can weigh them.

Some layers flatten (B, L, n) to (B L, n), which is in order; routed experts read the tokens sent to them, which is not.
No shape tells these apart, so a few tokens are read together and then sample by sample.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from cl_lightning.adapters.linear import AdaptedLinear
from cl_lightning.common.errors import ConfigError

#: Samples, and tokens of each.
SIZE = (4, 16)
#: Mean relative distance of a row from what it is when its sample is read alone. Rounding in bf16 stays far below,
#: another token's row lies far above.
CLOSE = 0.1


def check_token_order(llm: PreTrainedModel) -> None:
    """Let those adapted linears follow gates through flattened inputs that keep the samples' order.

    Raises:
        ConfigError: an adapted linear's input does not keep it.
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
                f"model.adapter.targets: gates cannot weigh {name}, whose input is not each sample's tokens in order "
                "(routed experts); leave it out"
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
    """What each of the layers last read, by name, if it ran."""
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
