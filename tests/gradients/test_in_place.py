"""Gradients of a model whose code scales its embeddings in place (CTRL)."""

import torch
import transformers as tf
from torch import nn

from cl_lightning.gradients.capture import capture_gradients
from tests.families import IDS, make


def test_embeddings_that_are_scaled_in_place_change_no_gradient() -> None:
    config = tf.CTRLConfig(**IDS, n_embd=32, dff=48, n_layer=2, n_head=4, n_positions=64, initializer_range=0.2)
    llm = make(config).double().requires_grad_(False)
    layers = {name: m for name, m in llm.named_modules() if isinstance(m, nn.Linear) and m is not llm.lm_head}
    ids = torch.arange(3, 20)[None]
    with capture_gradients(layers, llm) as found:
        llm(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    for layer in layers.values():
        layer.weight.requires_grad_(True)
    loss = llm(input_ids=ids, labels=ids, use_cache=False).loss
    wanted = torch.autograd.grad(loss, [layer.weight for layer in layers.values()])
    assert len(layers) == 12 and found.keys() == layers.keys()
    for name, gradient in zip(layers, wanted, strict=True):
        torch.testing.assert_close(found[name], gradient, rtol=1e-12, atol=1e-14)
