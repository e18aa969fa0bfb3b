"""Generation, greedy in scoring: sorted by length, batched, stopping when all sequences have ended.

What makes it fast: little padding, the instruction shared by all prompts of a task computed once, and many rows at once
in the memory of a few (`evaluation.decode`). transformers' own loop does all of it for models that keep more than keys
and values, where `model.backbone.generation` keeps settings, and to sample or to stream. Penalties hold state for every
row and count padding as said, so that prompts then run with those of their own length only.
"""

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, StoppingCriteriaList, StopStringCriteria
from transformers.generation import BaseStreamer

from cl_lightning.common.errors import ConfigError
from cl_lightning.data.collate import prompt_batch
from cl_lightning.data.end_tokens import before_end, end_tokens
from cl_lightning.evaluation.decode import decode, takes_positions
from cl_lightning.model.generation_settings import that_matter
from cl_lightning.model.prefix_cache import common_prefix, has_plain_cache, prefix_cache, roomy_cache


def generate(
    llm: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    batch_size: int,
    own: Sequence[tuple[int, int] | None] | None = None,
    extra: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None,
    temperature: float = 0.0,
    streamer: BaseStreamer | None = None,
) -> list[str]:
    """Continuations, in the order of `prompts`, without special tokens, and where there is no chat template without
    the blank that sets an answer off from its prompt; other space stays, metrics see to it.

    Arguments are those of `continuations`.
    """
    made = continuations(
        llm, tokenizer, prompts, max_new_tokens, batch_size, own, extra, temperature=temperature, streamer=streamer
    )
    blank = answer_blank(tokenizer)
    return [text.removeprefix(blank) for text in texts(llm, tokenizer, made)]


def answer_blank(tokenizer: PreTrainedTokenizerBase) -> str:
    """What sets an answer off from its prompt: a blank, or nothing where there is a chat template."""
    return "" if tokenizer.chat_template else " "


def texts(llm: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Sequence[int]]) -> list[str]:
    """Rows of `continuations` as text, without special tokens and what follows the first end token."""
    ends = end_tokens(llm, tokenizer)
    return [tokenizer.decode(before_end(row, ends), skip_special_tokens=True) for row in rows]


@torch.no_grad()
def continuations(
    llm: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    batch_size: int,
    own: Sequence[tuple[int, int] | None] | None = None,
    extra: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None,
    stop: Sequence[str] = (),
    temperature: float = 0.0,
    streamer: BaseStreamer | None = None,
) -> list[list[int]]:
    """Token ids of the continuations, in the order of `prompts`; padding may follow the end token, which is any of
    `data.end_tokens.end_tokens`.

    Prompts (token ids) are left-padded for decoders. Long prompts come first, so that running out of memory
    shows at once. The model's train mode is restored.

    Args:
        own: span of each prompt that is its task's own, see `data.collate.prompt_batch`; None in it: the whole prompt.
        extra: further arguments of the model for a batch of prompts, each sample's own (gates), which are told from
            `own`; nothing is then computed once for all prompts.
        stop: texts after which a continuation also ends, beside those of the model's generation settings.
        temperature: 0 takes the most likely token each time; above 0, tokens are drawn from softmax(logits /
            temperature) with torch's global generator.
        streamer: is given the tokens of the only prompt as they come.

    Raises:
        ConfigError: `extra` without `own`.
    """
    if extra is not None and own is None:
        raise ConfigError(
            "generate(.., extra=..) needs own=.., each prompt's span of its task's own tokens "
            "(data.prompt.Encoded.own; None: the whole prompt): gates read these alone"
        )
    settings = that_matter(llm.generation_config)
    made: list[list[int]] = [[]] * len(prompts)
    ends = end_tokens(llm, tokenizer)
    own_stops = llm.generation_config.stop_strings or []
    stop = [*stop, *([own_stops] if isinstance(own_stops, str) else own_stops)]
    stops = StoppingCriteriaList([StopStringCriteria(tokenizer, stop)] if stop else [])
    left = not llm.config.is_encoder_decoder
    training = llm.training
    llm.eval()
    try:
        prefix = _Prefix(llm, prompts if extra is None else [], plain=not (settings or temperature or streamer))
        for chunk in _chunks([len(p) for p in prompts], batch_size, alike=bool(settings)):
            rest = [prompts[i][prefix.length :] for i in chunk]
            spans = None if extra is None else [own[i] for i in chunk]
            padded = prompt_batch(rest, tokenizer.pad_token_id, left, spans)
            batch = {k: v.to(llm.device) for k, v in padded.items()}
            more = {} if extra is None else extra(batch)
            batch.pop("own_mask", None)
            inputs = {**prefix.before(batch, max_new_tokens), **more}
            out = llm.generate(
                **inputs,
                max_new_tokens=max_new_tokens,
                do_sample=temperature > 0,
                num_beams=1,
                temperature=temperature or None,
                top_p=None,
                top_k=None,
                pad_token_id=tokenizer.pad_token_id,
                eos_token_id=ends,
                custom_generate=decode if prefix.plain else None,
                stopping_criteria=stops,
                stop_strings=None,
                streamer=streamer,
            )
            # A decoder of its own begins with one token that says nothing and may be an end token elsewhere (BART).
            new = out[:, inputs["input_ids"].shape[1] if left else 1 :]
            for i, row in zip(chunk, new.tolist(), strict=True):
                made[i] = row
    finally:
        llm.train(training)
    return made


def _chunks(lengths: Sequence[int], size: int, alike: bool) -> list[list[int]]:
    """Which prompts run together, at most `size`, long ones first; `alike`: only those of one length."""
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    groups = [list(group) for _, group in groupby(order, lambda i: lengths[i])] if alike else [order]
    return [group[start : start + size] for group in groups for start in range(0, len(group), size)]


class _Prefix:
    """What all prompts begin with, computed once; of length 0 where nothing can be shared.

    `plain`: whether decoding is the most likely token each time, and nobody is given tokens as they come.
    """

    def __init__(self, llm: PreTrainedModel, prompts: Sequence[Sequence[int]], plain: bool) -> None:
        self.llm, self.plain = llm, plain and has_plain_cache(llm) and takes_positions(llm)
        self.length = common_prefix(prompts) if self.plain and prompts else 0
        self.ids = torch.tensor([prompts[0][: self.length]], device=llm.device) if self.length else None
        self.cache = prefix_cache(llm, self.ids) if self.length else None

    def before(self, batch: dict[str, Tensor], max_new_tokens: int) -> dict[str, Any]:
        """The batch with the prefix put in front: prefix, padding, rest of the prompt, so that columns are shared."""
        if not self.plain:
            return batch
        rows, width = batch["input_ids"].shape
        if self.ids is not None:
            heads = {"input_ids": self.ids, "attention_mask": torch.ones_like(self.ids)}
            batch = {k: torch.cat([heads[k].expand(rows, -1), v], dim=1) for k, v in batch.items()}
        cache = roomy_cache(self.llm, self.cache, rows, self.length + width + max_new_tokens)
        return {**batch, "past_key_values": cache}
