"""Choice of the layers to adapt, by `model.adapter.targets`, and a report of the weights left out."""

import re
from collections.abc import Iterable
from typing import Literal

from torch import nn

from cl_lightning.common.errors import ConfigError, nearest

#: "all-linear", or the last parts of layer names.
Targets = Literal["all-linear"] | list[str]


def chosen_layers(llm: nn.Module, output_head: nn.Module | None, targets: Targets) -> dict[str, nn.Linear]:
    """Return the linear layers (plain or quantised) that match `targets`, by name; never the output head.

    Raises:
        ConfigError: a target matches no linear layer, or there are none.
    """
    linear = {n: m for n, m in llm.named_modules() if isinstance(m, nn.Linear) and m is not output_head}
    missing = [] if targets == "all-linear" else [t for t in targets if not any(_meant(n, [t]) for n in linear)]
    if linear and targets and not missing:
        return {n: m for n, m in linear.items() if _meant(n, targets)}
    problem = f"model.adapter.targets: {missing or targets} matches no linear layer of the model"
    if not linear:
        raise ConfigError(f"{problem}, whose blocks have {_kinds(llm)} and no nn.Linear; choose another base model")
    if not missing:
        raise ConfigError(f"{problem}; there are {sorted(_ends(linear, 1))}")
    first = missing[0]
    if first in ("", "all-linear"):
        raise ConfigError(
            f"model.adapter.targets: {targets} must be names of layers; write all-linear without brackets"
        )
    # As many parts of the layers' names as the target has.
    ends = _ends(linear, first.count(".") + 1)
    raise ConfigError(f"{problem}; {_instead(llm, output_head, first)}{nearest(first, ends)}")


def _ends(names: Iterable[str], parts: int) -> set[str]:
    """Return the last parts of dotted names."""
    return {".".join(name.split(".")[-parts:]) for name in names}


def left_out(llm: nn.Module, output_head: nn.Module | None, targets: Targets) -> str | None:
    """Describe the blocks' weights that match `targets` but cannot be adapted (stacked experts, Conv1D) in one line.

    States their names and their share of the blocks' parameters. None without any. Call before layers are replaced.
    """
    weights = {n: p for n, p in _other_weights(llm).items() if _meant(n.removesuffix(".weight"), targets)}
    if not weights:
        return None
    left = sum(p.numel() for p in weights.values())
    return (
        f"not adapted, since not nn.Linear: {_names(weights)} ({len(weights)} weight{'s' * (len(weights) > 1)}, "
        f"{100 * left / _size_of_blocks(llm, output_head):.1f} % of the blocks' parameters)"
    )


def _meant(name: str, targets: Targets) -> bool:
    return targets == "all-linear" or any(name == t or name.endswith(f".{t}") for t in targets)


def _instead(llm: nn.Module, output_head: nn.Module | None, target: str) -> str:
    """Describe what a target matches instead of an adaptable linear layer, if anything."""
    found = [m for n, m in llm.named_modules() if _meant(n, [target])]
    found += [p for n, p in llm.named_parameters() if _meant(n, [target])]
    if not found:
        return ""
    kinds = {"the output head" if m is output_head else f"of type {type(m).__name__}" for m in found}
    return f"{target} is {' or '.join(sorted(kinds))}, only nn.Linear layers of the blocks are adapted; "


def _other_weights(llm: nn.Module) -> dict[str, nn.Parameter]:
    """Return matrices and stacks of matrices outside linear layers and embeddings, by name."""
    known = {n for n, m in llm.named_modules() if isinstance(m, nn.Linear | nn.Embedding)}
    return {
        n: p
        for n, p in llm.named_parameters()
        if n.rpartition(".")[0] not in known and p.numel() > max(p.shape, default=1) and not n.endswith("bias")
    }


def _size_of_blocks(llm: nn.Module, output_head: nn.Module | None) -> int:
    """Count the parameters outside the embeddings and the output head."""
    outside = [m for m in llm.modules() if isinstance(m, nn.Embedding) or m is output_head]
    counted = {id(p) for m in outside for p in m.parameters()}
    total = 0
    for module in llm.modules():
        for name, p in module.named_parameters(recurse=False):
            if id(p) not in counted:
                counted.add(id(p))
                # A quantised weight packs several numbers into one.
                packed = isinstance(module, nn.Linear) and name == "weight"
                total += module.in_features * module.out_features if packed else p.numel()
    return total


def _names(weights: dict[str, nn.Parameter]) -> str:
    """Join the names without block numbers, each once."""
    return ", ".join(dict.fromkeys(re.sub(r"^.*\.\d+\.", "", name) for name in weights))


def _kinds(llm: nn.Module) -> str:
    weights = _other_weights(llm)
    owners = sorted({type(llm.get_submodule(name.rpartition(".")[0])).__name__ for name in weights})
    return f"{' and '.join(owners)} ({_names(weights)})" if weights else "no weight matrices"
