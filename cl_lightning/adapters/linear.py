"""One adapted linear layer: frozen base, frozen stack of earlier branches, one trainable LoRA branch.

    y = W x + F_B (F_A x) + s (dB (A x) + B0 (dA x)),     dA = A - A0,  dB = B - B0

The last term is the *displacement form* of s (B A - B0 A0) x: same gradients, but exactly zero at the start
in every dtype and on a quantised base, and without the cancellation of two large products. W is not
edited while a branch trains. A plain LoRA start (B0 = 0) needs no A0, B0, nor does a start that is meant to change
the output. Two variants: *baked*, W <- W - s B0 A0 while the branch trains as s B A (float32 W only, exact up to
rounding; s B0 A0 is added again when the branch is folded or left out), and a trained core R between frozen
factors, A = R A' (LoRA-SB). With gates (`adapters.binding`) each branch's term is multiplied by the sample's
coefficient of that branch.

Shapes: m = out, n = in, r = rank, R = summed ranks of the stack, K = all branch columns, N = tokens.
    W (m, n); A, A0 (r, n); B, B0 (m, r); F_A (R, n); F_B (m, R), scaling folded in; core (r, r).
Trained: A and B (or the core), float32 whatever the base is. Memory per folded task: (m + n) r float32 numbers,
twice that for a displaced branch. Base and branches are one autograd function, which saves only x and A x.
"""

from collections.abc import Set

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from cl_lightning.adapters.fused_product import FusedProduct, Gating, branch_columns
from cl_lightning.common.errors import ConfigError

#: Tensors of the trainable branch; only the first two are always present.
BRANCH = ("lora_A", "lora_B", "lora_A0", "lora_B0", "lora_R")
BOTH = frozenset({"A", "B"})


def _frozen(tensor: Tensor) -> nn.Parameter:
    # A parameter without gradient, not a buffer: DDP broadcasts buffers at every forward.
    return nn.Parameter(tensor, requires_grad=False)


class AdaptedLinear(nn.Module):
    """A frozen linear layer (plain or 4-bit) with a stack of frozen branches and at most one trainable branch."""

    def __init__(self, base: nn.Module, dropout: float = 0.0) -> None:
        super().__init__()
        self.base = base
        self.dropout = dropout
        self.scaling = 1.0
        self.active = True  # False: the new branch is left out of the forward pass, as for gradient capture
        self.baked = False
        self.gates: Tensor | None = None  # (B, T), set for the length of a forward pass by `adapters.binding`
        self.gated_name = ""  # its name in the model if branches need gates; set by `adapters.binding`
        self.in_order = False  # True: flattened inputs keep the samples' order; set by `adapters.token_order`
        self.tokens = 0  # B L in the enclosing layer's input; set with `gates`
        self.old_gates_learn = self.detach_old = False  # see `Gating`
        self.columns: list[int] = []  # number of the stack's columns, by branch
        self._owners: Tensor | None = None  # branch of each column of the stack
        for name in (*BRANCH, "stack_A", "stack_B"):
            self.register_parameter(name, None)

    @property
    def weight(self) -> Tensor:
        return self.base.weight

    @property
    def bias(self) -> Tensor | None:
        return self.base.bias

    @property
    def in_features(self) -> int:
        return self.base.in_features

    @property
    def out_features(self) -> int:
        return self.base.out_features

    @property
    def quantized(self) -> bool:
        return not self.base.weight.is_floating_point()

    def dense_weight(self) -> Tensor:
        """Return W (m, n) as a plain matrix, a temporary where the base is in 4 bits or sharded.

        A sharded base is gathered, so all ranks must call this together.
        """
        if isinstance(self.base.weight, DTensor):
            return self.base.weight.full_tensor()
        if not self.quantized:
            return self.base.weight
        from bitsandbytes.functional import dequantize_4bit

        return dequantize_4bit(self.base.weight.data, self.base.weight.quant_state)

    def start_branch(
        self,
        lora_A: Tensor,
        lora_B: Tensor,
        scaling: float,
        core: Tensor | None = None,
        displaced: bool = True,
        baked: bool = False,
        trained: Set[str] = BOTH,
    ) -> None:
        """Begin (or restart) the trainable branch at factors A0 (r, n), B0 (m, r).

        Args:
            core: R (r, r) to train between frozen factors; None: A and B are trained.
            displaced: subtract s B0 A0 again, so that the layer's output does not change.
            baked: subtract it from W instead of training differences.
            trained: the trained ones of "A" and "B".
        """
        tensors = {"lora_A": lora_A.clone(), "lora_B": lora_B.clone()}
        if core is not None:
            tensors["lora_R"] = core.clone()
        if displaced and lora_B.any():
            tensors |= {"lora_A0": lora_A.clone(), "lora_B0": lora_B.clone()}
        self.load_branch(tensors, scaling, baked, trained)

    @torch.no_grad()
    def shift_branch(self, dA: Tensor, dB: Tensor) -> None:
        """Add dA (r, n) and dB (m, r) to the trainable factors; the output changes accordingly."""
        self.lora_A += dA.to(self.lora_A)
        self.lora_B += dB.to(self.lora_B)

    @property
    def shape(self) -> tuple[int, int]:
        return self.out_features, self.in_features

    def branch(self) -> dict[str, Tensor]:
        """Return the trainable branch's tensors by name: those of BRANCH that are present."""
        return {n: getattr(self, n).detach() for n in BRANCH if getattr(self, n) is not None}

    @torch.no_grad()
    def load_branch(
        self, tensors: dict[str, Tensor], scaling: float, baked: bool = False, trained: Set[str] = BOTH
    ) -> None:
        """Load a stored branch as the trainable one.

        Raises:
            ValueError: A or B is missing, or a tensor has another shape than the layer's or is not floating point.
        """
        self._check_branch(tensors)
        self.discard_branch()
        self.scaling, self.baked = scaling, baked and "lora_B0" in tensors
        moving = {"lora_R"} if "lora_R" in tensors else {f"lora_{factor}" for factor in trained}
        for name in BRANCH:
            value = tensors.get(name)
            setattr(self, name, None if value is None else nn.Parameter(value, requires_grad=name in moving))
        if self.baked:
            self._add_to_weight(-scaling * (self.lora_B0 @ self.lora_A0))

    def _check_branch(self, tensors: dict[str, Tensor]) -> None:
        A, B = tensors.get("lora_A"), tensors.get("lora_B")
        if A is None or B is None:
            raise ValueError(f"a layer of shape {self.shape} has no A or no B")
        rank = A.shape[0] if A.dim() else 0
        wanted = {"A": (rank, self.in_features), "B": (self.out_features, rank), "R": (rank, rank)}
        for name, tensor in tensors.items():
            if name not in BRANCH:
                raise ValueError(f"a branch has no {name}")
            if tuple(tensor.shape) != wanted[name[5]] or not tensor.is_floating_point():
                raise ValueError(f"factors {tuple(A.shape)}, {tuple(B.shape)} do not fit {self.shape} ({name})")

    def _branch_tensors(self) -> tuple[Tensor | None, ...]:
        """Return A, B, A0, B0 of the trainable branch."""
        A = self.lora_A if self.lora_R is None else self.lora_R @ self.lora_A
        return A, self.lora_B, self.lora_A0, self.lora_B0

    def _in_forward(self) -> tuple[Tensor | None, ...]:
        """Return A, B, A0, B0 for the forward pass. A baked start is missing from W: B A, or B0 A0 alone, adds it."""
        if not self.baked:
            return self._branch_tensors() if self.active else (None,) * 4
        return (*(self.factors() if self.active else (self.lora_A0, self.lora_B0)), None, None)

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return A (r, n), or R A if a core is trained, and B (m, r) of the trainable branch, with gradients."""
        return self._branch_tensors()[:2]

    def update(self) -> Tensor:
        """Form the update (m, n) that the trainable branch adds to the earlier W, with gradients; 0 at a displaced or
        baked start."""
        down, up = branch_columns(*self._branch_tensors(), None, None, self.scaling)
        return up @ down

    @torch.no_grad()
    def discard_branch(self) -> None:
        """Remove the trainable branch, adding a baked start to W again."""
        if self.baked:
            self._add_to_weight(self.scaling * (self.lora_B0 @ self.lora_A0))
            self.baked = False
        for name in BRANCH:
            setattr(self, name, None)

    @torch.no_grad()
    def fold(self, into_weight: bool) -> None:
        """Freeze the trainable branch: append it to the stack (exact) or add it to a float32 W."""
        down, up = branch_columns(*self._branch_tensors(), None, None, self.scaling)
        self.discard_branch()
        if into_weight:
            self._add_to_weight(up @ down)
            return
        self.columns.append(len(down))
        owners = [branch for branch, count in enumerate(self.columns) for _ in range(count)]
        self._owners = torch.tensor(owners, device=down.device)
        if self.stack_A is None:
            self.stack_A, self.stack_B = _frozen(down), _frozen(up)
        else:
            self.stack_A = _frozen(torch.cat([self.stack_A, down]))
            self.stack_B = _frozen(torch.cat([self.stack_B, up], dim=1))

    def _add_to_weight(self, change: Tensor) -> None:
        """Add a change (m, n), which every rank has whole, to W; of a sharded W each rank has some rows."""
        W = self.base.weight
        if isinstance(W, DTensor):
            change = distribute_tensor(change, W.device_mesh, W.placements, src_data_rank=None)
        W += change.to(W.dtype)

    def forward(self, x: Tensor) -> Tensor:
        branch = self._in_forward()
        trained, start = branch[:2], branch[2:]
        stack = (self.stack_A, self.stack_B)
        if self.dropout and self.training and self.active and trained[0] is not None:
            # One mask for both terms of the new branch; earlier branches get the input without dropout.
            y = self._product(x, (None, None), (None, None), stack, with_base=True)
            dropped = nn.functional.dropout(x, self.dropout)
            return y + self._product(dropped, trained, start, (None, None), with_base=False)
        return self._product(x, trained, start, stack, with_base=True)

    def _has_all_tokens(self, gates: Tensor, x: Tensor) -> bool:
        """Tell whether x has all tokens of each sample, sample after sample."""
        return len(x) == len(gates) if x.dim() > 2 else self.in_order and len(x) == self.tokens

    def _product(
        self,
        x: Tensor,
        trained: tuple[Tensor | None, Tensor | None],
        start: tuple[Tensor | None, Tensor | None],
        stack: tuple[Tensor | None, Tensor | None],
        with_base: bool,
    ) -> Tensor:
        if trained[0] is None and stack[0] is None:
            return self.base(x)
        fused = with_base and not self.quantized
        weight, bias = (self.base.weight, self.base.bias) if fused else (None, None)
        gates, owners = self.gates, self._owners if stack[0] is not None else None
        if self.gated_name and gates is None:
            raise ConfigError(
                "this model gates its branches by the prompt, but the call has no gates: generate with "
                "cl_lightning.load(folder).generate, or call the model with .inputs(prompts); for a module, use "
                "cl_lightning.evaluation.generate.generate(.., own=[e.own for e in encoded], "
                "extra=module.adapter.forward_kwargs), with prompts from data.prompt.PromptEncoder; get likelihoods "
                "from .score, module.answer_logits or module.sample_nll"
            )
        if gates is not None and not self._has_all_tokens(gates, x):
            raise ConfigError(
                f"gates of {len(gates)} samples do not fit {self.gated_name or 'a layer'}'s input of shape "
                f"{tuple(x.shape)}, which must be each sample's tokens in order; leave the layer out of "
                "model.adapter.targets"
            )
        if owners is not None and owners.device != x.device:
            owners = self._owners = owners.to(x.device)
        gating = Gating(owners, len(self.columns), self.old_gates_learn, self.detach_old)
        y = FusedProduct.apply(x, weight, bias, (*start, *stack), *trained, self.scaling, gates, gating)
        return y + self.base(x) if with_base and not fused else y
