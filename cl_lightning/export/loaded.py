"""A trained model in a script's hands: text in, text out, prompts written as in training, no task id."""

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from cl_lightning.common.errors import ConfigError
from cl_lightning.common.wording import counted
from cl_lightning.data.base import Example
from cl_lightning.data.chat import DAY
from cl_lightning.data.collate import prompt_batch
from cl_lightning.data.end_tokens import end_tokens
from cl_lightning.data.prompt import Encoded, PromptEncoder
from cl_lightning.evaluation.generate import answer_blank, generate
from cl_lightning.evaluation.likelihood import log_likelihoods
from cl_lightning.evaluation.stream import Pieces
from cl_lightning.model.module import ContinualLM

#: Where a long prompt is cut: what stays is by this share of its beginning, as in most tasks.
KEEP_HEAD = 0.5


class PromptCutWarning(UserWarning):
    """Prompts lost their middle, as long ones did in training."""


@dataclass(frozen=True)
class PromptSettings:
    """How prompts were written in training: the options of `data` of these names."""

    max_prompt_tokens: int
    system_prompt: str | None = None
    date: str = DAY
    template_args: dict[str, Any] | None = field(default_factory=dict)


class LoadedModel:
    """A trained model, as `cl_lightning.load` gives it.

    A prompt is what a task's prompt was in training, instruction, text and answer cue, without chat template and system
    message, which are put around it here as they were there. For a task of `UserTasks` it is its `prompt` with the
    fields filled in, for others all that the benchmark writes around a row's text. A prompt of more than training's
    `max_prompt_tokens` loses its middle, as there, with a `PromptCutWarning`. Where its instruction ends and its cue
    begins is not known here, so that half of what stays is of its beginning and half of its end.

    Attributes:
        model: the LLM with its adapters in place, in eval mode. Where gates weigh the branches by the prompt (GainLoRA,
            SAPT-LoRA), a call without gates is refused: `model.generate(**loaded.inputs(prompts))` has them.
        module: what holds the model and its adapter strategy, as in `load_run`.
        tokenizer: with date and variables of its chat template as in training.
        tasks: what it has learnt, in order; none: it is the base.
        prompts: how prompts were written in training.
    """

    def __init__(self, module: ContinualLM, prompts: PromptSettings, tasks: Sequence[str]) -> None:
        self.module = module
        self.prompts, self.tasks = prompts, tuple(tasks)
        self._encoder(None, None)  # a template that cannot be given these is told now

    @property
    def model(self) -> PreTrainedModel:
        return self.module.llm

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return self.module.tokenizer

    @property
    def told(self) -> str:
        """Which model this is, for people."""
        last, count = self.tasks[-1] if self.tasks else "", len(self.tasks)
        learnt = f"after {last} ({counted(count, 'task')} learnt)" if last else "before any task"
        strategy, dtype = type(self.module.adapter).__name__, str(self.model.dtype).removeprefix("torch.")
        return f"{self.module.backbone.name} with {strategy} {learnt}, in {dtype} on {self.model.device}"

    def generate(
        self,
        prompts: Sequence[str],
        max_new_tokens: int = 256,
        batch_size: int = 16,
        temperature: float = 0.0,
        system_prompt: str | None = None,
        max_prompt_tokens: int | None = None,
    ) -> list[str]:
        """Answers to prompts, in their order.

        Greedy answers within a task's own budget are what the run's scoring generates for the same prompts. (Tasks that
        are scored by likelihood choose a label: see `score`.)

        Args:
            prompts: see the class.
            max_new_tokens: longest answer, tokens.
            batch_size: prompts that run at once.
            temperature: 0 takes the most likely token each time; above 0, tokens are drawn with it, by torch's global
                generator (`torch.manual_seed`).
            system_prompt: instead of training's; "" for none. None: as in training.
            max_prompt_tokens: instead of training's. None: as in training.

        Raises:
            ConfigError: no list of texts, a prompt that leaves no room in the model's context, or a system prompt that
                the chat template does not take.
        """
        self._check_sizes(max_new_tokens=max_new_tokens, batch_size=batch_size)
        if not temperature >= 0:
            raise ConfigError(f"temperature: {temperature} must be 0 or more")
        rows = self._encoded(prompts, system_prompt, max_prompt_tokens, max_new_tokens)
        ids, own = [row.prompt_ids for row in rows], [row.own for row in rows]
        return generate(
            self.model, self.tokenizer, ids, max_new_tokens, batch_size, own, self._extra, temperature=temperature
        )

    def stream(
        self,
        prompt: str,
        give: Callable[[str], None],
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        system_prompt: str | None = None,
        max_prompt_tokens: int | None = None,
    ) -> str:
        """The answer to one prompt, whose text is also given to `give` piece by piece, as soon as whole words stand.

        Arguments and errors are those of `generate`.
        """
        self._check_sizes(max_new_tokens=max_new_tokens)
        (row,) = self._encoded([prompt], system_prompt, max_prompt_tokens, max_new_tokens)
        pieces = Pieces(self.tokenizer, give, end_tokens(self.model, self.tokenizer), answer_blank(self.tokenizer))
        return generate(
            self.model,
            self.tokenizer,
            [row.prompt_ids],
            max_new_tokens,
            1,
            [row.own],
            self._extra,
            temperature=temperature,
            streamer=pieces,
        )[0]

    def score(
        self,
        prompts: Sequence[str],
        answers: Sequence[str],
        batch_size: int = 16,
        system_prompt: str | None = None,
        max_prompt_tokens: int | None = None,
    ) -> list[float]:
        """log p(answer and end token | prompt) of each pair, in nats: summed over the answer's tokens and the end
        token, which training appended. Of several answers to a prompt, the highest is what `data.score_by=likelihood`
        takes.

        Args:
            prompts, batch_size, system_prompt, max_prompt_tokens: as in `generate`.
            answers: one for each prompt, as training's answers are written.

        Raises:
            ConfigError: as `generate`, or not as many answers as prompts.
        """
        self._check_sizes(batch_size=batch_size)
        encoder = self._encoder(system_prompt, max_prompt_tokens)
        ends = [encoder.answer(text) for text in _texts(answers, "answers")]
        prompts = _texts(prompts, "prompts")
        if len(ends) != len(prompts):
            raise ConfigError(f"answers: {len(ends)} for {len(prompts)} prompts; give one for each")
        rows = self._encoded(prompts, system_prompt, max_prompt_tokens, max(map(len, ends), default=0))
        pairs = [replace(row, answer_ids=end) for row, end in zip(rows, ends, strict=True)]
        found = log_likelihoods(self.model, self.module.answer_logits, self.tokenizer.pad_token_id, pairs, batch_size)
        return [value for value, _ in found]

    @torch.no_grad()
    def inputs(
        self, prompts: Sequence[str], system_prompt: str | None = None, max_prompt_tokens: int | None = None
    ) -> dict[str, Tensor]:
        """Arguments of `model` and of `model.generate` for a batch of prompts, on the model's device.

        Returns:
            input_ids and attention_mask (B, L), left-padded for decoders; for gated models also gates (B, T), how much
            each task's branch speaks for each prompt.

        Raises:
            ConfigError: as `generate`.
        """
        rows = self._encoded(prompts, system_prompt, max_prompt_tokens, 0)
        ids, own = [row.prompt_ids for row in rows], [row.own for row in rows]
        left = not self.module.encoder_decoder
        padded = prompt_batch(ids, self.tokenizer.pad_token_id, left, own)
        batch = {name: tensor.to(self.model.device) for name, tensor in padded.items()}
        extra = {} if self._extra is None else self._extra(batch)
        batch.pop("own_mask")
        return {**batch, **extra}

    @property
    def _extra(self) -> Callable[[dict[str, Tensor]], dict[str, Tensor]] | None:
        adapter = self.module.adapter
        return adapter.forward_kwargs if adapter.per_sample else None

    def _encoder(self, system_prompt: str | None, max_prompt_tokens: int | None) -> PromptEncoder:
        ours = self.prompts
        if system_prompt and not self.tokenizer.chat_template:
            raise ConfigError("system_prompt: the model has no chat template to give it to; write it into the prompts")
        budget = ours.max_prompt_tokens if max_prompt_tokens is None else max_prompt_tokens
        self._check_sizes(max_prompt_tokens=budget)
        system = ours.system_prompt if system_prompt is None else system_prompt
        return PromptEncoder(self.tokenizer, budget, system, ours.date, ours.template_args)

    def _encoded(
        self, prompts: Sequence[str], system_prompt: str | None, max_prompt_tokens: int | None, room: int
    ) -> list[Encoded]:
        """Prompts as token ids, after which the model has room for so many more."""
        encoder = self._encoder(system_prompt, max_prompt_tokens)
        rows = []
        for index, text in enumerate(_texts(prompts, "prompts")):
            example = Example(f"prompts[{index}]", text, "")
            ids, cut, own = encoder.prompt(example, KEEP_HEAD)
            if not ids:
                raise ConfigError(
                    f"{example.id}: is empty, and the model has no chat template to add to it; leave it out"
                )
            context = self.module.context
            if context is not None and len(ids) + room > context:
                raise ConfigError(
                    f"{example.id}: {len(ids)} tokens and {room} for the answer exceed the model's context of "
                    f"{context}; lower max_new_tokens or max_prompt_tokens"
                )
            rows.append(Encoded(example, tuple(ids), (), cut, own))
        if count := sum(row.cut > 0 for row in rows):
            warnings.warn(
                f"{count} of {counted(len(rows), 'prompt')} exceeded {encoder.max_prompt_tokens} tokens and lost the "
                "middle; raise max_prompt_tokens to keep more",
                PromptCutWarning,
                stacklevel=3,
            )
        return rows

    @staticmethod
    def _check_sizes(**sizes: int) -> None:
        for name, size in sizes.items():
            if size < 1:
                raise ConfigError(f"{name}: {size} must be 1 or more")


def _texts(given: Iterable[str], what: str) -> list[str]:
    """`given`, if it is texts and not one text. Raises ConfigError."""
    if isinstance(given, str):
        raise ConfigError(f"{what}: expected a list of texts, got one text")
    made = list(given)
    for index, text in enumerate(made):
        if not isinstance(text, str):
            raise ConfigError(f"{what}[{index}]: expected text, got {type(text).__name__}")
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ConfigError(f"{what}[{index}]: {text!r} is not valid UTF-8") from None
    return made
