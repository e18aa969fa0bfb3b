"""Bytes of a 4-bit base, by formula: a model without data is made dense."""

from torch import nn

from cl_lightning.model.module import ContinualLM

#: Bits of a weight of nf4 with double quantisation: 4, a scale of 8 bits for 64 weights, and of 32 bits for 64 * 256.
BITS = 4 + 8 / 64 + 32 / (64 * 256)


def saved_by_4bit(module: ContinualLM) -> int:
    """Return how many bytes less than the dense base a 4-bit one takes: its linear layers but for the output head.

    One matrix at a time is dequantised, so that the largest counts as dense. 0 for another base.
    """
    if not module.backbone.load_in_4bit:
        return 0
    head = module.llm.get_output_embeddings()
    linear = [part.weight for part in module.llm.modules() if isinstance(part, nn.Linear) and part is not head]
    dense = [weight.numel() * weight.element_size() for weight in linear]
    return int(sum(dense) - sum(weight.numel() for weight in linear) * BITS / 8) - max(dense)
