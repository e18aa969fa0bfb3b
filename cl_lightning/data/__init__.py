"""Tasks, sequences of tasks, and how their examples become batches."""

from cl_lightning.lazy import lazy_exports

EXPORTS = {"Flipped": "flipped", "SuperNI": "superni", "TRACE": "trace"}
__getattr__, __dir__, __all__ = lazy_exports(__name__, EXPORTS)
