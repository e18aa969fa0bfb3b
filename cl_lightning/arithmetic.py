"""Products of a bf16 model on whatever the machine multiplies well.

A CPU without bf16 units (no AVX512-BF16, no AMX, no Arm BF16) multiplies bf16 matrices some ten times slower
than float32 ones, and its attention kernels worse. There, the *storage* stays bf16 (weights,
activations, what autograd saves) while each product is formed in float32 from the bf16 values and rounded
once: more exact than a bf16 unit, and nearly as fast as a float32 model. Everywhere else nothing changes.
"""

from functools import cache

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

PORTABLE_ATTENTION = "sdpa_portable"


@cache
def cpu_multiplies_bf16() -> bool:
    """Whether this CPU has bf16 multiply units."""
    capabilities = torch.cpu.get_capabilities()
    return any(bool(capabilities.get(unit)) for unit in ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16"))


def product_dtype(x: Tensor) -> torch.dtype:
    """The dtype in which products of `x` are formed: its own, or float32 for bf16 on a CPU without bf16 units."""
    emulate = x.dtype == torch.bfloat16 and x.device.type == "cpu" and not cpu_multiplies_bf16()
    return torch.float32 if emulate else x.dtype


class _PortableProduct(torch.autograd.Function):
    """y = x W^T + b in `product_dtype`, W frozen; saves nothing but a reference to W."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.weight = weight
        work = product_dtype(x)
        y = nn.functional.linear(x.to(work), weight.to(work), None if bias is None else bias.to(work))
        return y.to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, dy: Tensor) -> tuple[Tensor, None, None]:
        work = product_dtype(dy)
        return (dy.to(work) @ ctx.weight.to(work)).to(dy.dtype), None, None


class PortableLinear(nn.Linear):
    """A frozen nn.Linear whose product is formed in `product_dtype`."""

    def forward(self, x: Tensor) -> Tensor:
        return _PortableProduct.apply(x, self.weight, self.bias)


def _portable_sdpa(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: object
) -> tuple[Tensor, Tensor | None]:
    work = product_dtype(query)
    mask = attention_mask
    if mask is not None and mask.is_floating_point():
        mask = mask.to(work)
    out, weights = sdpa_attention_forward(module, query.to(work), key.to(work), value.to(work), mask, **kwargs)
    return out.to(query.dtype), weights


def make_portable(llm: PreTrainedModel) -> None:
    """Let a frozen bf16 model on a CPU without bf16 units form its products in float32. Else: no change.

    Linears change class, attention goes through the same sdpa kernel on float32 copies. Parameters keep
    their dtype and their names. Quantised layers are left alone (they have kernels of their own).
    """
    probe = next(p for p in llm.parameters() if p.is_floating_point())
    if product_dtype(probe) == probe.dtype:
        return
    for module in llm.modules():
        if type(module) is nn.Linear:
            module.__class__ = PortableLinear
    if llm.config._attn_implementation == "sdpa":
        AttentionInterface.register(PORTABLE_ATTENTION, _portable_sdpa)
        AttentionMaskInterface.register(PORTABLE_ATTENTION, sdpa_mask)
        llm.set_attn_implementation(PORTABLE_ATTENTION)


def add_outer_(total: Tensor, dy: Tensor, x: Tensor) -> None:
    """total += dy^T x, products in `product_dtype`, sum in `total`'s dtype.

    Shapes: total (m, n); dy (N, m); x (N, n).
    """
    work = product_dtype(x)
    left, right = dy.to(work).t(), x.to(work)
    if work == total.dtype:
        total.addmm_(left, right)
    else:
        total.add_(left @ right)
