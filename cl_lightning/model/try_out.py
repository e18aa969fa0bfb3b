"""Prove that a loaded model can be used: one short forward pass and one short answer."""

import torch
from transformers import PreTrainedModel

from cl_lightning.common.errors import ConfigError


@torch.no_grad()
def try_out(name: str, llm: PreTrainedModel) -> None:
    """Run a forward pass and generate two tokens. Raises whatever the model raises.

    Raises:
        ConfigError: logits are not finite.
    """
    ids = torch.arange(1, 5, device=llm.device)[None]
    decoder = {"decoder_input_ids": ids} if llm.config.is_encoder_decoder else {}
    logits = llm(input_ids=ids, **decoder, use_cache=False).logits
    if not torch.isfinite(logits).all():
        raise ConfigError(
            f"model.backbone.name: the logits of {name} are not finite: its weights are damaged, or too large for "
            f"{str(llm.dtype).removeprefix('torch.')} (then choose a wider model.backbone.dtype)"
        )
    # Stop strings need a tokenizer; scoring applies them itself.
    more = {"do_sample": False, "pad_token_id": 0, "stop_strings": None}
    llm.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=2, **more)
