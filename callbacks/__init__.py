"""Task callbacks: boundary work (memory, initialisation) and observers (progress, score matrix)."""

from cl_lightning.common.lazy import lazy_exports

EXPORTS = {
    "AimMerging": "aim_merging",
    "AttentiveReflection": "attentive_reflection",
    "BranchInit": "branch_init",
    "Charts": "charts",
    "EWC": "ewc",
    "GateOrthogonalization": "gate_orthogonalization",
    "GeneralAbility": "general_ability",
    "InputSubspaces": "input_subspaces",
    "LwF": "lwf",
    "MIGU": "migu",
    "Probes": "probes",
    "ProtectedSubspaces": "protected_subspaces",
    "ReplayBuffer": "replay_buffer",
    "ScoreMatrix": "score_matrix",
    "SelfDistillation": "self_distillation",
    "SliceInit": "slice_init",
    "TaskProgress": "progress",
}
__getattr__, __dir__, __all__ = lazy_exports(__name__, EXPORTS)
