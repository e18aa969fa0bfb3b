"""Compare what a model predicts of a prompt alone, in a padded batch, and when it generates.

Rounding differs between these, more so where experts are chosen. So differences are measured against that of a real
change, other tokens before the prompt, which is what padding is to a model that does not mask it.
"""

import torch
from torch import Tensor
from transformers import PreTrainedModel

from cl_lightning.common.errors import ConfigError

#: Tokens of each prompt, and of each with padding.
LENGTHS, WIDTH = (3, 5, 8), 12
#: Largest share of a real change that is rounding. Over 60 architectures, mixtures of experts among them, in float32
#: and in bfloat16, rounding is below 0.03 and a fault above 1.
ROUNDING = 0.3
#: Least real change, as a share of the prediction, against which anything can be measured.
LEAST_CHANGE = 1e-3


@torch.no_grad()
def generates_in_batches(name: str, llm: PreTrainedModel, pad_id: int) -> bool:
    """Return whether prompts may be padded to a batch when answers are generated (RWKV's may not).

    True of a model whose predictions are not finite, or do not depend on the tokens before: nothing can be measured.

    Args:
        name: of the model, for messages.
        llm: the model, in eval mode or not.
        pad_id: token that pads.

    Raises:
        ConfigError: one prompt alone, or a padded batch in training, gives other predictions than the forward pass on
            one prompt (RoBERTa, whose positions begin elsewhere when it generates).
    """
    training = llm.training
    llm.eval()
    try:
        return _generates_in_batches(name, llm, pad_id)
    finally:
        llm.train(training)


def _generates_in_batches(name: str, llm: PreTrainedModel, pad_id: int) -> bool:
    left = not llm.config.is_encoder_decoder
    prompts = torch.arange(sum(LENGTHS), device=llm.device).remainder(llm.get_input_embeddings().num_embeddings - 5)
    rows = [row + 3 for row in prompts.split(LENGTHS)]
    alone = torch.cat([_predicted(llm, row[None]) for row in rows])
    change = (_predicted(llm, _padded(rows, int(rows[-1][-1]), left)[0]) - alone).norm(dim=1)
    if not bool((change > LEAST_CHANGE * alone.norm(dim=1)).all()):  # which NaN is not
        return True

    def same(found: Tensor) -> bool:
        return bool(((found - alone[: len(found)]).norm(dim=1) / change[: len(found)]).median() < ROUNDING)

    one = _generated(llm, rows[0][None], torch.ones_like(rows[0])[None], pad_id)
    if not same(one):
        raise ConfigError(
            f"model.backbone.name: {name} predicts other tokens when it generates than in training, since its code "
            "counts positions otherwise; choose another base model"
        )
    ids, mask = _padded(rows, pad_id, left=False)
    if left and not same(_predicted(llm, ids, mask)):
        raise ConfigError(
            f"model.backbone.name: {name} predicts other tokens in a padded batch than of each example alone; choose "
            "another base model"
        )
    return same(_generated(llm, *_padded(rows, pad_id, left), pad_id))


def _padded(rows: list[Tensor], pad_id: int, left: bool) -> tuple[Tensor, Tensor]:
    ids = rows[0].new_full((len(rows), WIDTH), pad_id)
    mask = torch.zeros_like(ids)
    for index, row in enumerate(rows):
        part = slice(WIDTH - len(row), WIDTH) if left else slice(len(row))
        ids[index, part], mask[index, part] = row, 1
    return ids, mask


def _predicted(llm: PreTrainedModel, ids: Tensor, mask: Tensor | None = None) -> Tensor:
    """Compute the logits (B, V) of the first token of an answer, by a forward pass as in training."""
    mask = torch.ones_like(ids) if mask is None else mask
    if llm.config.is_encoder_decoder:
        settings = llm.generation_config
        start = settings.bos_token_id if settings.decoder_start_token_id is None else settings.decoder_start_token_id
        begin = torch.full_like(ids[:, :1], start)
        logits = llm(input_ids=ids, attention_mask=mask, decoder_input_ids=begin, use_cache=False).logits
        return logits[:, -1].double()
    logits = llm(input_ids=ids, attention_mask=mask, use_cache=False).logits
    last = (mask * torch.arange(1, ids.shape[1] + 1, device=ids.device)).argmax(1)
    return logits[torch.arange(len(ids), device=ids.device), last].double()


def _generated(llm: PreTrainedModel, ids: Tensor, mask: Tensor, pad_id: int) -> Tensor:
    """Compute the same where answers are generated."""
    out = llm.generate(
        ids,
        attention_mask=mask,
        max_new_tokens=1,
        do_sample=False,
        num_beams=1,
        pad_token_id=pad_id,
        stop_strings=None,
        output_logits=True,
        return_dict_in_generate=True,
    )
    return out.logits[0].double()
