"""Gates: the weight of each task's branch for a sample, computed from the sample's prompt tokens.

    p_0 = mean of the prompt's frozen token embeddings,   p_l = act(G_l p_{l-1}),  l = 1..L,
    a = f(b),   b = key . p_L ("linear"), or c cos(key, p_L) ("cosine"),   f(0) = 0, f even, 0 <= f <= 1

There is one gate per task; a is one number per sample and task for the whole model. All gates are evaluated in one
batched product. Shapes: d embedding width, h hidden width, T gates, B samples: p_0 (B, d), a (B, T); G_1 (h, d), those
between (h, h), G_L (d, h), key (1, d); with one hidden layer G_1 (h, d), key (1, h). No biases. Source: GainLoRA
(NeurIPS 2025); "cosine" is the published code's with c = 4 (a <= tanh 2), as is L = 2.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

Output = Literal["sigmoid", "clip", "sine"]
Head = Literal["linear", "cosine"]

#: f. "sigmoid" is |2 sigmoid(b) - 1| = |tanh(b / 2)|.
OUTPUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": lambda b: torch.tanh(b / 2).abs(),
    "clip": lambda b: b.abs().clamp(max=1.0),
    "sine": lambda b: torch.sin(math.pi * b / 2).abs(),
}
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"silu": nn.functional.silu, "none": lambda p: p}
#: c in the published code.
TEMPERATURE = 4.0


def shapes(size: int, width: int, layers: int) -> list[tuple[int, int]]:
    """Return the shapes (out, in) of G_1 .. G_L, for embeddings of `size` and hidden layers of `width`."""
    sizes = [size, width] if layers == 1 else [size, *[width] * (layers - 1), size]
    return [(out, into) for into, out in pairwise(sizes)]


class Gates(nn.Module):
    """All gates of a model: those of earlier tasks, frozen and stacked, and the newest, which is trained.

    Args:
        size: d.
        width, layers: h, L.
        output, head: f, b.
        inner: activation of all hidden layers but the last ("none" in the published Llama code), which has SiLU.
        temperature: c.
    """

    def __init__(
        self,
        size: int,
        width: int = 100,
        layers: int = 2,
        output: Output = "sigmoid",
        head: Head = "cosine",
        inner: Literal["silu", "none"] = "silu",
        temperature: float = TEMPERATURE,
    ) -> None:
        super().__init__()
        self.shapes = shapes(size, width, layers)
        self.key_size = self.shapes[-1][0]
        self.output, self.head, self.inner = OUTPUTS[output], head, ACTIVATIONS[inner]
        self.temperature = temperature
        #: Weights of the newest gate: G_1 .. G_L, and the key (1, .) last.
        self.new: nn.ParameterList = nn.ParameterList()
        #: Weights of all earlier gates, stacked: (T, out, in) each.
        self.old: nn.ParameterList = nn.ParameterList()

    def __len__(self) -> int:
        return (len(self.old[0]) if len(self.old) else 0) + (1 if len(self.new) else 0)

    def begin(self, weights: Sequence[Tensor]) -> None:
        """Add a gate with these weights (G_1 .. G_L, key) and train it.

        Raises:
            ValueError: if their shapes are not this model's.
        """
        wanted = [*self.shapes, (1, self.key_size)]
        if [tuple(w.shape) for w in weights] != wanted:
            raise ValueError(f"gate weights have shapes {[tuple(w.shape) for w in weights]}, not {wanted}")
        self.new = nn.ParameterList([nn.Parameter(w.detach().clone()) for w in weights])

    def freeze(self) -> None:
        """Freeze the newest gate and add it to the old ones."""
        self.old = nn.ParameterList([nn.Parameter(w.detach(), requires_grad=False) for w in self._stacked()])
        self.new = nn.ParameterList()

    def _stacked(self) -> list[Tensor]:
        """Stack the weights of all gates, oldest first: (T, out, in) each."""
        old, new = list(self.old), [w[None] for w in self.new]
        return [torch.cat(pair) for pair in zip(old, new, strict=True)] if old and new else old or new

    def draw(self, generator: torch.Generator, like: Tensor) -> list[Tensor]:
        """Draw the weights of a gate, dtype and device of `like`: G uniform as nn.Linear's, key uniform in -1..1."""
        out = []
        bounds = [*(1 / math.sqrt(into) for _, into in self.shapes), 1.0]
        for shape, bound in zip([*self.shapes, (1, self.key_size)], bounds, strict=True):
            drawn = torch.empty(shape, dtype=like.dtype).uniform_(-bound, bound, generator=generator)
            out.append(drawn.to(like.device))
        return out

    def forward(self, pooled: Tensor) -> Tensor:
        """Compute a (B, T), oldest task first, in the weights' dtype, from p_0 (B, d)."""
        weights = self._stacked()
        with torch.autocast(pooled.device.type, enabled=False):
            p = pooled.to(weights[0].dtype)[None]
            for index, G in enumerate(weights[:-1]):
                last = index == len(weights) - 2
                p = (nn.functional.silu if last else self.inner)(p @ G.transpose(1, 2))
            return self.output(self._scores(p, weights[-1])).t()

    def _scores(self, p: Tensor, keys: Tensor) -> Tensor:
        """Compute b (T, B) from p_L (T, B, .) and keys (T, 1, .). A zero key or p_L gives 0, never NaN."""
        scores = (p * keys).sum(-1)
        if self.head == "linear":
            return scores
        norms = p.norm(dim=-1) * keys.norm(dim=-1)
        return self.temperature * scores / torch.where(norms > 0, norms, torch.ones_like(norms))

    def features(self, pooled: Tensor) -> list[Tensor]:
        """Compute the inputs [p_0, .., p_L] of the newest gate's weights, (B, .) each."""
        out = [pooled.to(self.new[0].dtype)]
        for index, G in enumerate(self.new[:-1]):
            last = index == len(self.new) - 2
            out.append((nn.functional.silu if last else self.inner)(out[-1] @ G.t()))
        return out


def pool(embeddings: Tensor, mask: Tensor, padded: bool = False) -> Tensor:
    """Average embeddings (B, L, d) over the positions where mask (B, L) is 1: (B, d), float32 or wider.

    `padded`: divide by L instead, as the published code does: the result then depends on the padding, hence on the
    other samples of the batch. A sample without any position gives 0.
    """
    wide = embeddings.to(torch.promote_types(torch.float32, embeddings.dtype))
    with torch.autocast(wide.device.type, enabled=False):
        total = torch.einsum("bld,bl->bd", wide, mask.to(wide.dtype))
    count = torch.full_like(mask[:, :1], mask.shape[1]) if padded else mask.sum(1, keepdim=True).clamp_min(1)
    return total / count


def pool_max(embeddings: Tensor, mask: Tensor) -> Tensor:
    """Take the elementwise maximum (B, d) of embeddings (B, L, d) where mask (B, L) is 1; 0 without any."""
    wide = embeddings.to(torch.promote_types(torch.float32, embeddings.dtype))
    wanted = mask.bool()[..., None]
    return torch.where(wanted.any(1), wide.masked_fill(~wanted, -torch.inf).amax(1), 0.0)


def constrain(weight: Tensor, start: Tensor, M: Tensor) -> Tensor:
    """Project a weight (out, in) so that its displacement from the start vanishes on span M (in, k):

        W <- W_start + (W~ - W_start)(I - M M^T)

    So (W - W_start) M = 0 for any optimiser, decay or clipping (Proposition 3.1 of GainLoRA). Projecting each update is
    equal in exact arithmetic but drifts in float32; projecting gradients is not equal under Adam.
    """
    moved = weight - start
    M = M.to(moved.dtype)
    for _ in range(2):  # twice: the first time leaves the rounding error of the displacement inside span M
        moved = moved - (moved @ M) @ M.t()
    return start + moved
