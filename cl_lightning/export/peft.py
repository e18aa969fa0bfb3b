"""`--format=peft`: writes all branches as one LoRA adapter for PEFT.

y = W x + B_total (A_total x):   r = alpha = R, the number of rows of A_total, so PEFT's factor alpha / r is 1
"""

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from cl_lightning.common.errors import ConfigError
from cl_lightning.common.files import to_json
from cl_lightning.export.branches import all_recompressed
from cl_lightning.export.card import base_description, card
from cl_lightning.export.trained import Request, Trained
from cl_lightning.linalg.low_rank import LowRank
from cl_lightning.model.backbone import Backbone
from cl_lightning.model.checkpoint import model_kind

#: Prefix of the base's names in PEFT's files.
PREFIX = "base_model.model."


def export(request: Request, out: Path) -> list[str]:
    """Write adapter_config.json, adapter_model.safetensors and README.md.

    Raises:
        ConfigError: see `export.trained`; options of other formats; or there is no update.
    """
    for option in ("dtype", "dequantize"):
        if getattr(request, option):
            raise ConfigError(
                f"--{option}: a LoRA is written in float32, beside a base that stays as it is; leave it out"
            )
    trained = Trained(request)
    llm, _ = trained.base()
    updates = trained.updates(llm)
    if not updates:
        raise ConfigError(f"{request.run}: {trained.name} has no branches, so there is no LoRA to write")
    facts: list[str] = []
    if request.rank is not None:
        updates, error = all_recompressed(updates, request.rank)
        facts.append(error)
    ranks = [update.left.shape[1] for update in updates.values()]
    span = str(min(ranks)) if min(ranks) == max(ranks) else f"{min(ranks)} to {max(ranks)}"
    facts.append(f"one LoRA of rank {span} on {len(updates)} layers")
    backbone = trained.module.backbone
    (out / "adapter_config.json").write_bytes(to_json(adapter_config(llm, backbone, updates)))
    save_file(tensors(updates), out / "adapter_model.safetensors", metadata={"format": "pt"})
    (out / "README.md").write_bytes(card(trained, "peft", "a PEFT LoRA adapter", _how(llm, backbone), facts))
    return [*facts, *base_description(backbone)]


def tensors(updates: Mapping[str, LowRank]) -> dict[str, torch.Tensor]:
    """Return the factors by PEFT's names, in float32."""
    found = {}
    for name, update in updates.items():
        found[f"{PREFIX}{name}.lora_A.weight"] = update.right.t().float().contiguous()
        found[f"{PREFIX}{name}.lora_B.weight"] = update.left.float().contiguous()
    return found


def adapter_config(llm: PreTrainedModel, backbone: Backbone, updates: Mapping[str, LowRank]) -> dict[str, Any]:
    """Return PEFT's configuration. `rank_pattern` lists the layers whose rank is not the most frequent one."""
    ranks = {name: update.left.shape[1] for name, update in updates.items()}
    rank = Counter(ranks.values()).most_common(1)[0][0]
    other = {re.escape(name): r for name, r in ranks.items() if r != rank}
    return {
        "peft_type": "LORA",
        "task_type": "SEQ_2_SEQ_LM" if llm.config.is_encoder_decoder else "CAUSAL_LM",
        "base_model_name_or_path": backbone.name,
        "revision": backbone.revision,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": rank,
        "rank_pattern": other,
        "alpha_pattern": other,
        "target_modules": _targets(llm, updates),
        "lora_dropout": 0.0,
        "bias": "none",
        "use_rslora": False,
        "use_dora": False,
        "fan_in_fan_out": any(isinstance(llm.get_submodule(name), Conv1D) for name in updates),
        "modules_to_save": None,
    }


def _targets(llm: PreTrainedModel, updates: Mapping[str, LowRank]) -> list[str]:
    """Return the last parts of the layers' names if they match no other module, else the full names."""
    ends = {name.rpartition(".")[2] for name in updates}
    meant = {name for name, _ in llm.named_modules() if name.rpartition(".")[2] in ends}
    return sorted(ends if meant == updates.keys() else updates)


def _how(llm: PreTrainedModel, backbone: Backbone) -> list[str]:
    """Return lines of Python that load the folder."""
    kind = model_kind(llm.config).__name__
    revision = f", revision={backbone.revision!r}" if backbone.revision else ""
    return [
        "```python",
        "from peft import PeftModel",
        f"from transformers import {kind}",
        "",
        f'base = {kind}.from_pretrained("BASE"{revision})  # see below',
        'model = PeftModel.from_pretrained(base, "THIS FOLDER")',
        "```",
    ]
