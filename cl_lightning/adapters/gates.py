"""Gates: how much each task's branch speaks for a sample, told from the sample's own prompt tokens.

    p_0 = mean of the prompt's frozen token embeddings,   p_l = act(G_l p_{l-1}),  l = 1..L,
    a = f(b),   b = key . p_L ("linear"), or c cos(key, p_L) ("cosine"),   f(0) = 0, f even, 0 <= f <= 1

One gate per task; a is one number per sample and task for the whole model. All gates of a model are evaluated in one
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
    """(out, in) of G_1 .. G_L, for embeddings of `size` and hidden layers of `width`."""
    sizes = [size, width] if layers == 1 else [size, *[width] * (layers - 1), size]
    return [(out, into) for into, out in pairwise(sizes)]


class Gates(nn.Module):
    """All gates of a model: frozen ones of earlier tasks, stacked, and the newest, which is trained.

    Args:
        size: d.
        width, layers: h, L.
        output, head: f, b.
        inner: activation of all hidden layers but the last ("none" in the published Llama code); the last has SiLU.
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
        #: Of the newest gate: G_1 .. G_L, and the key last, as a row (1, .).
        self.new: nn.ParameterList = nn.ParameterList()
        #: Of all earlier gates, stacked: (T, out, in) each.
        self.old: nn.ParameterList = nn.ParameterList()

    def __len__(self) -> int:
        return (len(self.old[0]) if len(self.old) else 0) + (1 if len(self.new) else 0)

    def begin(self, weights: Sequence[Tensor]) -> None:
        """Add a gate with these weights (G_1 .. G_L, key) and train it.

        Raises:
            ValueError: if they are not of this model's shapes.
        """
        wanted = [*self.shapes, (1, self.key_size)]
        if [tuple(w.shape) for w in weights] != wanted:
            raise ValueError(f"a gate of {[tuple(w.shape) for w in weights]} where {wanted} is wanted")
        self.new = nn.ParameterList([nn.Parameter(w.detach().clone()) for w in weights])

    def freeze(self) -> None:
        """The newest gate becomes one of the old ones."""
        self.old = nn.ParameterList([nn.Parameter(w.detach(), requires_grad=False) for w in self._stacked()])
        self.new = nn.ParameterList()

    def _stacked(self) -> list[Tensor]:
        """Weights of all gates, oldest first: (T, out, in) each."""
        old, new = list(self.old), [w[None] for w in self.new]
        return [torch.cat(pair) for pair in zip(old, new, strict=True)] if old and new else old or new

    def draw(self, generator: torch.Generator, like: Tensor) -> list[Tensor]:
        """Weights of a first gate, dtype and device of `like`: G uniform as nn.Linear's, key uniform in -1..1."""
        out = []
        bounds = [*(1 / math.sqrt(into) for _, into in self.shapes), 1.0]
        for shape, bound in zip([*self.shapes, (1, self.key_size)], bounds, strict=True):
            drawn = torch.empty(shape, dtype=like.dtype).uniform_(-bound, bound, generator=generator)
            out.append(drawn.to(like.device))
        return out

    def forward(self, pooled: Tensor) -> Tensor:
        """p_0 (B, d) -> a (B, T), oldest task first, in the weights' dtype."""
        weights = self._stacked()
        with torch.autocast(pooled.device.type, enabled=False):
            p = pooled.to(weights[0].dtype)[None]
            for index, G in enumerate(weights[:-1]):
                last = index == len(weights) - 2
                p = (nn.functional.silu if last else self.inner)(p @ G.transpose(1, 2))
            return self.output(self._scores(p, weights[-1])).t()

    def _scores(self, p: Tensor, keys: Tensor) -> Tensor:
        """b (T, B) of p_L (T, B, .) and keys (T, 1, .). A zero key or p_L gives 0, never NaN."""
        scores = (p * keys).sum(-1)
        if self.head == "linear":
            return scores
        norms = p.norm(dim=-1) * keys.norm(dim=-1)
        return self.temperature * scores / torch.where(norms > 0, norms, torch.ones_like(norms))

    def features(self, pooled: Tensor) -> list[Tensor]:
        """What each weight of the newest gate multiplies: [p_0, .., p_L], (B, .) each."""
        out = [pooled.to(self.new[0].dtype)]
        for index, G in enumerate(self.new[:-1]):
            last = index == len(self.new) - 2
            out.append((nn.functional.silu if last else self.inner)(out[-1] @ G.t()))
        return out


def pool(embeddings: Tensor, mask: Tensor, padded: bool = False) -> Tensor:
    """Mean embedding (B, d) over the positions where mask (B, L) is 1; of embeddings (B, L, d), float32 or wider.

    `padded`: divide by L instead, as the published code does: the result then depends on the padding, and the gate on a
    sample's batch mates. A sample without any position pools to 0.
    """
    wide = embeddings.to(torch.promote_types(torch.float32, embeddings.dtype))
    with torch.autocast(wide.device.type, enabled=False):
        total = torch.einsum("bld,bl->bd", wide, mask.to(wide.dtype))
    count = torch.full_like(mask[:, :1], mask.shape[1]) if padded else mask.sum(1, keepdim=True).clamp_min(1)
    return total / count


def pool_max(embeddings: Tensor, mask: Tensor) -> Tensor:
    """Largest embedding (B, d), dimension by dimension, over the positions where mask (B, L) is 1; 0 without any."""
    wide = embeddings.to(torch.promote_types(torch.float32, embeddings.dtype))
    wanted = mask.bool()[..., None]
    return torch.where(wanted.any(1), wide.masked_fill(~wanted, -torch.inf).amax(1), 0.0)


def constrain(weight: Tensor, start: Tensor, M: Tensor) -> Tensor:
    """The weight (out, in) whose displacement from its start has no part that sees span M (in, k):

        W <- W_start + (W~ - W_start)(I - M M^T)

    So (W - W_start) M = 0 whatever optimiser, decay or clipping led to W~ (Proposition 3.1 of GainLoRA). Projecting
    each update is the same in exact arithmetic and drifts in float32; projecting gradients is not, under Adam.
    """
    moved = weight - start
    M = M.to(moved.dtype)
    for _ in range(2):  # what the first product leaves inside is rounding of the whole displacement
        moved = moved - (moved @ M) @ M.t()
    return start + moved
