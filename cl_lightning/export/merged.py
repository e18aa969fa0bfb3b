"""`--format=merged`: writes base and branches as one plain model of transformers, with its tokenizer.

W + B_total A_total is computed in float32 (float64 for a float64 base) and then cast.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from cl_lightning.adapters.linear_layers import set_weight, weight_of
from cl_lightning.common.errors import ConfigError
from cl_lightning.export.branches import all_recompressed
from cl_lightning.export.card import base_description, card
from cl_lightning.export.trained import Request, Trained
from cl_lightning.linalg.low_rank import LowRank
from cl_lightning.model.checkpoint import model_kind


def export(request: Request, out: Path) -> list[str]:
    """Write config.json, safetensors, tokenizer files, generation_config.json and README.md.

    Raises:
        ConfigError: see `merge`.
    """
    trained = Trained(request)
    llm, tokenizer, facts = merge(trained)
    save(llm, tokenizer, out)
    (out / "README.md").write_bytes(card(trained, "transformers", "a merged model", _how(llm), facts))
    return [*facts, *base_description(trained.module.backbone)]


def merge(trained: Trained) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, list[str]]:
    """Merge the branches into the base; return the model, its tokenizer, and lines to print.

    Raises:
        ConfigError: see `export.trained`; a 4-bit base without `dequantize`, or a W that several layers share.
    """
    backbone, request = trained.module.backbone, trained.request
    if backbone.load_in_4bit and not request.dequantize:
        raise ConfigError(
            f"{request.run}: the base is held in 4 bits, but merged weights cannot be; --dequantize writes the "
            f"dequantised base with the branches merged in, in {request.dtype or backbone.dtype}"
        )
    if request.dequantize and not backbone.load_in_4bit:
        raise ConfigError(f"--dequantize: {request.run} has no 4-bit base; leave it out")
    llm, tokenizer = trained.base()
    updates = trained.updates(llm)
    facts: list[str] = []
    if backbone.load_in_4bit:
        llm = llm.dequantize()
        facts.append("the base's 4-bit weights were dequantised; they are the ones that the branches were trained on")
    if request.rank is not None:
        updates, error = all_recompressed(updates, request.rank)
        facts.append(error)
    dtype = getattr(torch, request.dtype or backbone.dtype)
    losses = merge_into(llm, updates, dtype)
    llm.to(dtype)
    llm.config.dtype = dtype
    return llm, tokenizer, [*facts, _cast(losses, str(dtype).removeprefix("torch."))]


def _cast(losses: Mapping[str, tuple[float, float]], dtype: str) -> str:
    """Describe the error of the cast in one line."""
    if not losses:
        return f"the base model in {dtype}, without branches"
    if not any(lost for _, lost in losses.values()):
        return f"merged in {dtype} without loss from rounding"
    worst = max(losses, key=lambda name: losses[name][1])
    weight, update = losses[worst]
    return (
        f"merged, then cast to {dtype}: rounding loses at most {update:.1e} of what the branches added to a "
        f"layer, {weight:.1e} of its weights (Frobenius, {worst}); --dtype=float32 avoids this"
    )


@torch.no_grad()
def merge_into(
    llm: PreTrainedModel, updates: Mapping[str, LowRank], dtype: torch.dtype
) -> dict[str, tuple[float, float]]:
    """Add each update to its layer's W, rounded to `dtype`.

    Returns:
        by layer, the rounding error relative to ||W|| and to ||update||, in the Frobenius norm.

    Raises:
        ConfigError: another layer shares this W and would change with it.
    """
    holders = [id(p) for _, p in llm.named_parameters(remove_duplicate=False)]
    losses: dict[str, tuple[float, float]] = {}
    for name, update in updates.items():
        layer = llm.get_submodule(name)
        if holders.count(id(layer.weight)) > 1:
            raise ConfigError(f"{name}: other layers share this weight and would change with it; use --format=peft")
        wide = torch.promote_types(layer.weight.dtype, torch.float32)
        added = update.dense().to(wide)
        whole = weight_of(layer).to(wide) + added
        set_weight(layer, whole.to(dtype))
        lost = _norm(weight_of(layer).to(wide) - whole)
        losses[name] = (lost / _norm(whole), lost / _norm(added))
    return losses


def _norm(matrix: Tensor) -> float:
    return float(matrix.norm())


def save(llm: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, out: Path) -> None:
    """Save the model and the tokenizer in the format of transformers."""
    llm.save_pretrained(out)
    tokenizer.save_pretrained(out)


def _how(llm: PreTrainedModel) -> list[str]:
    """Return lines of Python that load the folder."""
    kind = model_kind(llm.config).__name__
    return [
        "```python",
        f"from transformers import {kind}, AutoTokenizer",
        "",
        f'model = {kind}.from_pretrained("THIS FOLDER")',
        'tokenizer = AutoTokenizer.from_pretrained("THIS FOLDER")',
        "```",
    ]
