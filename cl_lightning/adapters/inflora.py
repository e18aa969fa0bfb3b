"""InfLoRA: only B is trained, behind a frozen A that is orthogonal to earlier tasks' inputs.

    A_t M = 0, M a basis of earlier tasks' inputs of the layer   ->   B_t A_t u = 0 for u in span M and any B_t

Trained: B of the current task. Frozen: everything else; earlier branches stay on. M is grown and A designed by
`callbacks.InputSubspaces`. Source: Liang and Li 2024 (arXiv 2404.00228).
"""

from typing import Any, ClassVar

from cl_lightning.adapters.inclora import IncLoRA


class InfLoRA(IncLoRA):
    """IncLoRA with a designed and frozen A."""

    trainable_factors: ClassVar[frozenset[str]] = frozenset({"B"})

    def check(self, slots: dict[str, Any]) -> list[str]:
        if slots.get("subspaces") is None:
            return [
                "model.adapter: InfLoRA designs A from input subspaces: add boundary.subspaces "
                "(callbacks.InputSubspaces), or use cl_lightning.adapters.IncLoRA"
            ]
        return super().check(slots)
