"""Continual learning of LLMs with low-rank adapters, on PyTorch Lightning.

What scripts may import from here: the parts of a run (`ContinualTrainer`, `ContinualLM`, `TaskSequence`), `load` and
`load_run`, surgery operators, initialisers and sequence metrics.
"""

from cl_lightning.common.lazy import lazy_exports

EXPORTS = {
    "PCGrad": "surgery.pcgrad",
    "combine": "linalg.gram",
    "gram_matrix": "linalg.gram",
    "Kaiming": "initializers.kaiming",
    "LoRAGA": "initializers.loraga",
    "SLICE": "initializers.slice",
    "capture_gradients": "gradients.capture",
    "subspace_overlap": "linalg.svd",
    "summary": "metrics.matrix",
    "load_run": "sequence.load",
    "load": "export.load",
    "LoadedModel": "export.loaded",
    "Backbone": "model.backbone",
    "ContinualLM": "model.module",
    "ContinualTrainer": "commands.trainer",
    "DatasetTask": "data.benchmarks.dataset_tasks",
    "DatasetTasks": "data.benchmarks.dataset_tasks",
    "SequenceSettings": "sequence.settings",
    "TaskSequence": "data.task_sequence",
}
__getattr__, __dir__, __all__ = lazy_exports(__name__, EXPORTS)
