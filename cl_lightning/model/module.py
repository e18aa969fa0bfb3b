"""ContinualLM: the LightningModule that wraps a frozen LLM and a pluggable adapter strategy.

Loss of an optimiser step: summed negative log-likelihood of its answer tokens divided by their number, over
all ranks and micro-batches (not a mean of means), plus the strategy's penalties once.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from transformers import PreTrainedTokenizerBase

from cl_lightning.adapters.base import AdapterStrategy
from cl_lightning.adapters.layer_names import sees_decoder
from cl_lightning.adapters.seqlora import SeqLoRA
from cl_lightning.common.errors import ConfigError, TrainingError
from cl_lightning.data.collate import IGNORE
from cl_lightning.gradients.accumulate import Exact
from cl_lightning.gradients.capture import TakeProduct, dropout_off, watch_products
from cl_lightning.gradients.input_moments import InputMoments
from cl_lightning.model.backbone import Backbone
from cl_lightning.model.optimizer import SCHEDULES, eps_before_correction
from cl_lightning.model.prefix_cache import common_columns, has_plain_cache, hidden_states


@dataclass(frozen=True)
class Step:
    """One micro-batch of training, as terms of the loss see it.

    Attributes:
        module: the model.
        batch: from `data.collate.training_batch`.
        logits: of the next tokens at all labelled positions, (N, V), with gradients.
        weight: what a sum over labelled tokens is multiplied by, so that over ranks and micro-batches it becomes the
            step's token mean.
    """

    module: "ContinualLM"
    batch: dict[str, Any]
    logits: Tensor
    weight: float | Tensor


#: Adds to the loss, by name. A term that is no sum over tokens counts once per step as it is, on every micro-batch.
LossTerms = Callable[[Step], dict[str, Tensor]]


class ContinualLM(LightningModule):
    """A frozen LLM with a trainable adapter.

    Args:
        backbone: which LLM, in which precision.
        adapter: the strategy.
        lr: peak learning rate of AdamW.
        weight_decay: decoupled, on the adapter.
        betas: AdamW's.
        schedule: after the warm-up, down to 0 at the task's last step ("constant": not).
        warmup: share of the task's steps with rising learning rate, 0..1.
        adam: "torch"; or "transformers4": eps is added before the bias correction, as in the optimizer that published
            codes had from transformers 4 (for comparison only).
    """

    def __init__(
        self,
        backbone: Backbone = Backbone(),  # noqa: B008
        adapter: AdapterStrategy = SeqLoRA(),  # noqa: B008
        lr: float = 1e-4,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.999),
        schedule: Literal["linear", "cosine", "constant"] = "linear",
        warmup: float = 0.01,
        adam: Literal["torch", "transformers4"] = "torch",
    ) -> None:
        super().__init__()
        if not lr > 0:
            raise ConfigError(f"model.lr: {lr} must be positive")
        if not 0.0 <= warmup <= 1.0:
            raise ConfigError(f"model.warmup: {warmup} is a share of the steps, 0..1")
        self.backbone, self.adapter = backbone, adapter
        self.lr, self.weight_decay, self.betas = lr, weight_decay, betas
        self.schedule, self.warmup, self.adam = schedule, warmup, adam
        self.task_name = ""
        #: Of the task callbacks; set by the run.
        self.loss_terms: list[LossTerms] = []

    # ---- the model ---------------------------------------------------------------------------------------

    def load(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Load the base, hash it, adapt it. Called once per process, before the first task."""
        self.llm = self.backbone.load(len(tokenizer))
        self.base_hash = self.backbone.fingerprint(self.llm)
        head = self.llm.get_output_embeddings()
        self.adapter.attach(self.llm, head)
        self._label_only = self._head_is_plain()
        self._check_causal()
        self._plain_cache = has_plain_cache(self.llm)
        self.tokenizer = tokenizer

    @property
    def encoder_decoder(self) -> bool:
        return bool(self.llm.config.is_encoder_decoder)

    @property
    def context(self) -> int | None:
        """How many positions the model has; None where it names no limit (T5's are relative)."""
        return None if self.encoder_decoder else getattr(self.llm.config, "max_position_embeddings", None)

    @torch.no_grad()
    def _head_is_plain(self) -> bool:
        """Whether logits are the output head of the last hidden state (no soft cap, scale or factor)."""
        if self.encoder_decoder:
            return False
        ids = torch.arange(1, 9, device=self.llm.device).reshape(2, 4)
        training = self.llm.training
        self.llm.eval()
        hidden = self.llm.base_model(input_ids=ids, use_cache=False).last_hidden_state
        same = torch.equal(self.llm.get_output_embeddings()(hidden), self.llm(input_ids=ids, use_cache=False).logits)
        self.llm.train(training)
        return same

    @torch.no_grad()
    def _check_causal(self) -> None:
        """Refuse a model whose predictions change with later tokens (BERT's kind): it sees what it is to predict.

        Raises:
            ConfigError: it is such a model.
        """
        if self.encoder_decoder:
            return
        one = torch.arange(1, 5, device=self.llm.device)[None]
        other = one.clone()
        other[0, -1] = 5
        training = self.llm.training
        self.llm.eval()
        first, second = (self.llm(input_ids=ids, use_cache=False).logits[0, 0] for ids in (one, other))
        self.llm.train(training)
        rounding = 8 * torch.finfo(first.dtype).eps * first.double().norm()
        if (first.double() - second.double()).norm() > rounding:
            raise ConfigError(
                f"model.backbone.name: {self.backbone.name} predicts a token from those that follow it, so it is no "
                "causal language model; choose a decoder or an encoder-decoder"
            )

    def cpu(self) -> "ContinualLM":
        """Stay on the device: Lightning parks the module on the CPU after every fit, and the next task is near."""
        return self

    def answer_logits(self, batch: dict[str, Any], share_prefix: bool = True) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (N, V) at the N labelled positions, float32 or wider; their labels and samples, (N,) each.

        batch: from `data.collate.training_batch`. The output head runs only where there is a label.
        """
        extra = self.adapter.forward_kwargs(batch)
        labels, mask = batch["labels"], batch["attention_mask"]
        inputs = {"input_ids": batch["input_ids"], "attention_mask": mask, **extra}
        if self.encoder_decoder:
            logits = self.llm(**inputs, labels=labels, use_cache=False).logits
            wanted = labels != IGNORE
            picked = logits[wanted]
        else:
            # The token at position i is predicted at i - 1.
            labels = labels[:, 1:]
            wanted = labels != IGNORE
            if self._label_only:
                shared = self._shared_columns(batch) if share_prefix and not extra else 0
                if shared:
                    hidden = hidden_states(self.llm, shared, batch["input_ids"], mask)
                else:
                    hidden = self.llm.base_model(**inputs, use_cache=False).last_hidden_state
                picked = self.llm.get_output_embeddings()(hidden[:, :-1][wanted[:, shared:]])
            else:
                picked = self.llm(**inputs, use_cache=False).logits[:, :-1][wanted]
        return picked.to(torch.promote_types(torch.float32, picked.dtype)), labels[wanted], wanted.nonzero()[:, 0]

    def sample_nll(self, batch: dict[str, Any], share_prefix: bool = True) -> Tensor:
        """Summed negative log-likelihood of each sample's labelled tokens, in nats: (B,), float32 or wider."""
        logits, labels, sample = self.answer_logits(batch, share_prefix)
        nll = nn.functional.cross_entropy(logits, labels, reduction="none")
        return torch.zeros(len(batch["labels"]), dtype=nll.dtype, device=nll.device).index_add(0, sample, nll)

    def _shared_columns(self, batch: dict[str, Any]) -> int:
        """Leading columns that all samples share and that can run once, in a forward pass of their own.

        On CPUs only: there arithmetic is what costs, on a GPU it may be the second pass's launches.
        """
        dropout = self.adapter.dropout and self.llm.training
        plain = self._plain_cache and not self.llm.is_activation_checkpointing and not dropout
        return common_columns(batch["input_ids"], batch["labels"]) if plain and self.llm.device.type == "cpu" else 0

    # ---- training ----------------------------------------------------------------------------------------

    def step_weight(self, batch: dict[str, Any], world_size: int, accumulate: int) -> float | Tensor:
        """What this micro-batch's sum over its labelled tokens is multiplied by.

        DDP averages gradients over ranks and Lightning over micro-batches; the factor undoes both, so that
        their sum is exactly the sum over all tokens / step_tokens whatever the lengths are.
        """
        return batch["weight"] * world_size * accumulate / batch["step_tokens"]

    def on_train_start(self) -> None:
        """Train mode: a loaded model is in eval mode, and the Trainer leaves modes as they are."""
        self.train()

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        weight = self.step_weight(batch, self.trainer.world_size, self.trainer.accumulate_grad_batches)
        logits, labels, _ = self.answer_logits(batch)
        loss = nn.functional.cross_entropy(logits, labels, reduction="sum") * weight
        with torch.autocast(self.llm.device.type, enabled=False):
            terms = self.adapter.penalties()
            for more in self.loss_terms:
                terms |= more(Step(self, batch, logits, weight))
        for name, term in terms.items():
            self.log(f"train/{name}", term)
            loss = loss + term
        return loss

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        tokens = (batch["labels"] != IGNORE).sum()
        self.log("val/loss", self.sample_nll(batch).sum() / tokens, batch_size=int(tokens), sync_dist=True)

    def configure_optimizers(self) -> dict[str, Any]:
        # Lightning refuses to clip a fused optimiser under mixed precision.
        fused = "mixed" not in str(self.trainer.precision)
        optimizer = AdamW(
            self.adapter.param_groups(), lr=self.lr, betas=self.betas, weight_decay=self.weight_decay, fused=fused
        )
        if self.adam == "transformers4":
            optimizer.register_step_pre_hook(eps_before_correction)
        total = int(self.trainer.estimated_stepping_batches)
        warmup = math.ceil(self.warmup * total)
        decay = SCHEDULES[self.schedule]

        def factor(step: int) -> float:
            return (step + 1) / (warmup + 1) if step < warmup else decay((step - warmup) / max(1, total - warmup))

        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": LambdaLR(optimizer, factor), "interval": "step"}}

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip, and stop at a non-finite gradient: after DDP's reduction, so on all ranks at once."""
        norms = [p.grad.norm() for g in optimizer.param_groups for p in g["params"] if p.grad is not None]
        if not torch.isfinite(torch.stack(norms).sum()):
            raise TrainingError(
                f"non-finite loss or gradient in task {self.task_name} at step {self.trainer.global_step + 1}; "
                "finished tasks are kept. Lower model.lr, or look at the task's data"
            )
        self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    # ---- boundary work -----------------------------------------------------------------------------------

    def products(
        self,
        batches: Iterable[dict[str, Any]],
        take: TakeProduct,
        after_batch: Callable[[], None],
        gated: bool = False,
        with_new: bool = False,
    ) -> None:
        """Hand dy and x of every adapted layer to `take`, batch by batch: earlier branches in, the new one as told.

        Loss = sum over samples of batch["sample_weight"] * NLL, so weights of 1 / (answer tokens) give the token
        mean; dLoss/dW is then the sum of dy^T x. See `gradients.capture.watch_products`. `gated`: each sample also
        weighs as much as the new branch will speak for it, so that G is the gradient of that branch's product.
        """
        with self._as_it_was(with_new), torch.enable_grad():
            self.llm.train()
            with watch_products(self.adapter.layers, self.llm, take):
                for batch in batches:
                    # In one pass: what a batch adds must have the same bits on any rank, see `add_outer_`.
                    nll = self.sample_nll(batch, share_prefix=False) * batch["sample_weight"]
                    if gated:
                        nll = nll * self.adapter.speaks_for(batch).to(nll)
                    nll.sum().backward()
                    after_batch()

    def gradients(self, batches: Iterable[dict[str, Any]]) -> dict[str, Tensor]:
        """dLoss/dW of every adapted layer, formed: name -> (m, n), float32 or wider; not yet reduced over ranks."""
        layers = self.adapter.layers
        dtype = torch.promote_types(torch.float32, self.llm.dtype)
        totals = {n: Exact(layer.shape, dtype, layer.weight.device) for n, layer in layers.items()}
        self.products(batches, lambda name, dy, x: totals[name].add(dy, x), lambda: None)
        return {name: total.total for name, total in totals.items()}

    def input_moments(
        self, batches: Iterable[dict[str, Any]], with_new: bool = False, with_padding: bool = False
    ) -> InputMoments:
        """Sums of x x^T of every adapted layer's inputs: earlier branches in, the new one and padding as told."""
        moments = InputMoments()
        current: dict[str, Any] = {}

        def wanted(name: str) -> Tensor:
            mask = self.token_mask(name, current)
            return torch.ones_like(mask) if with_padding else mask

        with self._as_it_was(with_new), torch.no_grad(), moments.watch(self.adapter.layers, wanted):
            for batch in batches:
                current.update(batch)
                self.sample_nll(batch, share_prefix=False)
        return moments

    def token_mask(self, name: str, batch: dict[str, Any]) -> Tensor:
        """Which positions of adapted layer `name`'s input are tokens and not padding: (B, L), 1 and 0."""
        decoder = self.encoder_decoder and sees_decoder(name)
        return batch["labels"] != IGNORE if decoder else batch["attention_mask"]

    @contextmanager
    def _as_it_was(self, with_new: bool = False) -> Iterator[None]:
        """Dropout off, the new branch out unless wanted; train mode comes back as it was."""
        training = self.llm.training
        with dropout_off(self.llm), nullcontext() if with_new else self.adapter.without_new_branch():
            yield
        self.llm.train(training)
