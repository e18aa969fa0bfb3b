"""GradVac: raise the cosine to a target."""

from torch import Tensor

from cl_lightning.common.errors import ConfigError
from cl_lightning.common.numbers import Finite
from cl_lightning.linalg.gram import cosine
from cl_lightning.surgery.base import SurgeryOperator, no_surgery, refuse_several


class GradVac(SurgeryOperator):
    """Add enough of the memory gradient to raise the cosine to phi.

        g~ = g + ||g|| (phi sqrt(1 - cos^2) - cos sqrt(1 - phi^2)) / (||g_r|| sqrt(1 - phi^2)) g_r   if cos < phi

    with cos = cos(g, g_r); then cos(g~, g_r) = phi. At phi = 0 it is PCGrad. At cos = -1 no part of g is
    orthogonal to g_r: g~ = 0.

    Args:
        phi: target cosine, between -1 and 1.

    Raises:
        ConfigError: for a target out of range.

    Source: Wang et al. 2021 (arXiv 2010.05874). As in the SLICE authors' code this is a single update
    with a fixed phi; the paper lets phi follow the observed cosines by a moving average (that code computes one
    that never advances). Where we differ from it: it fires at cos < phi, theirs only if cos is below their
    threshold (0 unless set) too; they clamp both cosines to +-0.999.
    """

    def __init__(self, phi: Finite = 0.0) -> None:
        if not -1 < phi < 1:
            raise ConfigError(f"GradVac phi: {phi} must lie between -1 and 1")
        self.phi = phi

    def coefficients(self, gram: Tensor) -> Tensor:
        """See the base class; ValueError for more than one memory gradient."""
        refuse_several(self, gram)
        out = no_surgery(gram)
        if len(gram) == 2 and (gram.diagonal() > 0).all() and (cos := cosine(gram, 0, 1)) < self.phi:
            tangent = self.phi / (1 - self.phi**2) ** 0.5
            out[1] = (gram[0, 0] / gram[1, 1]).sqrt() * (tangent * ((1 - cos) * (1 + cos)) ** 0.5 - cos)
        return out
