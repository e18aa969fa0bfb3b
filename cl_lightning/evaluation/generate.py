"""Greedy generation for scoring: sorted by length, batched, stopping when all sequences have ended."""

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from cl_lightning.data.collate import prompt_batch


@torch.no_grad()
def generate(
    llm: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    batch_size: int,
) -> list[str]:
    """Greedy continuations, in the order of `prompts`, without special tokens and surrounding blanks.

    Prompts (token ids) are left-padded for decoders. Long prompts come first, so that running out of memory
    shows at once. The model's train mode is restored.
    """
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
    texts = [""] * len(prompts)
    left = not llm.config.is_encoder_decoder
    training = llm.training
    llm.eval()
    try:
        for start in range(0, len(order), batch_size):
            chunk = order[start : start + batch_size]
            batch = prompt_batch([prompts[i] for i in chunk], tokenizer.pad_token_id, left).items()
            batch = {k: v.to(llm.device) for k, v in batch}
            out = llm.generate(
                **batch,
                max_new_tokens=max_new_tokens,
                do_sample=False,
                num_beams=1,
                temperature=None,
                top_p=None,
                top_k=None,
                pad_token_id=tokenizer.pad_token_id,
                eos_token_id=tokenizer.eos_token_id,
            )
            new = out[:, batch["input_ids"].shape[1] :] if left else out
            for i, text in zip(chunk, tokenizer.batch_decode(new, skip_special_tokens=True), strict=True):
                texts[i] = text.strip()
    finally:
        llm.train(training)
    return texts
