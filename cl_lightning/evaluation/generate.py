"""Generation, greedy in scoring, in batches sorted by length.

It is fast because there is little padding, a prefix that all prompts share is computed once, and large batches need
little memory (`evaluation.decode`). transformers' own loop is used for models that cache more than keys and values, for
models with effective generation settings, and to sample or to stream. Penalties count padding as generated tokens, so
that prompts are then batched only with others of the same length.
"""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, StoppingCriteriaList, StopStringCriteria
from transformers.generation import BaseStreamer

from cl_lightning.common.errors import ConfigError
from cl_lightning.data.collate import prompt_batch
from cl_lightning.data.end_tokens import before_end, end_tokens
from cl_lightning.data.writable import decoded
from cl_lightning.evaluation.decode import Prompts, decode, takes_positions
from cl_lightning.model.generation_settings import effective_settings
from cl_lightning.model.prefix_cache import common_prefix, has_plain_cache, preallocated_cache, prefix_cache


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
    advance: Callable[[int], None] | None = None,
    read: Callable[[Sequence[int], Prompts], None] | None = None,
) -> list[str]:
    """Generate continuations as strings, in the order of `prompts`, without special tokens.

    Without a chat template, the space that separates an answer from its prompt is removed. Other whitespace is kept;
    metrics handle it. Arguments are those of `continuations`.
    """
    made = continuations(
        llm,
        tokenizer,
        prompts,
        max_new_tokens,
        batch_size,
        own,
        extra,
        temperature=temperature,
        streamer=streamer,
        advance=advance,
        read=read,
    )
    blank = answer_blank(tokenizer)
    return [text.removeprefix(blank) for text in detokenize(llm, tokenizer, made)]


def answer_blank(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return what separates an answer from its prompt: a space, or nothing with a chat template."""
    return "" if tokenizer.chat_template else " "


def detokenize(llm: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, made: Sequence[Sequence[int]]) -> list[str]:
    """Decode continuations up to their first end token, without special tokens; spaces stay as the model wrote them."""
    ends = end_tokens(llm, tokenizer)
    return [decoded(tokenizer, before_end(ids, ends)) for ids in made]


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
    advance: Callable[[int], None] | None = None,
    read: Callable[[Sequence[int], Prompts], None] | None = None,
) -> list[list[int]]:
    """Generate the token ids of continuations, in the order of `prompts`.

    Padding may follow the end token, which is any of `data.end_tokens.end_tokens`. Prompts (token ids) are left-padded
    for decoders. Long prompts come first, so that running out of memory shows early. The model's train mode is
    restored.

    Args:
        own: span of each prompt's own tokens, see `data.collate.prompt_batch`; an entry None: the whole prompt.
        extra: computes further per-sample arguments of the model (gates) for a batch of prompts, reading `own`; no
            prefix is then shared.
        stop: strings that also end a continuation, besides those of the model's generation settings.
        temperature: 0 takes the most likely token each time; above 0, tokens are drawn from softmax(logits /
            temperature) with torch's global generator.
        streamer: receives the tokens of the only prompt as they are generated.
        advance: called after each batch with the number of its prompts.
        read: called with each batch's indices and `decode.Prompts`, before its answers are generated; only where
            `is_plain`, and it may score answers of up to `max_new_tokens` tokens.

    Raises:
        ConfigError: `extra` without `own`.
    """
    if extra is not None and own is None:
        raise ConfigError(
            "generate(.., extra=..) needs own=.., the span of each prompt's own tokens "
            "(data.prompt.Encoded.own; None: the whole prompt), which gates read"
        )
    settings = effective_settings(llm.generation_config)
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
            own_loop = partial(decode, read=read and partial(read, chunk)) if prefix.plain else None
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
                custom_generate=own_loop,
                stopping_criteria=stops,
                stop_strings=None,
                streamer=streamer,
            )
            # An encoder-decoder's output begins with a start token, which may equal an end token (BART).
            new = out[:, inputs["input_ids"].shape[1] if left else 1 :]
            for i, row in zip(chunk, new.tolist(), strict=True):
                made[i] = row
            if advance is not None:
                advance(len(chunk))
    finally:
        llm.train(training)
    return made


def _chunks(lengths: Sequence[int], size: int, alike: bool) -> list[list[int]]:
    """Group prompts into batches of at most `size`, longest first; `alike`: of equal length only."""
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    groups = [list(group) for _, group in groupby(order, lambda i: lengths[i])] if alike else [order]
    return [group[start : start + size] for group in groups for start in range(0, len(group), size)]


def is_plain(llm: PreTrainedModel) -> bool:
    """Return whether our own loop decodes this model greedily."""
    return not effective_settings(llm.generation_config) and has_plain_cache(llm) and takes_positions(llm)


class _Prefix:
    """The shared prefix of all prompts, computed once; of length 0 if nothing can be shared.

    `plain`: whether our decoding loop can be used: greedy, and nothing is streamed.
    """

    def __init__(self, llm: PreTrainedModel, prompts: Sequence[Sequence[int]], plain: bool) -> None:
        self.llm, self.plain = llm, plain and is_plain(llm)
        self.length = common_prefix(prompts) if self.plain and prompts else 0
        self.ids = torch.tensor([prompts[0][: self.length]], device=llm.device) if self.length else None
        self.cache = prefix_cache(llm, self.ids) if self.length else None

    def before(self, batch: dict[str, Tensor], max_new_tokens: int) -> dict[str, Any]:
        """Prepend the prefix to the batch: prefix, padding, rest of the prompt, so that its columns are shared."""
        if not self.plain:
            return batch
        rows, width = batch["input_ids"].shape
        if self.ids is not None:
            heads = {"input_ids": self.ids, "attention_mask": torch.ones_like(self.ids)}
            batch = {k: torch.cat([heads[k].expand(rows, -1), v], dim=1) for k, v in batch.items()}
        cache = preallocated_cache(self.llm, self.cache, rows, self.length + width + max_new_tokens)
        return {**batch, "past_key_values": cache}
