"""Task gradients dLoss/dW of the adapted matrices: how they are collected, compared and reconciled.

`capture`: hooks on frozen layers. `surgery`: where the new task's gradient and the memory gradient conflict,
and what is done about it.
"""

from cl_lightning.common.lazy import lazy_exports

EXPORTS = {"capture_gradients": "capture"}
__getattr__, __dir__, __all__ = lazy_exports(__name__, EXPORTS)
