"""Initialisers of the LoRA factors of a new task. Importing this package does not import torch."""

from cl_lightning.common.lazy import lazy_exports

EXPORTS = {
    "CorDA": "corda",
    "EVA": "eva",
    "Kaiming": "kaiming",
    "LoRAGA": "loraga",
    "LoRAM": "loram",
    "LoRAOne": "lora_one",
    "LoRASB": "lora_sb",
    "MiLoRA": "milora",
    "OrthonormalQR": "orthonormal_qr",
    "PiSSA": "pissa",
    "SLICE": "slice",
}
__getattr__, __dir__, __all__ = lazy_exports(__name__, EXPORTS)
