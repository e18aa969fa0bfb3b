"""Roles of linear layers, which `model.adapter.targets` can name on every architecture.

The names that architectures give their layers tell the role:

    attention     everything in an attention module: queries, keys, values, output, whatever they are called
    query_value   the projections to queries and values; where one matrix also gives keys (qkv_proj, c_attn), all of it
    mlp           the feed-forward layers
    experts       the linear layers of routed experts
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

ALL = "all-linear"

_ATTENTION = re.compile(r"attn|attention", re.IGNORECASE)
_MLP = re.compile(
    r"(.*_)?mlp(_.*)?|ffn|feed_?forward|ff|densereludense|moe|.*experts?|intermediate|output", re.IGNORECASE
)
#: Attention layers in modules of another name (`temporal_block` of RecurrentGemma, `mixer` of Nemotron-H).
_ATTENTION_LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj")
#: Feed-forward layers that are part of the block itself (OPT, BART), or in modules of another name (Nemotron-H).
_MLP_LAYERS = ("fc1", "fc2", "fc_in", "fc_out", "gate_proj", "up_proj", "down_proj")
_QUERIES = ("q", "wq", "query", "q_proj", "q_lin", "q_attn", "q_b_proj", "query_proj")
_VALUES = ("v", "wv", "value", "v_proj", "v_lin", "value_proj")
_KEYS_AND_VALUES = ("kv", "kv_proj", "kv_b_proj")
_ALL_THREE = (
    "qkv",
    "wqkv",
    "qkv_proj",
    "query_key_value",
    "c_attn",
    "w_pack",
    "att_proj",
    "in_proj_qkv",
    "in_proj_qkvz",
)


def _attention(name: str) -> bool:
    *path, leaf = name.split(".")
    return leaf in _ATTENTION_LAYERS or any(_ATTENTION.search(part) for part in path)


def _mlp(name: str) -> bool:
    *path, leaf = name.split(".")
    return not _attention(name) and (leaf in _MLP_LAYERS or any(_MLP.fullmatch(part) for part in path))


def _experts(name: str) -> bool:
    return "experts" in name.split(".")[:-1]


def _query_value(name: str) -> bool:
    leaf = name.rpartition(".")[2].lower()
    return _attention(name) and leaf in (*_QUERIES, *_VALUES, *_KEYS_AND_VALUES, *_ALL_THREE)


#: Name -> whether a layer of this name has the role.
ROLES: Mapping[str, Callable[[str], bool]] = {
    ALL: lambda name: True,
    "attention": _attention,
    "query_value": _query_value,
    "mlp": _mlp,
    "experts": _experts,
}


def is_router(name: str) -> bool:
    """Return whether a layer chooses experts. Like those that are no linear layers, it has no role."""
    return "router" in name.lower().split(".")


def role_remark(role: Any, names: list[str]) -> str | None:
    """Describe in one line what the role `query_value` means on a model; None if there is nothing to say.

    Which of its layers also give keys, and whether none gives queries or values: JetMoE's queries are stacked experts.
    """
    if role != "query_value":
        return None
    leaves = list(dict.fromkeys(name.rpartition(".")[2] for name in names))
    fused = [leaf for leaf in leaves if leaf.lower() in (*_KEYS_AND_VALUES, *_ALL_THREE)]
    verbs = ("gives", "is") if len(fused) == 1 else ("give", "are")
    said = [f"{' and '.join(fused)} {verbs[0]} keys too and {verbs[1]} adapted whole"] if fused else []
    given = {leaf.lower() for leaf in leaves}
    for what, by in (("queries", _QUERIES), ("values", (*_VALUES, *_KEYS_AND_VALUES))):
        if given and not given & {*by, *_ALL_THREE}:
            said.append(f"no linear layer gives {what}")
    return f"query_value: {'; '.join(said)}" if said else None
