"""Adapter strategies: the branches added to the frozen LLM, their training, and their place in the forward pass."""

from cl_lightning.common.lazy import lazy_exports

EXPORTS = {
    "AdapterStrategy": "base",
    "CLoRA": "clora",
    "GainLoRA": "gainlora",
    "IncLoRA": "inclora",
    "InfLoRA": "inflora",
    "OLoRA": "olora",
    "PSLoRA": "pslora",
    "SAPTLoRA": "sapt",
    "SLAO": "slao",
    "SeqLoRA": "seqlora",
}
__getattr__, __dir__, __all__ = lazy_exports(__name__, EXPORTS)
