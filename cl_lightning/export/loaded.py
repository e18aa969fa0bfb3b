"""Generates and scores text with a trained model, with prompts written as in training and without task ids."""

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from cl_lightning.common.errors import ConfigError, StateError
from cl_lightning.common.wording import counted
from cl_lightning.data.base import Example
from cl_lightning.data.chat import DAY
from cl_lightning.data.collate import prompt_batch
from cl_lightning.data.end_tokens import end_tokens
from cl_lightning.data.prompt import Encoded, PromptEncoder
from cl_lightning.data.task_sequence import TaskSequence
from cl_lightning.evaluation.generate import answer_blank, generate
from cl_lightning.evaluation.likelihood import log_likelihoods
from cl_lightning.evaluation.stream import Pieces
from cl_lightning.model.module import ContinualLM
from cl_lightning.model.sharding import is_sharded
from cl_lightning.model.strategies import SHARDED

#: Share of a cut prompt that is taken from its beginning, as in most tasks.
KEEP_HEAD = 0.5


class PromptCutWarning(UserWarning):
    """Prompts were longer than `max_prompt_tokens` and were cut in the middle, as in training."""


@dataclass(frozen=True)
class PromptSettings:
    """Options of `data` that determine how prompts are written."""

    max_prompt_tokens: int
    system_prompt: str | None = None
    date: str = DAY
    template_args: dict[str, Any] | None = field(default_factory=dict)


class LoadedModel:
    """A trained model, as returned by `cl_lightning.load`.

    A prompt is the text of a task's prompt in training: instruction, text and answer cue. The system message and the
    chat template are added as in training. For a task of `UserTasks`, the prompt is its `prompt` with the fields filled
    in; for other benchmarks, it includes what the benchmark writes around a row's text. A prompt of more than
    `max_prompt_tokens` tokens is cut in the middle, as in training, with a `PromptCutWarning`. The instruction and the
    cue of a prompt are unknown here, so equal parts of its beginning and its end are kept.

    Attributes:
        model: the LLM with its adapters, in eval mode. Strategies with gates (GainLoRA, SAPT-LoRA) raise an error if it
            is called without them; use `model.generate(**loaded.inputs(prompts))`.
        module: the LightningModule with the model and its adapter strategy, as in `load_run`.
        tokenizer: the tokenizer, with the date and variables of its chat template as in training.
        tasks: names of the tasks learnt, in order; empty for the base model.
        prompts: how prompts were written in training.
    """

    def __init__(self, module: ContinualLM, prompts: PromptSettings, tasks: Sequence[str]) -> None:
        self.module = module
        self.prompts, self.tasks = prompts, tuple(tasks)
        self._encoder(None, None)  # raises now if the chat template rejects the settings

    @classmethod
    def of(cls, module: ContinualLM, data: TaskSequence) -> Self:
        """Return the model that this process has trained on the tasks of `data`, all of them or the one served.

        Raises:
            StateError: each rank holds a part of the model.
        """
        if is_sharded(module.llm):
            raise StateError(
                f"LoadedModel.of: each rank holds a part of the base (trainer.strategy={SHARDED}); train under ddp, or "
                "with cl_lightning.ContinualTrainer, whose run folder cl_lightning.load reads in another process"
            )
        prompts = PromptSettings(data.max_prompt_tokens, data.system_prompt, data.date, data.template_args)
        return cls(module.eval(), prompts, data.order if module.in_run else [data.order[data.current]])

    @property
    def model(self) -> PreTrainedModel:
        return self.module.llm

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return self.module.tokenizer

    @property
    def description(self) -> str:
        """One line that describes the model: base, strategy, tasks learnt, dtype and device."""
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
        """Generate an answer to each prompt.

        With temperature 0 and a task's own `max_new_tokens`, the answers equal those of the run's scoring. Tasks scored
        by likelihood choose a label instead, see `score`.

        Args:
            prompts: see the class.
            max_new_tokens: length limit of an answer, in tokens.
            batch_size: prompts per batch.
            temperature: 0 for greedy decoding; above 0, tokens are sampled at this temperature with torch's global
                generator (`torch.manual_seed`).
            system_prompt: system message; "" for none. None: as in training.
            max_prompt_tokens: length limit of a prompt, in tokens. None: as in training.

        Returns:
            the answers, in the order of the prompts.

        Raises:
            ConfigError: `prompts` is not a list of texts, a prompt does not fit into the model's context, or the chat
                template does not support the system prompt.
        """
        self._check_sizes(max_new_tokens=max_new_tokens, batch_size=batch_size)
        if not temperature >= 0:
            raise ConfigError(f"temperature: {temperature} must be 0 or more")
        rows = self._encoded(prompts, system_prompt, max_prompt_tokens, max_new_tokens)
        ids, own = [row.prompt_ids for row in rows], [row.own for row in rows]
        rows_at_once = self.module.most_prompts(batch_size)
        return generate(
            self.model, self.tokenizer, ids, max_new_tokens, rows_at_once, own, self._extra, temperature=temperature
        )

    def check(
        self,
        prompts: Sequence[str],
        max_new_tokens: int = 256,
        max_prompt_tokens: int | None = None,
        names: Sequence[str] | None = None,
    ) -> None:
        """Check prompts without answering them: raise and warn as `generate` does.

        Args:
            prompts, max_new_tokens, max_prompt_tokens: as in `generate`.
            names: what errors call the prompts; None: "prompts[0]", "prompts[1]", ..
        """
        self._check_sizes(max_new_tokens=max_new_tokens)
        self._encoded(prompts, None, max_prompt_tokens, max_new_tokens, names)

    def stream(
        self,
        prompt: str,
        give: Callable[[str], None],
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        system_prompt: str | None = None,
        max_prompt_tokens: int | None = None,
    ) -> str:
        """Generate the answer to one prompt, and pass its text to `give` word by word. Returns the whole answer.

        Other arguments and errors are those of `generate`.
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
        """Compute log p(answer and end token | prompt) of each pair, in nats, summed over tokens.

        `data.score_by=likelihood` chooses the answer with the highest value.

        Args:
            prompts, batch_size, system_prompt, max_prompt_tokens: as in `generate`.
            answers: one for each prompt, written as in training.

        Raises:
            ConfigError: see `generate`; or the numbers of answers and prompts differ.
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
        """Encode a batch of prompts as arguments of `model` and `model.generate`, on the model's device.

        Returns:
            input_ids and attention_mask (B, L), left-padded for decoders; for gated models also gates (B, T), the
            weight of each task's branch for each prompt.

        Raises:
            ConfigError: see `generate`; or several prompts for a model that generates one answer at a time.
        """
        rows = self._encoded(prompts, system_prompt, max_prompt_tokens, 0)
        if len(rows) > self.module.most_prompts(len(rows)):
            raise ConfigError(f"prompts: {len(rows)} in a batch, which this model answers wrongly; give one at a time")
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
        self,
        prompts: Sequence[str],
        system_prompt: str | None,
        max_prompt_tokens: int | None,
        room: int,
        names: Sequence[str] | None = None,
    ) -> list[Encoded]:
        """Encode the prompts. Raises ConfigError unless the model's context has room for `room` more tokens."""
        encoder = self._encoder(system_prompt, max_prompt_tokens)
        rows = []
        for index, text in enumerate(_texts(prompts, "prompts")):
            example = Example(names[index] if names else f"prompts[{index}]", text, "")
            ids, cut, own = encoder.prompt(example, KEEP_HEAD)
            if not ids:
                raise ConfigError(
                    f"{example.id}: is empty, and the model has no chat template to add to it; leave it out"
                )
            context = self.module.context
            if context is not None and self.module.positions(len(ids), room) > context:
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
    """Return `given` as a list. Raises ConfigError if it is one text, or holds anything but text."""
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
