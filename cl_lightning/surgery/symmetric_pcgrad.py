"""Symmetric PCGrad: each gradient is projected against the other, and both are added."""

from torch import Tensor

from cl_lightning.surgery.base import SurgeryOperator, no_surgery, refuse_several


class SymmetricPCGrad(SurgeryOperator):
    """Remove from each gradient its component against the other, then add them.

        g~   = g   - min(0, <g, g_r>) / ||g_r||^2 g_r
        g~_r = g_r - min(0, <g, g_r>) / ||g||^2   g
        G~   = g~ + g~_r

    It always changes the gradient: where they agree, G~ = g + g_r, and the memory gradient's length matters.

    Source: Yu et al. 2020 (arXiv 2001.06782), algorithm 1 for two tasks; with two there is no random order.
    The SLICE authors' code has no such operator: its `add_retain_grad` adds the unprojected memory gradient,
    G~ = g~ + g_r.
    """

    def coefficients(self, gram: Tensor) -> Tensor:
        """See the base class; ValueError for more than one memory gradient."""
        refuse_several(self, gram)
        out = no_surgery(gram)
        if len(gram) == 2 and (gram.diagonal() > 0).all():
            out[:] = 1 - gram[0, 1].clamp(max=0) / gram.diagonal()
        return out
