"""Operators of gradient surgery, one class a file. Importing this package does not import torch.

`base` has their contracts, `reconcile` applies them.
"""

from cl_lightning.common.lazy import lazy_exports

EXPORTS = {
    "AGEM": "agem",
    "CAGrad": "cagrad",
    "GEM": "gem",
    "GradVac": "gradvac",
    "PCGrad": "pcgrad",
    "RangeRemoval": "range_removal",
    "SymmetricPCGrad": "symmetric_pcgrad",
}
__getattr__, __dir__, __all__ = lazy_exports(__name__, EXPORTS)
