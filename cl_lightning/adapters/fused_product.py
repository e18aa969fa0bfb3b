"""One autograd function for the frozen base product and all LoRA branches of a linear layer.

See `adapters.linear` for the equations and shapes. It saves x and A x for the backward pass, nothing else.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable


class Gating(NamedTuple):
    """Assignment of gates (B, T) to a layer's branches.

    Attributes:
        owners: (R,), the branch of each column of the stack; None without a stack.
        newest: index of the new branch: its column in `gates`.
        old_gates_learn: earlier branches' gates get gradients too; else only the newest one does.
        detach_old: no gradient flows through earlier branches, as in GainLoRA's published code (wrong if a trained
            parameter lies below them; for comparison only).
    """

    owners: Tensor | None
    newest: int
    old_gates_learn: bool = False
    detach_old: bool = False


class FusedProduct(torch.autograd.Function):
    """Base product plus all branches, forward and backward, in x's dtype.

    `gates` (B, T): each sample's coefficient of each branch, for x (B, L, n) or flattened to (B L, n).
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        factors: tuple[Tensor | None, ...],
        lora_A: Tensor | None,
        lora_B: Tensor | None,
        scaling: float,
        gates: Tensor | None,
        gating: Gating,
    ) -> Tensor:
        owners, newest = gating.owners, gating.newest
        out = next(len(t) for t in (weight, lora_B, factors[3]) if t is not None)
        # Allocated in its final shape: parallel blocks add to the output in place, which a view does not allow.
        y = x.new_empty(*x.shape[:-1], out)
        # Under mixed precision too, everything here is in x's dtype.
        with torch.autocast(x.device.type, enabled=False):
            flat = x.reshape(-1, x.shape[-1])
            flat_y = y.view(len(flat), out)
            if weight is None:
                flat_y.zero_()
            elif bias is None:
                torch.mm(flat, weight.to(x.dtype).t(), out=flat_y)
            else:
                torch.addmm(bias.to(x.dtype), flat, weight.to(x.dtype).t(), out=flat_y)
            # The new branch is added in a separate product, so that a zero branch does not change a bit.
            hidden = None
            old, new = (
                branch_columns(None, None, *factors),
                branch_columns(lora_A, lora_B, *factors[:2], None, None, scaling),
            )
            if old is not None:
                gated = flat @ old[0].to(x.dtype).t()
                if gates is not None:
                    gated = _per_sample(gated, gates[:, owners])
                flat_y.addmm_(gated, old[1].to(x.dtype).t())
            if new is not None:
                hidden = flat @ new[0].to(x.dtype).t()
                gated = hidden if gates is None else _per_sample(hidden, gates[:, newest : newest + 1])
                flat_y.addmm_(gated, new[1].to(x.dtype).t())
        rank = 0 if lora_A is None else lora_A.shape[0]
        # Columns 0..r are A x, which the gradient of B needs. A gate's gradient needs the displaced columns too.
        kept = None if hidden is None else hidden if gates is not None else hidden[:, :rank].clone()
        ctx.save_for_backward(x, kept, lora_A, lora_B, gates)
        ctx.weight, ctx.factors, ctx.scaling, ctx.gating = weight, factors, scaling, gating
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, hidden, lora_A, lora_B, gates = ctx.saved_tensors
        down, up = (c.to(dy.dtype) for c in branch_columns(lora_A, lora_B, *ctx.factors, ctx.scaling))
        dy = dy.reshape(-1, dy.shape[-1])
        back = dy @ up
        owners, newest, old_gates_learn, detach_old = ctx.gating
        new = up.shape[1] - (0 if ctx.factors[2] is None else len(ctx.factors[2]))  # columns of the new branch
        grad_x = grad_A = grad_B = grad_gates = None
        if gates is not None:
            if ctx.needs_input_grad[7]:
                grad_gates = torch.zeros_like(gates)
                if new:
                    grad_gates[:, newest] = _by_sample(back[:, :new], hidden, gates).sum(1)
                if old_gates_learn and owners is not None:
                    seen = x.reshape(-1, x.shape[-1]) @ down[new:].t()
                    grad_gates.index_add_(1, owners, _by_sample(back[:, new:], seen, gates))
            coefficients = [gates[:, newest : newest + 1].expand(-1, new)] if new else []
            if owners is not None:
                coefficients.append(gates[:, owners])
            back = _per_sample(back, torch.cat(coefficients, 1))
        if ctx.needs_input_grad[0]:
            through, into = (back[:, :new], down[:new]) if detach_old else (back, down)
            grad_x = through @ into if ctx.weight is None else (dy @ ctx.weight.to(dy.dtype)).addmm_(through, into)
            grad_x = grad_x.reshape(x.shape)
        if ctx.needs_input_grad[4]:
            rank = lora_A.shape[0]
            # s (dB + B0)^T dy = s B^T dy: the sum of the displaced branch's two column blocks.
            through = back[:, :rank]
            if ctx.factors[1] is not None:
                through = through + back[:, rank : 2 * rank]
            grad_A = (through.t() @ x.reshape(-1, x.shape[-1])).to(lora_A.dtype)
        if ctx.needs_input_grad[5]:
            rank = lora_B.shape[1]
            seen = hidden[:, :rank]
            if gates is not None:
                seen = _per_sample(seen, gates[:, newest : newest + 1])
            grad_B = (dy.t() @ seen).mul_(ctx.scaling).to(lora_B.dtype)
        return grad_x, None, None, None, grad_A, grad_B, None, grad_gates, None


def _per_sample(flat: Tensor, coefficients: Tensor) -> Tensor:
    """Multiply all tokens (B L, K) by their sample's coefficients (B, K) or (B, 1)."""
    each = flat.reshape(len(coefficients), -1, flat.shape[1]) * coefficients.to(flat.dtype)[:, None]
    return each.reshape(flat.shape)


def _by_sample(back: Tensor, seen: Tensor, gates: Tensor) -> Tensor:
    """Sum back * seen over each sample's tokens, column by column: (B L, K) and (B L, K) -> (B, K)."""
    by_token = back.to(gates.dtype) * seen.to(gates.dtype)
    return by_token.reshape(len(gates), -1, back.shape[1]).sum(1)


def branch_columns(
    lora_A: Tensor | None,
    lora_B: Tensor | None,
    lora_A0: Tensor | None,
    lora_B0: Tensor | None,
    stack_A: Tensor | None,
    stack_B: Tensor | None,
    scaling: float = 1.0,
) -> tuple[Tensor, Tensor] | None:
    """Concatenate branches to one pair: down (K, n), up (m, K), in the order A, dA, stack; None without any.

    The differences are formed in the parameters' own dtype; the caller casts.
    """
    down: list[Tensor] = []
    up: list[Tensor] = []
    if lora_A is not None and lora_B0 is None:
        down, up = [lora_A], [scaling * lora_B]
    elif lora_A is not None:
        down, up = [lora_A, lora_A - lora_A0], [scaling * (lora_B - lora_B0), scaling * lora_B0]
    if stack_A is not None:
        down, up = [*down, stack_A], [*up, stack_B]
    if len(down) == 1:
        return down[0], up[0]  # a plain LoRA: nothing to copy
    return (torch.cat(down), torch.cat(up, dim=1)) if down else None
