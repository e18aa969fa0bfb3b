"""The layers of a model that a strategy adapts, and what is said about those it leaves out.

A role leaves out what no branch can be on, and says so; a layer that is asked for by name is refused instead.
"""

from dataclasses import dataclass

from torch import nn

from cl_lightning.adapters.bypassed import bypassed
from cl_lightning.adapters.linear_layers import shape_of
from cl_lightning.adapters.roles import ROLES, is_router, role_remark
from cl_lightning.adapters.targets import (
    OPTION,
    Targets,
    chosen_layers,
    in_blocks,
    left_out,
    narrow,
    other_senses,
)
from cl_lightning.common.errors import ConfigError


@dataclass(frozen=True)
class Selection:
    """Layers by name, and lines to print when a run starts."""

    layers: dict[str, nn.Module]
    remarks: list[str]


def selected(llm: nn.Module, output_head: nn.Module | None, targets: Targets, rank: int) -> Selection:
    """Choose the layers that match `targets` and that a branch of this rank fits.

    Raises:
        ConfigError: a target matches no linear layer; a named layer is smaller than the rank, or is used by the
            model without being called; or nothing is left.
    """
    found = chosen_layers(llm, output_head, targets)
    unused, small = bypassed(llm, found), narrow(found, rank)
    by_role = isinstance(targets, str) and targets in ROLES
    routers = [name for name in found if by_role and is_router(name)]
    small = [name for name in small if name not in (*unused, *routers)]
    kept = {name: layer for name, layer in found.items() if name not in (*unused, *small, *routers)}
    if routers and not (kept or unused or small):
        raise ConfigError(
            f"{OPTION}: {targets} is {in_blocks(routers)} alone, which chooses experts and gets no branch by role; "
            "write all-linear, or names of layers"
        )
    if unused and not (by_role and kept):
        raise ConfigError(f"{OPTION}: the model does not call {unused[0]}, so a branch would not run; leave it out")
    too_small = [name for name in small if min(shape_of(found[name])) < rank]
    if too_small and not (by_role and kept):
        m, n = shape_of(found[too_small[0]])
        raise ConfigError(
            f"model.adapter.rank: {rank} is larger than {too_small[0]} ({m} x {n}); use at most {min(m, n)} or narrow "
            f"{OPTION}"
        )
    if not by_role:
        return Selection(found, _said(left_out(llm, output_head, targets), other_senses(llm, output_head)))
    return Selection(
        kept,
        _said(
            role_remark(targets, list(kept)),
            routers and f"not adapted, since they choose experts: {in_blocks(routers)} ({len(routers)} layers)",
            small and f"not adapted, since too small for rank {rank}: {_with_shapes(found, small)}",
            unused and f"not adapted, since the model does not call them: {in_blocks(unused)} ({len(unused)} layers)",
            left_out(llm, output_head, targets),
            other_senses(llm, output_head),
        ),
    )


def _said(*lines: str | list[str] | None) -> list[str]:
    return [line for line in lines if line]


def _with_shapes(layers: dict[str, nn.Module], names: list[str]) -> str:
    shapes = {in_blocks([name]): "{} x {}".format(*shape_of(layers[name])) for name in names}
    return ", ".join(f"{name} ({shape})" for name, shape in shapes.items())
