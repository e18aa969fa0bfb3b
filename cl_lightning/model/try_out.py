"""Prove that a loaded model can be used, and find out how, by short forward passes and one short answer."""

from collections.abc import Iterator
from contextlib import contextmanager

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


@torch.no_grad()
def head_is_plain(llm: PreTrainedModel) -> bool:
    """Return whether logits are exactly the output head of the last hidden state (no soft cap or scaling)."""
    if llm.config.is_encoder_decoder:
        return False
    ids = torch.arange(1, 9, device=llm.device).reshape(2, 4)
    with _evaluating(llm):
        hidden = getattr(llm.base_model(input_ids=ids, use_cache=False), "last_hidden_state", None)
        if hidden is None:
            return False
        return torch.equal(llm.get_output_embeddings()(hidden), llm(input_ids=ids, use_cache=False).logits)


@torch.no_grad()
def check_causal(name: str, llm: PreTrainedModel) -> None:
    """Raise ConfigError if the model's predictions depend on later tokens (like BERT's)."""
    if llm.config.is_encoder_decoder:
        return
    one = torch.arange(1, 5, device=llm.device)[None]
    other = one.clone()
    other[0, -1] = 5
    with _evaluating(llm):
        first, second = (llm(input_ids=ids, use_cache=False).logits[0, 0] for ids in (one, other))
    rounding = 8 * torch.finfo(first.dtype).eps * first.double().norm()
    if (first.double() - second.double()).norm() > rounding:
        raise ConfigError(
            f"model.backbone.name: {name} predicts a token from those that follow it, so it is not a causal language "
            "model; choose a decoder or an encoder-decoder"
        )


@contextmanager
def _evaluating(llm: PreTrainedModel) -> Iterator[None]:
    training = llm.training
    llm.eval()
    yield
    llm.train(training)
