"""Continual learning of LLMs with low-rank adapters, on PyTorch Lightning.

What scripts may import from here: surgery operators, initialisers, sequence metrics, and `load_run`.
"""

from cl_lightning.common.lazy import lazy_exports

EXPORTS = {
    "PCGrad": "operators.pcgrad",
    "combine": "gradients.surgery",
    "gram_matrix": "gradients.surgery",
    "LoRA": "initializers.lora",
    "LoRAGA": "initializers.loraga",
    "SLICE": "initializers.slice",
    "capture_gradients": "gradients.capture",
    "subspace_overlap": "initializers.spectral",
    "summary": "evaluation.matrix",
    "load_run": "loading",
}
__getattr__, __dir__, __all__ = lazy_exports(__name__, EXPORTS)
