"""Reads a LoRA saved by PEFT as factors of adapted layers, for `model.adapter.start_from`.

    y = W x + s B (A x),   s = alpha / r, or alpha / sqrt(r) with use_rslora; patterns set r and alpha per layer

The keys of its file say which layers it has, whatever its target patterns are. Only safetensors are read.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from cl_lightning.adapters.linear import AdaptedLinear
from cl_lightning.common.errors import ConfigError

CONFIG, WEIGHTS, PICKLED = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
OPTION = "model.adapter.start_from"
KEY = re.compile(r"base_model\.model\.(.+)\.lora_([AB])\.weight")
#: Options of PEFT's LoRA that are read, or that do not change the update of a stored LoRA. Any other option that is set
#: raises an error with its name.
UNDERSTOOD = {
    "peft_type", "peft_version", "auto_mapping", "base_model_name_or_path", "revision", "task_type", "inference_mode",
    "r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "lora_dropout", "fan_in_fan_out", "bias",
    "init_lora_weights", "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "megatron_core",
    "loftq_config", "eva_config", "qalora_group_size",
}  # fmt: skip
#: Values of `init_lora_weights` that do not change W. A LoRA with another value belongs to a changed W.
PLAIN_STARTS = (True, False, None, "gaussian", "orthogonal", "eva")


def read_lora(folder: Path, layers: Mapping[str, AdaptedLinear]) -> dict[str, Tensor]:
    """Read the factors "<layer>.lora_A" (r, n) and "<layer>.lora_B" (m, r) in float32, with s multiplied into B.

    Args:
        folder: a folder written by PEFT's `save_pretrained`.
        layers: the adapted layers by name.

    Raises:
        ConfigError: no such folder, not a plain LoRA, weights as pickles or not finite, a layer that is not adapted
            or of another shape.
    """
    config = _config(folder)
    found: dict[str, dict[str, Tensor]] = {}
    for key, tensor in _weights(folder).items():
        match = KEY.fullmatch(key)
        if match is None:
            _refuse(folder, f"contains {key}, which is not part of a plain LoRA on a linear layer")
        found.setdefault(match[1], {})[match[2]] = tensor.float()
    if not found:
        _refuse(folder, "has no weights")
    factors = {}
    for name, pair in found.items():
        A, B = _checked(folder, name, pair, layers)
        factors[f"{name}.lora_A"] = A.contiguous()
        factors[f"{name}.lora_B"] = (_scaling(folder, config, name, len(A)) * B).contiguous()
        if not all(factors[f"{name}.lora_{part}"].isfinite().all() for part in "AB"):
            _refuse(folder, f"has values at {name} that are not finite, or a scale that makes them so")
    return factors


def _config(folder: Path) -> dict[str, Any]:
    """Read the configuration. Raises ConfigError unless it is that of a plain LoRA."""
    file = folder / CONFIG
    try:
        config = json.loads(file.read_bytes())
    except OSError as error:
        raise ConfigError(
            f"{OPTION}: {file} cannot be read ({error.strerror}); name a folder that PEFT wrote"
        ) from None
    except (ValueError, RecursionError):
        config = None
    if not isinstance(config, dict):
        _refuse(folder, f"has no options in {CONFIG}")
    if config.get("peft_type") != "LORA":
        _refuse(folder, f"is of type {config.get('peft_type')!r}; only LORA is supported")
    for name, value in config.items():
        if name not in UNDERSTOOD and value:
            _refuse(folder, f"has {name}={value!r}; only plain LoRA is supported")
    if config.get("bias", "none") != "none":
        _refuse(folder, f"has bias={config['bias']!r}, but trained biases are not supported")
    if config.get("init_lora_weights") not in PLAIN_STARTS:
        _refuse(
            folder,
            f"has init_lora_weights={config['init_lora_weights']!r}, so it belongs to a changed W; save it with "
            "PEFT's path_initial_model_for_weight_conversion",
        )
    for name, kind in (("rank_pattern", dict), ("alpha_pattern", dict), ("r", int), ("lora_alpha", int | float)):
        if not isinstance(config.setdefault(name, kind() if kind is dict else None), kind):
            _refuse(folder, f"has {name}={config[name]!r}")
    return config


def _weights(folder: Path) -> dict[str, Tensor]:
    if not (folder / WEIGHTS).is_file():
        pickled = (folder / PICKLED).is_file()
        _refuse(
            folder,
            f"has its weights in {PICKLED}, a pickle that could run code; load it with PEFT where you trust it, and "
            "save_pretrained it again"
            if pickled
            else f"has no {WEIGHTS}",
        )
    try:
        return load_file(folder / WEIGHTS)
    except (SafetensorError, OSError) as error:
        _refuse(folder, f"cannot be read ({error})")


def _checked(
    folder: Path, name: str, pair: Mapping[str, Tensor], layers: Mapping[str, AdaptedLinear]
) -> tuple[Tensor, Tensor]:
    """Return A and B of a layer. Raises ConfigError unless both are there and fit the layer."""
    layer = layers.get(name)
    if layer is None:
        _refuse(
            folder, f"adapts {name}, which model.adapter.targets does not include; add it there, or use "
            "the base model that it was trained on"
        )  # fmt: skip
    A, B = pair.get("A"), pair.get("B")
    if A is None or B is None or A.dim() != 2 or B.dim() != 2 or len(A) != B.shape[1]:
        _refuse(folder, f"has no matching pair of factors for {name}")
    if (len(B), A.shape[1]) != layer.shape:
        _refuse(
            folder,
            f"belongs to another base model: its {name} is {len(B)} x {A.shape[1]}, this one is "
            f"{layer.out_features} x {layer.in_features}",
        )
    return A, B


def _scaling(folder: Path, config: Mapping[str, Any], name: str, rank: int) -> float:
    """Return s of a layer whose A has `rank` rows."""
    r, alpha = (
        _of_layer(folder, config[pattern], name, config[default])
        for pattern, default in (("rank_pattern", "r"), ("alpha_pattern", "lora_alpha"))
    )
    if r != rank:
        _refuse(folder, f"gives rank {r} for {name}, but A has {rank} rows")
    if not isinstance(alpha, int | float):
        _refuse(folder, f"has alpha {alpha!r} at {name}")
    return alpha / (rank**0.5 if config.get("use_rslora") else rank)


def _of_layer(folder: Path, patterns: Mapping[str, Any], name: str, default: Any) -> Any:
    """Return the value of the first pattern that matches the end of a layer's name, as in PEFT."""
    try:
        return next((v for key, v in patterns.items() if re.match(rf"(.*\.)?({key})$", name)), default)
    except re.error as error:
        _refuse(folder, f"has a pattern that cannot be read ({error})")


def _refuse(folder: Path, why: str) -> NoReturn:
    raise ConfigError(f"{OPTION}: {folder} {why}")
