"""Wrap the model in memory, with its adapters and gates, as a model of lm-eval.

Likelihoods are computed by the model's training path with the context as the prompt and the continuation as the answer,
so that gates pool over the context only; generation uses `evaluation.generate`. Each rank evaluates the items that
lm-eval assigns to it. Imported only to measure general ability: lm-eval is an optional dependency.
"""

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import normalize_gen_kwargs, resolve_max_length
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from cl_lightning.common import distributed
from cl_lightning.common.errors import ConfigError
from cl_lightning.data.base import Example
from cl_lightning.data.chat import PROBE, around, between, render
from cl_lightning.data.prompt import Encoded
from cl_lightning.evaluation.generate import continuations, detokenize
from cl_lightning.evaluation.likelihood import LabelLogits, log_likelihoods
from cl_lightning.model.sharding import in_step

#: lm-eval's ((context, continuation), context ids, continuation ids).
Request = tuple[tuple[str, str] | None, list[int], list[int]]


class HarnessLM(TemplateLM):
    """Adapter from a model in memory to `lm_eval.evaluate`.

    Args:
        llm, tokenizer: the model; its train mode is restored after each call.
        answer_logits: its forward pass with the head at labels only, gates included.
        batch_size: sequences per forward pass.
        extra: computes per-sample arguments of the model (gates) for generation.
    """

    def __init__(
        self,
        llm: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        answer_logits: LabelLogits,
        batch_size: int,
        extra: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None,
    ) -> None:
        super().__init__()
        self.llm, self.tokenizer, self.answer_logits = llm, tokenizer, answer_logits
        self.batch_size, self.extra = batch_size, extra
        self.backend = "seq2seq" if llm.config.is_encoder_decoder else "causal"
        self.max_length = resolve_max_length(llm.config, tokenizer)
        self._rank, self._world_size, self._device = distributed.rank(), distributed.world_size(), llm.device
        self._contents: dict[str, tuple[int, int]] = {}

    # ---- tokens ------------------------------------------------------------------------------------------

    @property
    def eot_token_id(self) -> int:
        """End-of-text token, not the end of a chat turn; generation stops at both."""
        return self.tokenizer.eos_token_id

    @property
    def prefix_token_id(self) -> int:
        bos = self.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else bos

    @property
    def tokenizer_name(self) -> str:
        return self.tokenizer.name_or_path

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        return self.tokenizer.encode(string, add_special_tokens=self._special(string, add_special_tokens))

    def _special(self, text: str, wanted: bool | None) -> bool:
        """Return whether to add special tokens; by default unless a chat template has already written them."""
        begins = self.tokenizer.bos_token is not None and text.startswith(self.tokenizer.bos_token)
        return not begins if wanted is None else wanted

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        options = {
            "add_generation_prompt": add_generation_prompt,
            "continue_final_message": not add_generation_prompt,
        }
        text = render(self.tokenizer, chat_history, **options)
        # The template puts the same text before the first and after the last message whatever they contain.
        probe = {"content": PROBE}
        one = render(self.tokenizer, [chat_history[0] | probe, *chat_history[1:]], **options)
        other = render(self.tokenizer, [*chat_history[:-1], chat_history[-1] | probe], **options)
        self._contents[text] = between(text, around(one)[0], around(other)[1])
        return text

    def _own(self, context: str, cut: int) -> tuple[int, int] | None:
        """Return the span of a context's tokens without those of the chat template; None: all.

        Gates pool over this span, as in training. `cut`: number of tokens removed from the start.
        """
        if context not in self._contents:
            return None
        start, end = self._contents[context]
        special = self._special(context, None)
        offsets = self.tokenizer(context, add_special_tokens=special, return_offsets_mapping=True).offset_mapping
        inside = [i - cut for i, (a, b) in enumerate(offsets) if a >= start and b <= end and b > a and i >= cut]
        return (inside[0], inside[-1] + 1) if inside else None

    # ---- requests ----------------------------------------------------------------------------------------

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        return super().loglikelihood(requests, disable_tqdm=True)

    def _loglikelihood_tokens(self, requests: Sequence[Request], **_: Any) -> list[tuple[float, bool]]:
        """Compute the log-likelihood of each continuation, and whether it is the greedy one."""
        samples = [self._encoded(request) for request in requests]
        pad = self.tokenizer.pad_token_id
        with in_step(self.llm):
            return log_likelihoods(self.llm, self.answer_logits, pad, samples, self.batch_size)

    def _encoded(self, request: Request) -> Encoded:
        """Encode context and continuation as prompt and answer, truncating the context from the left."""
        strings, context, continuation = request
        room = self.max_length if self.backend == "seq2seq" else self.max_length + 1 - len(continuation)
        cut = max(0, len(context) - room)
        own = self._own(strings[0], cut) if strings else None
        return Encoded(Example("", "", ""), tuple(context[cut:]), tuple(continuation), cut, own)

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = True) -> list[float]:
        windows: list[Request] = []
        owner: list[int] = []
        for index, request in enumerate(requests):
            ids = self.tok_encode(request.args[0])
            for window in get_rolling_token_windows(ids, self.prefix_token_id, self.max_length, 1):
                windows.append((None, *make_disjoint_window(window)))
                owner.append(index)
        totals = [0.0] * len(requests)
        for index, (value, _) in zip(owner, self._loglikelihood_tokens(windows), strict=True):
            totals[index] += value
        return totals

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:
        with in_step(self.llm):
            return self._generate_until(requests)

    def _generate_until(self, requests: list[Instance]) -> list[str]:
        found = [""] * len(requests)
        settings = [self._settings(request) for request in requests]
        order = sorted(range(len(requests)), key=lambda i: settings[i])
        for (budget, until), members in groupby(order, key=lambda i: settings[i]):
            chosen = list(members)
            contexts = [requests[i].args[0] for i in chosen]
            room = self.max_length - (0 if self.backend == "seq2seq" else budget)
            ids = [self.tok_encode(context) for context in contexts]
            cuts = [max(0, len(row) - room) for row in ids]
            own = [self._own(context, cut) for context, cut in zip(contexts, cuts, strict=True)]
            prompts = [row[cut:] for row, cut in zip(ids, cuts, strict=True)]
            made = continuations(
                self.llm, self.tokenizer, prompts, budget, self.batch_size, own, self.extra, stop=until
            )
            for i, text in zip(chosen, detokenize(self.llm, self.tokenizer, made), strict=True):
                found[i] = min((text.split(end)[0] for end in until), key=len, default=text)
        return found

    def _settings(self, request: Instance) -> tuple[int, tuple[str, ...]]:
        """Return token budget and stop strings. Raises ConfigError for a task that samples."""
        options = normalize_gen_kwargs(request.args[1], 256)
        if options["do_sample"]:
            raise ConfigError(
                f"general ability: task {request.task_name} samples; only greedy generation is comparable"
            )
        return options["max_gen_toks"], tuple(sorted(end for end in options["until"] if end))

    # ---- ranks -------------------------------------------------------------------------------------------

    def all_gather(self, tensor: Tensor) -> Tensor:
        return torch.stack(distributed.gather(tensor.cpu()))

    def gather_object(self, obj: Any, dst: int = 0) -> list[Any] | None:
        values = distributed.gather(obj)
        return values if self.rank == dst else None

    def barrier(self) -> None:
        distributed.gather(None)
