"""One-sided PCGrad: the operator of SLICE."""

from torch import Tensor

from cl_lightning.common.errors import ConfigError
from cl_lightning.common.numbers import Finite
from cl_lightning.linalg.gram import cosine
from cl_lightning.surgery.base import SurgeryOperator, no_surgery, refuse_several


class PCGrad(SurgeryOperator):
    """Remove from g its component against the memory gradient g_r; change nothing where they agree.

        g~ = g - <g, g_r> / ||g_r||^2  g_r    if cos(g, g_r) < threshold, else g

    One-sided: only the new gradient is changed. A zero memory gradient changes nothing. With a positive
    threshold a shared component is removed too; with `always` the component is removed whatever its sign (called OGD
    by the authors of SLICE).

    Args:
        threshold: -1..1; 0 is PCGrad, g~ = g - min(0, <g, g_r>) / ||g_r||^2 g_r.
        always: project at any cosine.

    Raises:
        ConfigError: for a threshold out of range, or one that `always` leaves without effect.

    Source: Yu et al. 2020 (arXiv 2001.06782), algorithm 1; with one memory it equals A-GEM (arXiv 1812.00420,
    eq. 11) and is the operator of SLICE (arXiv 2605.12752; RamiroNB/slice, cl_lora/slice/projections.py).
    Applied at strength c (`surgery.reconcile.damped`) it is that code's `pcgrad_c`, which its README calls
    "cagrad"; `CAGrad` is the published method. Where we differ from that code: it rounds gradients to float32 before
    multiplying and adds 1e-12 to ||g_r||^2, which leaves a residual conflict for small gradients; here zero
    is handled separately. Its per-layer threshold is `threshold` = upper median of the matrices' cosines - delta.
    """

    def __init__(self, threshold: Finite = 0.0, always: bool = False) -> None:
        if not -1 <= threshold <= 1:
            raise ConfigError(f"PCGrad threshold: {threshold} is not a cosine; it must lie in -1..1")
        if always and threshold != 0:
            raise ConfigError(f"PCGrad threshold: {threshold} has no effect with always=true; leave one of them out")
        self.threshold, self.always = threshold, always

    def coefficients(self, gram: Tensor) -> Tensor:
        """See the base class; ValueError for more than one memory gradient."""
        refuse_several(self, gram)
        out = no_surgery(gram)
        if len(gram) == 2 and gram[1, 1] > 0 and (self.always or cosine(gram, 0, 1) < self.threshold):
            out[1] = -gram[0, 1] / gram[1, 1]
        return out
