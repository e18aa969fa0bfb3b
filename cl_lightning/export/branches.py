"""Computes the update that branches add to a layer's W, as one product of two thin factors.

    a branch            s (B A - B0 A0) = s (B - B0) A + s B0 (A - A0)      A is R A' where a core R was trained
    the whole update    sum over branches = B_total A_total,   B_total (m, R), A_total (R, n)

Rows of A_total and columns of B_total that add nothing are left out. R is then r for a plain LoRA, and 2r for one whose
initial product B0 A0 is subtracted. Everything is float64.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from cl_lightning.adapters.fused_product import branch_columns
from cl_lightning.linalg.low_rank import LowRank
from cl_lightning.linalg.svd import top_singular


def update_of(branch: Mapping[str, Tensor], scaling: float) -> LowRank | None:
    """Return the update of W (m, n) by one stored branch, or None if it is zero.

    Args:
        branch: a layer's tensors by the names of `adapters.linear.BRANCH`: lora_A (r, n) and lora_B (m, r), with the
            initial factors lora_A0 and lora_B0 or the core lora_R (r, r), if stored.
        scaling: s.
    """
    wide = {name: tensor.to(torch.float64) for name, tensor in branch.items()}
    A = wide["lora_A"] if "lora_R" not in wide else wide["lora_R"] @ wide["lora_A"]
    down, up = branch_columns(A, wide["lora_B"], wide.get("lora_A0"), wide.get("lora_B0"), None, None, scaling)
    acts = down.any(1) & up.any(0)
    return LowRank(up[:, acts], down[acts].t()) if acts.any() else None


def summed(updates: Sequence[LowRank]) -> LowRank:
    """Return the sum of one or more updates of a layer, by concatenating their factors."""
    return LowRank(torch.cat([u.left for u in updates], 1), torch.cat([u.right for u in updates], 1))


def recompressed(update: LowRank, rank: int) -> tuple[LowRank, float]:
    """Return the best approximation of an update of rank `rank`, and its relative error in the Frobenius norm.

    It is computed by an SVD of the factors' triangles (`linalg.svd`), which forms no (m, n) matrix. Each factor is
    multiplied by the square roots of the singular values. An update of rank `rank` or less is only balanced.
    """
    # The SVD of factors draws no random numbers.
    U, S, V = top_singular(update, min(*update.shape, update.left.shape[1]), torch.Generator())
    root = S[:rank].sqrt()
    return LowRank(U[:, :rank] * root, V[:, :rank] * root), float(S[rank:].norm() / S.norm())


def all_recompressed(updates: Mapping[str, LowRank], rank: int) -> tuple[dict[str, LowRank], str]:
    """Apply `recompressed` to each layer; return the updates and a sentence with the error overall and of the worst."""
    if not updates:
        return {}, f"nothing to recompress to rank {rank}"
    done = {name: recompressed(update, rank) for name, update in updates.items()}
    lost = {name: error for name, (_, error) in done.items()}
    worst, sizes = max(lost, key=lost.__getitem__), {name: _norm(update) for name, update in updates.items()}
    whole = sum((lost[name] * size) ** 2 for name, size in sizes.items()) / sum(size**2 for size in sizes.values())
    return {name: update for name, (update, _) in done.items()}, (
        f"recompressed to rank {rank}: relative error (Frobenius) {whole**0.5:.2e} over all layers, at most "
        f"{lost[worst]:.2e} ({worst})"
    )


def _norm(update: LowRank) -> float:
    """Return ||update||_F, computed from the Gram matrices of the factors."""
    squared = (update.left.t() @ update.left) * (update.right.t() @ update.right)
    return float(squared.sum().clamp(min=0).sqrt())
