"""Gradients dLoss/dW of the adapted matrices, exact or as sketches within a memory budget.

`capture`: hooks on frozen layers. `gradient_pass`: a pass over batches that feeds accumulators. `collector`: one
task's gradients from as many passes as they take.
"""

from cl_lightning.common.lazy import lazy_exports

EXPORTS = {"capture_gradients": "capture"}
__getattr__, __dir__, __all__ = lazy_exports(__name__, EXPORTS)
