"""Faults in SLAO, PS-LoRA, self-distillation, AimMerging, and LoRAs outside the weights' leading subspaces."""

from tests.mutants.faults.fault import Fault

FAULTS = (
    Fault(
        "SLAO starts from the merged B",
        "cl_lightning/adapters/slao.py",
        "B = self._trained_B[name]",
        "B = layer.lora_B.detach()",
        "tests/adapters/test_slao.py",
    ),
    Fault(
        "SLAO merges with equal weights",
        "cl_lightning/adapters/slao.py",
        "lambda i: i**-0.5",
        "lambda i: i**-1.0",
        "tests/adapters/test_slao.py",
    ),
    Fault(
        "SLAO scores the trained B",
        "cl_lightning/adapters/slao.py",
        "self._put({name: [layer.lora_A.data, merged[name]] for name, layer in self.layers.items()})",
        "pass",
        "tests/adapters/test_slao.py",
    ),
    Fault(
        "PS-LoRA rewards opposed signs",
        "cl_lightning/adapters/pslora.py",
        "(1 - (sharpness",
        "(1 + (sharpness",
        "tests/adapters/test_pslora.py",
    ),
    Fault(
        "self-distillation reverses its KL",
        "callbacks/self_distillation.py",
        'if self.kl == "forward" else',
        'if self.kl == "reverse" else',
        "tests/callbacks/test_self_distillation.py",
    ),
    Fault(
        "self-distillation's average moves at every micro-batch",
        "callbacks/self_distillation.py",
        "if trainer.global_step > self._steps:",
        "if True:",
        "tests/callbacks/test_self_distillation.py",
    ),
    Fault(
        "AimMerging adds what memory changed in full",
        "callbacks/aim_merging.py",
        "+ old * (now - between)",
        "+ (now - between)",
        "tests/callbacks/test_aim_merging.py",
    ),
    Fault(
        "AimMerging's next turns start at the first ones' start",
        "callbacks/aim_merging.py",
        "start.copy_(now)",
        "pass",
        "tests/callbacks/test_aim_merging.py",
    ),
    Fault(
        "a protected branch's start keeps its leading directions",
        "callbacks/protected_subspaces.py",
        "self._project(layers[name], self._bases[name], BRANCH)",
        "pass",
        "tests/callbacks/test_protected_subspaces.py",
    ),
    Fault(
        "the protected subspaces leave earlier branches out",
        "callbacks/protected_subspaces.py",
        "return W if layer.stack_A is None else W + layer.stack_B.to(W) @ layer.stack_A.to(W)",
        "return W",
        "tests/callbacks/test_protected_subspaces.py",
    ),
)
