"""Choice of the layers to adapt, by `model.adapter.targets`, and a report of the weights left out."""

import re
from collections.abc import Iterable, Mapping

from torch import nn

from cl_lightning.adapters.linear_layers import LINEAR, shape_of
from cl_lightning.adapters.roles import ALL, ROLES
from cl_lightning.common.errors import ConfigError, nearest

#: The last parts of layer names; or one word of `roles.ROLES`; or a regular expression of whole names.
Targets = list[str] | str

OPTION = "model.adapter.targets"


def check_targets(targets: Targets) -> None:
    """Raise ConfigError for targets that mean nothing on any model."""
    if isinstance(targets, list):
        if wrong := [t for t in targets if t in ROLES or not t]:
            raise ConfigError(
                f"{OPTION}: {targets} must be names of layers; write {wrong[0] or ALL} without brackets for the role"
            )
        return
    try:
        re.compile(targets)
    except re.error as error:
        raise ConfigError(
            f"{OPTION}: {targets!r} is no regular expression ({error}); write {', '.join(ROLES)}, or [NAMES]"
        ) from None


def chosen_layers(llm: nn.Module, output_head: nn.Module | None, targets: Targets) -> dict[str, nn.Module]:
    """Return the linear layers of the text model that match `targets`, by name; never the output head.

    Raises:
        ConfigError: a target matches no linear layer, or there are none.
    """
    linear = _linear_layers(llm, output_head)
    wanted = targets if isinstance(targets, list) else [targets]
    missing = [t for t in wanted if not any(_meant(n, _one(t, targets)) for n in linear)]
    if linear and targets and not missing:
        return {n: m for n, m in linear.items() if _meant(n, targets)}
    named = (missing or targets) if isinstance(targets, list) else targets
    problem = f"{OPTION}: {named} matches no linear layer of the model"
    if not linear:
        raise ConfigError(f"{problem}, whose blocks have {_kinds(llm)} and no linear layer; choose another base model")
    if not missing:
        raise ConfigError(f"{problem}; there are {sorted(_ends(linear, 1))}")
    first = missing[0]
    if isinstance(targets, str):
        raise ConfigError(f"{problem}{_of_role(llm, linear, first)}")
    # As many parts of the layers' names as the target has.
    ends = _ends(linear, first.count(".") + 1)
    raise ConfigError(f"{problem}; {_instead(llm, output_head, first)}{nearest(first, ends)}")


def _one(target: str, targets: Targets) -> Targets:
    return [target] if isinstance(targets, list) else target


def _linear_layers(llm: nn.Module, output_head: nn.Module | None) -> dict[str, nn.Module]:
    text = text_model(llm)
    return {
        n: m
        for n, m in llm.named_modules()
        if isinstance(m, LINEAR) and m is not output_head and (text is None or n.startswith(f"{text}."))
    }


def text_model(llm: nn.Module) -> str | None:
    """Return the name of the part of a model of images or sound that reads text; None for other models."""
    config = getattr(llm, "config", None)
    if config is None or config.is_encoder_decoder or config.get_text_config() is config:
        return None
    decoder = llm.get_decoder()
    return next(name for name, module in llm.named_modules() if module is decoder) or None


def other_senses(llm: nn.Module, output_head: nn.Module | None) -> str | None:
    """Describe in one line the parts that text never reaches (a vision tower); None without any."""
    text = text_model(llm)
    if text is None:
        return None
    above = text.rpartition(".")[0]
    beside = dict(llm.get_submodule(above).named_children())
    names = [n for n, m in beside.items() if n != text.rpartition(".")[2] and m is not output_head]
    return f"not adapted, since text does not reach it: {', '.join(names)}" if names else None


def _of_role(llm: nn.Module, linear: Iterable[str], target: str) -> str:
    """Describe what to write instead of a role or a regular expression that matches nothing."""
    ends = sorted(_ends(linear, 1))
    if target not in ROLES:
        return f"; as a name, write [{target}]; {nearest(target, [*ROLES, *ends])}"
    stacked = [name for name in _other_weights(llm) if ROLES[target](name.removesuffix(".weight"))]
    held = f", which holds it in {in_blocks(stacked)}, not in linear layers" if stacked else ""
    return f"{held}; write all-linear, or names of {ends}"


def _ends(names: Iterable[str], parts: int) -> set[str]:
    """Return the last parts of dotted names."""
    return {".".join(name.split(".")[-parts:]) for name in names}


def left_out(llm: nn.Module, output_head: nn.Module | None, targets: Targets) -> str | None:
    """Describe the blocks' weights that match `targets` but cannot be adapted (stacked experts) in one line.

    States their names and their share of the blocks' parameters. None without any. Call before layers are replaced.
    """
    weights = {n: p for n, p in _other_weights(llm).items() if _meant(n.removesuffix(".weight"), targets)}
    if not weights:
        return None
    left = sum(p.numel() for p in weights.values())
    return (
        f"not adapted, since not nn.Linear: {in_blocks(weights)} ({len(weights)} weight{'s' * (len(weights) > 1)}, "
        f"{100 * left / _size_of_blocks(llm, output_head):.1f} % of the blocks' parameters)"
    )


def narrow(layers: Mapping[str, nn.Module], rank: int) -> list[str]:
    """Return the names of the layers with fewer rows or columns than `rank`, or with one alone."""
    return [name for name, layer in layers.items() if min(shape_of(layer)) < max(rank, 2)]


def in_blocks(names: Iterable[str]) -> str:
    """Join names of layers without block numbers, each once."""
    return ", ".join(dict.fromkeys(re.sub(r"^.*\.\d+\.", "", name) for name in names))


def _meant(name: str, targets: Targets) -> bool:
    if isinstance(targets, list):
        return any(name == t or name.endswith(f".{t}") for t in targets)
    return ROLES[targets](name) if targets in ROLES else re.fullmatch(targets, name) is not None


def _instead(llm: nn.Module, output_head: nn.Module | None, target: str) -> str:
    """Describe what a target matches instead of an adaptable linear layer, if anything."""
    found = [m for n, m in llm.named_modules() if _meant(n, [target])]
    found += [p for n, p in llm.named_parameters() if _meant(n, [target])]
    if not found:
        return ""
    kinds = {"the output head" if m is output_head else f"of type {type(m).__name__}" for m in found}
    return f"{target} is {' or '.join(sorted(kinds))}, only linear layers of the blocks are adapted; "


def _other_weights(llm: nn.Module) -> dict[str, nn.Parameter]:
    """Return the text model's matrices and stacks of matrices outside linear layers and embeddings, by name."""
    known, text = {n for n, m in llm.named_modules() if isinstance(m, (*LINEAR, nn.Embedding))}, text_model(llm)
    return {
        n: p
        for n, p in llm.named_parameters()
        if n.rpartition(".")[0] not in known and p.numel() > max(p.shape, default=1) and not n.endswith("bias")
        if text is None or n.startswith(f"{text}.")
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


def _kinds(llm: nn.Module) -> str:
    weights = _other_weights(llm)
    owners = sorted({type(llm.get_submodule(name.rpartition(".")[0])).__name__ for name in weights})
    return f"{' and '.join(owners)} ({in_blocks(weights)})" if weights else "no weight matrices"
