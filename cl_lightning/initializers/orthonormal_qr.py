"""OrthonormalQR: start at the QR factors of W, as OLoRA does."""

import torch
from torch import Tensor

from cl_lightning.initializers.base import Initializer, check_rank


class OrthonormalQR(Initializer):
    """A0 = R[:r], B0 = Q[:, :r] of W = Q R: B0 is orthonormal and spans the first r columns of W.

    Signs: the diagonal of R is made positive, so that the factors do not depend on the QR routine.

    Source: the start of OLoRA (arXiv 2406.01775), algorithm 1; s is not in the factors, as in PEFT's olora_init. We
    differ from PEFT: fixed signs, and W is never edited (displacement form), so nothing is re-quantised.
    """

    needs = "weight"

    def factors(
        self, weight: Tensor, statistic: None, rank: int, scaling: float, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """See the base class.

        Raises:
            ValueError: if the rank exceeds min(m, n).
        """
        check_rank(weight, rank)
        Q, R = torch.linalg.qr(weight.detach().to(torch.promote_types(weight.dtype, torch.float32)))
        signs = torch.where(R.diagonal()[:rank] < 0, -1.0, 1.0).to(R.dtype)
        return signs[:, None] * R[:rank], Q[:, :rank] * signs
