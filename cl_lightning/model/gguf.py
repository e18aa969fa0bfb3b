"""Convert a GGUF model once into a folder of bf16 safetensors.

transformers dequantises a GGUF file at every load (half a minute) and marks the result as quantised, so that it cannot
be saved; the converted folder loads in a fraction of a second.
"""

import hashlib
import importlib.util
import os
import shutil
import tempfile
from pathlib import Path

import torch
from filelock import FileLock
from transformers import AutoTokenizer, PreTrainedModel

from cl_lightning.common.errors import ConfigError
from cl_lightning.common.terminal import say
from cl_lightning.model.checkpoint import load_whole, no_bars, refuse_adapter
from cl_lightning.model.names import EMBEDDED


def cache_root() -> Path:
    """Return `CL_CACHE`, or else cl_lightning in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("CL_CACHE") or Path(base) / "cl_lightning")


def converted(gguf: Path) -> Path:
    """Return the folder of `gguf` as bf16 safetensors with its tokenizer, converting on first use under a file lock.

    Raises:
        ConfigError: the file is missing, or it lacks weights.
    """
    if not gguf.is_file():
        raise ConfigError(f"model.backbone.name: there is no file {gguf}")
    refuse_adapter(str(gguf), str(gguf.parent))
    key = hashlib.sha256(f"{gguf.name} {_sampled(gguf)}".encode()).hexdigest()[:16]
    folder = cache_root() / f"{gguf.stem}-{key}"
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not folder.is_dir():
            _convert(gguf, folder)
    return folder


def embedded(name: str) -> Path:
    """Return the converted folder of an embedded model.

    Raises:
        ConfigError: its package is not installed.
    """
    package, file = EMBEDDED[name]
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ConfigError(f"model.backbone.name: {name} needs the package {package}; run make setup")
    return converted(Path(spec.origin).parent / file)


def _sampled(gguf: Path) -> str:
    """Hash a file's size, its head and samples of its whole length, since models may differ in weights only."""
    size = gguf.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with gguf.open("rb") as file:
        digest.update(file.read(1 << 20))
        for start in range(0, size, max(1, size // 256)):
            file.seek(start)
            digest.update(file.read(1 << 12))
    return digest.hexdigest()


def _convert(gguf: Path, folder: Path) -> None:
    scratch = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    try:
        AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(scratch)
        llm = load_whole(str(gguf), str(gguf.parent), gguf_file=gguf.name, dtype=torch.bfloat16)
        _forget_quantizer(llm)
        with no_bars():
            llm.save_pretrained(scratch)
        os.replace(scratch, folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _forget_quantizer(llm: PreTrainedModel) -> None:
    # The layers are dequantised; only these attributes keep save_pretrained from writing them.
    for name in ("hf_quantizer", "is_quantized", "quantization_method"):
        llm.__dict__.pop(name, None)
    for name in ("quantization_config", "_pre_quantization_dtype"):
        if hasattr(llm.config, name):
            delattr(llm.config, name)


if __name__ == "__main__":
    # Called by `make setup`, so that the first run starts quickly.
    for model in EMBEDDED:
        say(f"{model}: {embedded(model)}")
