"""Input covariances against the definition: padding out, batches added, shared inputs summed once."""

from collections.abc import Callable

import torch
from torch import nn

from cl_lightning.gradients.input_moments import InputMoments
from cl_lightning.model.module import ContinualLM
from tests.conftest import batch_of, random_examples


def test_moments_equal_the_sum_over_unpadded_tokens(tiny: Callable[..., ContinualLM]) -> None:
    module = tiny("float64")
    module.adapter.begin_task(0, torch.Generator().manual_seed(0))
    chunks = [random_examples(5), random_examples(3, seed=1)]
    moments = module.input_moments([batch_of(c) for c in chunks])
    wanted = dict.fromkeys(module.adapter.layers, 0.0)
    for example in (e for chunk in chunks for e in chunk):  # one at a time: no padding at all
        seen: dict[str, torch.Tensor] = {}
        hooks = [
            layer.register_forward_hook(lambda m, i, o, n=name, seen=seen: seen.__setitem__(n, i[0][0]))
            for name, layer in module.adapter.layers.items()
        ]
        module.sample_nll(batch_of([example]), share_prefix=False)
        for hook in hooks:
            hook.remove()
        for name, x in seen.items():
            wanted[name] = wanted[name] + x.t() @ x
    tokens = sum(e.length for chunk in chunks for e in chunk)
    assert moments.owners.keys() == wanted.keys()
    for name, total in wanted.items():
        owner = moments.owners[name]
        assert torch.allclose(moments.totals[owner], total, atol=1e-9), name
        assert moments.tokens[owner] == tokens


def test_layers_with_one_input_share_one_sum(tiny: Callable[..., ContinualLM]) -> None:
    module = tiny("float64")
    module.adapter.begin_task(0, torch.Generator())
    owners = module.input_moments([batch_of(random_examples(3)), batch_of(random_examples(2, seed=1))]).owners
    block = "model.layers.0."
    q, k, v, o = (owners[f"{block}self_attn.{p}_proj"] for p in "qkvo")
    assert q == k == v
    assert q != o
    assert owners[f"{block}mlp.gate_proj"] == owners[f"{block}mlp.up_proj"]


def test_a_layer_called_twice_on_one_input_counts_it_twice() -> None:
    layer, x = nn.Linear(3, 3), torch.randn(1, 4, 3)
    moments = InputMoments()
    with moments.watch({"layer": layer}, lambda name: torch.ones(1, 4)):
        layer(x)
        layer(x)
    assert torch.allclose(moments.totals["layer"], 2 * x[0].t() @ x[0], atol=1e-6)
    assert moments.tokens == {"layer": 8}
