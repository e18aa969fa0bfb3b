"""ContinualLM: the LightningModule that wraps a frozen LLM and a pluggable adapter strategy.

The loss of an optimiser step is the summed negative log-likelihood of its answer tokens divided by their number, over
all ranks and micro-batches (not a mean of means), plus the strategy's penalties once.
"""

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from transformers import PreTrainedTokenizerBase

from cl_lightning.adapters.base import AdapterStrategy
from cl_lightning.adapters.bypassed import check_gradients
from cl_lightning.adapters.layer_names import sees_decoder
from cl_lightning.adapters.linear import BRANCH
from cl_lightning.adapters.seqlora import USUAL
from cl_lightning.common import distributed
from cl_lightning.common.described import Described
from cl_lightning.common.errors import ConfigError, StateError, TrainingError, first_three
from cl_lightning.common.expected import expect
from cl_lightning.common.numbers import Finite, Momentum, NonNegative
from cl_lightning.common.seeding import generator
from cl_lightning.data.collate import IGNORE
from cl_lightning.data.end_tokens import trained_end
from cl_lightning.gradients.accumulate import Exact
from cl_lightning.gradients.capture import dropout_off
from cl_lightning.gradients.gradient_pass import GradientPass
from cl_lightning.gradients.input_moments import InputMoments
from cl_lightning.model.backbone import Backbone
from cl_lightning.model.in_batches import generates_in_batches
from cl_lightning.model.optimizer import eps_before_correction, rate
from cl_lightning.model.plain_trainer import check_sampler, suitable_data
from cl_lightning.model.prefix_cache import common_columns, has_plain_cache, hidden_states
from cl_lightning.model.shapes import head_adds_nothing, reads_mask
from cl_lightning.model.sharding import check_sharding, is_sharded, place
from cl_lightning.model.try_out import check_causal, head_is_plain


@dataclass(frozen=True)
class Step:
    """One micro-batch of training, the input of loss terms.

    Attributes:
        module: the model.
        batch: from `data.collate.training_batch`.
        logits: of the next tokens at all labelled positions, (N, V), with gradients.
        weight: factor of a sum over labelled tokens that makes it, over ranks and micro-batches, the step's token
            mean.
    """

    module: "ContinualLM"
    batch: dict[str, Any]
    logits: Tensor
    weight: float | Tensor


#: Returns terms that are added to the loss, by name. A term that is not a sum over tokens is returned unscaled on every
#: micro-batch and counts once per step.
LossTerms = Callable[[Step], dict[str, Tensor]]


class ContinualLM(Described, LightningModule):
    """A frozen LLM with a trainable adapter.

    Args:
        backbone: the LLM, its source and precision.
        adapter: the strategy.
        lr: peak learning rate of AdamW.
        weight_decay: decoupled weight decay of the adapter.
        betas: of AdamW.
        schedule: decay after the warm-up, to 0 at the task's last step ("constant": none).
        warmup: share of the task's steps with rising learning rate, 0..1.
        adam: "torch", or "transformers4", which adds eps before the bias correction like the AdamW of transformers 4
            that published codes use (for comparison only).
    """

    def __init__(
        self,
        backbone: Backbone = Backbone(),  # noqa: B008
        adapter: AdapterStrategy = USUAL,
        lr: Finite = 1e-4,
        weight_decay: NonNegative = 0.0,
        betas: tuple[Momentum, Momentum] = (0.9, 0.999),
        schedule: Literal["linear", "cosine", "constant"] = "linear",
        warmup: Finite = 0.01,
        adam: Literal["torch", "transformers4"] = "torch",
    ) -> None:
        super().__init__()
        self.strict_loading = False  # checkpoints hold what is trained, see `training_tensors`
        expect("model.backbone", backbone, Backbone, "Backbone('NAME or FOLDER')")
        expect("model.adapter", adapter, AdapterStrategy, "a strategy, such as SeqLoRA(rank=8)")
        if not lr > 0:
            raise ConfigError(f"model.lr: {lr} must be positive")
        if not 0.0 <= warmup <= 1.0:
            raise ConfigError(f"model.warmup: {warmup} must be a share of the steps, 0..1")
        self.backbone, self.adapter = backbone, copy.deepcopy(adapter) if adapter is USUAL else adapter
        self.lr, self.weight_decay, self.betas = lr, weight_decay, betas
        self.schedule, self.warmup, self.adam = schedule, warmup, adam
        self.task_name = ""
        #: Whether a run loads the model and begins its tasks; a Trainer of the user's own leaves that to `setup`.
        self.in_run = False
        self._begun: int | None = None
        #: Loss terms of the task callbacks, set by the run.
        self.loss_terms: list[LossTerms] = []
        #: Micro-batches of the current step.
        self._step: list[dict[str, Any]] = []

    # ---- the model ---------------------------------------------------------------------------------------

    def load(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Load the base, hash it and attach the adapter. Called once per process, before the first task."""
        self.llm = self.backbone.load(len(tokenizer))
        if tokenizer.pad_token_id >= self.vocabulary:  # added beside a model whose embedding never grew
            tokenizer.pad_token = tokenizer.convert_ids_to_tokens(trained_end(tokenizer))
        self.base_hash = self.backbone.fingerprint(self.llm)
        head = self.llm.get_output_embeddings()
        self.adapter.attach(self.llm, head)
        self._label_only = head_is_plain(self.llm)
        check_causal(self.backbone.name, self.llm)
        self._in_batches = generates_in_batches(self.backbone.name, self.llm, tokenizer.pad_token_id)
        self._plain_cache = has_plain_cache(self.llm)
        self.tokenizer = tokenizer

    def load_shapes(self, vocabulary: int, held: torch.dtype) -> None:
        """Make the model and its adapter without weights; inside `model.shapes.without_data`. See `Backbone.shapes`.

        No prefix is shared, since that depends on the texts.
        """
        self.llm = self.backbone.shapes(vocabulary, held)
        self._label_only, self._plain_cache = head_adds_nothing(self.llm), False
        self._in_batches = reads_mask(self.llm)
        self.adapter.attach(self.llm, self.llm.get_output_embeddings())

    @property
    def encoder_decoder(self) -> bool:
        return bool(self.llm.config.is_encoder_decoder)

    @property
    def vocabulary(self) -> int:
        """Number of tokens that the model has an embedding for; a tokenizer may have more or fewer."""
        return self.llm.get_input_embeddings().num_embeddings

    @property
    def context(self) -> int | None:
        """Number of positions of the model, of encoder and decoder each; None without a limit (T5's are relative)."""
        return getattr(self.llm.config.get_text_config(), "max_position_embeddings", None)

    def most_prompts(self, batch_size: int) -> int:
        """Return how many prompts are answered in one batch: `batch_size`, or 1 if the model takes no padding."""
        return batch_size if self._in_batches else 1

    def positions(self, prompt: int, answer: int) -> int:
        """Return how many positions a prompt and an answer of these numbers of tokens need."""
        return max(prompt, answer) if self.encoder_decoder else prompt + answer

    def cpu(self) -> "ContinualLM":
        """Stay on the device: Lightning moves the module to the CPU after every fit, which is slow."""
        return self

    def answer_logits(self, batch: dict[str, Any], share_prefix: bool = True) -> tuple[Tensor, Tensor, Tensor]:
        """Compute logits (N, V) at the N labelled positions, float32 or wider, their labels and samples, (N,) each.

        `batch` is from `data.collate.training_batch`. The output head runs at labelled positions only.
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
        """Compute each sample's summed negative log-likelihood of its labels, in nats: (B,), float32 or wider."""
        logits, labels, sample = self.answer_logits(batch, share_prefix)
        nll = nn.functional.cross_entropy(logits, labels, reduction="none")
        return torch.zeros(len(batch["labels"]), dtype=nll.dtype, device=nll.device).index_add(0, sample, nll)

    def _shared_columns(self, batch: dict[str, Any]) -> int:
        """Count the leading columns that all samples share and that can run once, in a separate forward pass.

        On CPUs only, where arithmetic dominates; on a GPU the launches of a second pass may cost more.
        """
        dropout = self.adapter.dropout and self.llm.training
        # Of a sharded base all ranks must run the same passes.
        plain = self._plain_cache and not (self.llm.is_activation_checkpointing or dropout or is_sharded(self.llm))
        return common_columns(batch["input_ids"], batch["labels"]) if plain and self.llm.device.type == "cpu" else 0

    # ---- training ----------------------------------------------------------------------------------------

    def step_weight(self, batch: dict[str, Any], world_size: int, accumulate: int) -> float | Tensor:
        """Return the factor of this micro-batch's sum over its labelled tokens.

        DDP averages gradients over ranks and Lightning over micro-batches; the factor undoes both, so that the total
        is exactly the sum over all tokens / step_tokens, whatever the lengths.
        """
        return batch["weight"] * world_size * accumulate / batch["step_tokens"]

    def setup(self, stage: str) -> None:
        """Outside of a run: load the model, prepare the data, and begin the one task that the Trainer trains."""
        if self.in_run:
            return
        data = suitable_data(self.trainer, self.backbone, self.adapter, self._begun)
        if not hasattr(self, "llm"):
            self.load(self.backbone.load_tokenizer())
        if not data.tasks:
            data.prepare(self.tokenizer, self.encoder_decoder)
        if self._begun is None:
            check_sharding(self, self.trainer.strategy)
            place(self, self.trainer.strategy)
            self.adapter.begin_task(0, generator(data.seed, "adapter", 0))
            self._begun, self.task_name = data.current, data.order[data.current]

    def configure_model(self) -> None:
        """Do nothing: Lightning asks for this hook under a strategy that shards, but `place` has been called before."""

    def training_tensors(self) -> dict[str, Tensor]:
        """Return what a checkpoint holds of the model: the trained parameters and the frozen ones of their branch."""
        return {
            name: parameter.detach()
            for name, parameter in self.named_parameters()
            if parameter.requires_grad or name.rpartition(".")[2] in BRANCH
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave the frozen LLM and earlier branches out of a checkpoint."""
        checkpoint["state_dict"] = self.training_tensors()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that a checkpoint holds this branch. Raises StateError."""
        wanted, found = self.training_tensors(), checkpoint["state_dict"]
        if {n: t.shape for n, t in wanted.items()} != {n: t.shape for n, t in found.items()}:
            raise StateError(
                f"the checkpoint holds another branch than the one of task {self.task_name}; start over with FRESH=1"
            )

    def on_train_start(self) -> None:
        """Set train mode: a loaded model is in eval mode, which the Trainer keeps."""
        self.train()
        check_sampler(self.trainer)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        self._step.append(batch)
        weight = self.step_weight(batch, self.trainer.world_size, self.trainer.accumulate_grad_batches)
        loss, terms = self.loss(batch, weight)
        for name, term in terms.items():
            self.log(f"train/{name}", term)
        if not self.in_run:  # which logs it over ranks and micro-batches
            labelled = int((batch["labels"][:, 0 if self.encoder_decoder else 1 :] != IGNORE).sum())
            self.log("train/loss", loss.detach(), prog_bar=True, batch_size=labelled)
        return loss

    def loss(self, batch: dict[str, Any], weight: float | Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute a micro-batch's loss, and the terms in it beside the likelihood; `weight`: see `Step`."""
        logits, labels, _ = self.answer_logits(batch)
        loss = nn.functional.cross_entropy(logits, labels, reduction="sum") * weight
        with torch.autocast(self.llm.device.type, enabled=False):
            terms = self.adapter.penalties()
            for more in self.loss_terms:
                terms |= more(Step(self, batch, logits, weight))
        for term in terms.values():
            loss = loss + term
        return loss, terms

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        tokens = (batch["labels"] != IGNORE).sum()
        self.log("val/loss", self.sample_nll(batch).sum() / tokens, batch_size=int(tokens), sync_dist=True)

    def configure_optimizers(self) -> dict[str, Any]:
        optimizer = self.optimizer(str(self.trainer.precision))
        if self.adam == "transformers4":
            optimizer.register_step_pre_hook(eps_before_correction)
        factor = rate(self.schedule, self.warmup, int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": LambdaLR(optimizer, factor), "interval": "step"}}

    def optimizer(self, precision: str) -> AdamW:
        """Make the optimiser of the current branch under a Trainer's precision."""
        # Lightning refuses to clip a fused optimiser under mixed precision.
        fused = "mixed" not in precision
        # Plain numbers, not the parser's: a checkpoint holds nothing else.
        plain = {"lr": float(self.lr), "betas": tuple(map(float, self.betas)), "weight_decay": float(self.weight_decay)}
        return AdamW(self.adapter.param_groups(), fused=fused, **plain)

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip gradients. Raise TrainingError if a layer has none, or if one is not finite (on all ranks at once)."""
        if self.trainer.global_step == 0:
            check_gradients(self.adapter.layers)
        norms = [p.grad.norm() for g in optimizer.param_groups for p in g["params"] if p.grad is not None]
        if not torch.isfinite(torch.stack(norms).sum()):
            raise TrainingError(
                f"non-finite loss or gradient in task {self.task_name} at step {self.trainer.global_step + 1}; "
                f"finished tasks are kept. Lower model.lr, or look at the task's data ({self._suspects()})"
            )
        self._step = []
        self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    @torch.no_grad()
    def _suspects(self) -> str:
        """Name the step's examples, of all ranks, whose own loss is not finite; or else all of them."""
        finite = [self.sample_nll(batch, share_prefix=False).isfinite().tolist() for batch in self._step]
        named = [
            pair
            for batch, each in zip(self._step, finite, strict=True)
            for pair in zip(batch["ids"], each, strict=True)
        ]
        pairs = [pair for part in distributed.gather(named) for pair in part]
        wrong = [name for name, good in pairs if not good]
        return f"{'not finite: ' if wrong else 'in the batch: '}{first_three(wrong or [name for name, _ in pairs])}"

    # ---- boundary work -----------------------------------------------------------------------------------

    def gradient_pass(
        self, batches: Iterable[dict[str, Any]], gated: bool = False, with_new: bool = False
    ) -> GradientPass:
        """Make a pass over `batches` for gradients of the adapted layers, with all earlier branches in place.

        Loss = sum over samples of batch["sample_weight"] * NLL, so weights of 1 / (answer tokens) give the token
        mean; dLoss/dW is then the sum of dy^T x.

        Args:
            batches: iterated anew whenever the pass is run.
            gated: also weight each sample by the new branch's gate, so that G is the gradient of its update s B A.
            with_new: keep the new branch in place too.
        """
        return GradientPass(self.adapter.layers, self.llm, batches, partial(self._backward, gated, with_new))

    def _backward(self, gated: bool, with_new: bool, batch: dict[str, Any]) -> None:
        with self._as_it_was(with_new), torch.enable_grad():
            self.llm.train()
            # In one pass: what a batch adds must have the same bits on any rank, see `add_outer_`.
            nll = self.sample_nll(batch, share_prefix=False) * batch["sample_weight"]
            if gated:
                nll = nll * self.adapter.new_branch_weight(batch).to(nll)
            nll.sum().backward()

    def gradients(self, batches: Iterable[dict[str, Any]]) -> dict[str, Tensor]:
        """dLoss/dW of every adapted layer, formed: name -> (m, n), float32 or wider; not yet reduced over ranks."""
        layers = self.adapter.layers
        dtype = torch.promote_types(torch.float32, self.llm.dtype)
        sums = {name: Exact(layer.shape, dtype, layer.weight.device) for name, layer in layers.items()}
        self.gradient_pass(batches).run(sums)
        return {name: one.total for name, one in sums.items()}

    def input_moments(
        self, batches: Iterable[dict[str, Any]], with_new: bool = False, with_padding: bool = False
    ) -> InputMoments:
        """Sum x x^T over every adapted layer's inputs, optionally with the new branch and with padding."""
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
        """Return the mask of tokens (1) and padding (0) of the input of adapted layer `name`: (B, L)."""
        decoder = self.encoder_decoder and sees_decoder(name)
        return batch["labels"] != IGNORE if decoder else batch["attention_mask"]

    @contextmanager
    def _as_it_was(self, with_new: bool = False) -> Iterator[None]:
        """Dropout off, the new branch out unless wanted; train mode comes back as it was."""
        training = self.llm.training
        with dropout_off(self.llm), nullcontext() if with_new else self.adapter.without_new_branch():
            yield
        self.llm.train(training)
