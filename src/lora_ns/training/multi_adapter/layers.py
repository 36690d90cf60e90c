"""A frozen linear layer shared by several members, each with its own low-rank factors.

    y = W x + s·B·A·x                                LoRA    (Hu et al. 2021, arXiv 2106.09685)
    y = m / ‖W + s·B·A‖ · (W + s·B·A) x              DoRA    (Liu et al. 2024, arXiv 2402.09353; no gradient of the norm)
    y = (W − s·B₀·A₀) x + s·B·A·x                    PiSSA, OLoRA: the initial factors were subtracted from W

Three computations give the same output:

    weights   W + s·B·A is computed once a step for each member, so its rows need one product, for small layers on a CPU
    pieces    each member's rows go through W and its factors separately, for other layers on a CPU
    factors   all rows go through W at once, and through all factors, concatenated and masked per row, for GPUs and for
              cases that the others do not support
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from lora_ns.training.multi_adapter.layout import Layout


@dataclass
class LowRank:
    """One member's factors for one layer.  a [r, in], b [out, r], magnitude [out]."""

    a: torch.nn.Parameter
    b: torch.nn.Parameter
    scaling: float
    dropout: float = 0.0
    magnitude: torch.nn.Parameter | None = None
    taken: tuple[torch.Tensor, torch.Tensor] | None = None
    """(a₀, b₀): initial factors that were subtracted from the layer's weight."""

    def parameters(self) -> list[torch.nn.Parameter]:
        return [self.a, self.b, *([] if self.magnitude is None else [self.magnitude])]

    @property
    def is_taken_apart(self) -> bool:
        """Whether dropout applies to the factors but not to what was subtracted from the weight."""
        return self.taken is not None and self.dropout > 0

    def factors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the factors of the difference to the shared weight: [a; a₀], [b, −b₀], or (a, b) if taken apart."""
        if self.taken is None or self.is_taken_apart:
            return self.a, self.b
        return torch.cat([self.a, self.taken[0]]), torch.cat([self.b, -self.taken[1]], dim=1)

    def weight(self, shared: torch.Tensor) -> torch.Tensor:
        """The layer's weight with this member's factors added [out, in]."""
        a, b = self.factors()
        own = torch.addmm(shared, b, a, alpha=self.scaling)
        if self.magnitude is None:
            return own
        return (self.magnitude / own.detach().norm(dim=1))[:, None] * own


LARGEST_OWN_WEIGHT = 2**17
"""Largest weight matrix (in numbers) that is summed for every member, which takes as much memory as the layer."""

LARGEST_NORMED_WEIGHT = 4 * 2**20
"""The limit with DoRA, whose norm needs the sum anyway."""


def way_of(base: Any, parts: list[LowRank]) -> str:
    """How a layer is computed: weights, pieces or factors."""
    weight = base.weight
    dtypes = {weight.dtype, *(part.a.dtype for part in parts)}
    if type(base) is not torch.nn.Linear or weight.device.type != "cpu" or len(dtypes) > 1:
        return "factors"
    normed = any(part.magnitude is not None for part in parts)
    if any(part.dropout for part in parts):
        return "factors" if normed else "pieces"
    if weight.numel() <= (LARGEST_NORMED_WEIGHT if normed else LARGEST_OWN_WEIGHT):
        return "weights"
    return "factors" if normed else "pieces"


class SharedLinear(torch.nn.Module):
    """The shared layer.  parts: factors of each member that trains this layer, by member number."""

    def __init__(self, base: Any, parts: dict[int, LowRank], layout: Layout):
        super().__init__()
        self.base, self.parts, self.layout = base, parts, layout
        self._way = way_of(base, list(parts.values()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [..., in] -> [..., out].  Each row uses the factors of its member."""
        flat = x.reshape(-1, x.size(-1))
        sizes = self.layout.sizes(len(flat))
        parts = [self.parts.get(member) for member in self.layout.members]
        ways = {"weights": self._by_weights, "pieces": self._by_pieces, "factors": self._by_factors}
        is_plain = not torch.is_autocast_enabled(x.device.type)
        out = ways[self._way if is_plain else "factors"](flat, sizes, parts)
        if any(part is not None and part.is_taken_apart for part in parts):
            out = _less_taken(out, flat, sizes, parts)
        return out.view(*x.shape[:-1], -1)

    def _by_weights(self, x: torch.Tensor, sizes: list[int], parts: list[LowRank | None]) -> torch.Tensor:
        shared = self.base.weight
        own: list[torch.Tensor | None] = []
        scalings = []
        for part in parts:
            scalings.append(1.0 if part is None else part.scaling)
            if part is None:
                own += [shared, None, None]
            elif part.magnitude is not None:
                own += [part.weight(shared), None, None]
            else:
                with torch.no_grad():
                    own.append(part.weight(shared))
                own += part.factors()
        return _ByRows.apply(x, self.base.bias, sizes, scalings, *own)

    def _by_pieces(self, x: torch.Tensor, sizes: list[int], parts: list[LowRank | None]) -> torch.Tensor:
        pieces = []
        given = self._after_dropout(x, sizes, parts).split(sizes)
        for piece, rows, part in zip(self.base(x).split(sizes), given, parts, strict=True):
            if part is None:
                pieces.append(piece)
                continue
            a, b = part.factors()
            pieces.append(piece + functional.linear(functional.linear(rows, a), b) * part.scaling)
        return torch.cat(pieces)

    def _by_factors(self, x: torch.Tensor, sizes: list[int], parts: list[LowRank | None]) -> torch.Tensor:
        result = self.base(x)
        having = [(place, part) for place, part in enumerate(parts) if part is not None]
        if not having:
            return result
        dtype = having[0][1].a.dtype
        given = self._after_dropout(x.to(dtype), sizes, parts)
        factors = [part.factors() for _, part in having]
        own = [(place, part.scaling, len(a)) for (place, part), (a, _) in zip(having, factors, strict=True)]
        inner = functional.linear(given, torch.cat([a for a, _ in factors])) * _own_columns(sizes, own, given)
        low = functional.linear(inner, torch.cat([b for _, b in factors], dim=1))
        if all(part.magnitude is None for _, part in having):
            return (result + low).to(result.dtype)
        return self._with_magnitudes(result, low, given, sizes, parts).to(result.dtype)

    def _after_dropout(self, x: torch.Tensor, sizes: list[int], parts: list[LowRank | None]) -> torch.Tensor:
        if not self.training or not any(part is not None and part.dropout for part in parts):
            return x
        pieces = list(x.split(sizes))
        for place, part in enumerate(parts):
            if part is not None and part.dropout:
                pieces[place] = self.layout.dropped(place, pieces[place], part.dropout)
        return torch.cat(pieces)

    def _with_magnitudes(
        self, result: torch.Tensor, low: torch.Tensor, given: torch.Tensor, sizes: list[int], parts: list[LowRank | None]
    ) -> torch.Tensor:
        """Return the output with DoRA's magnitudes.  As in PEFT, dropout also applies to the frozen part's change."""
        from peft.utils.integrations import dequantize_module_weight

        shared = dequantize_module_weight(self.base).to(low.dtype)
        pieces = []
        for part, whole, own, dropped in zip(parts, result.split(sizes), low.split(sizes), given.split(sizes), strict=True):
            if part is None or part.magnitude is None:
                pieces.append(whole + own)
                continue
            with torch.no_grad():
                norm = torch.addmm(shared, part.b, part.a, alpha=part.scaling).norm(dim=1)
            scale = part.magnitude / norm
            if part.dropout and self.training:
                frozen = functional.linear(dropped, shared)
            else:
                frozen = whole if self.base.bias is None else whole - self.base.bias
            pieces.append(whole + (scale - 1) * frozen + scale * own)
        return torch.cat(pieces)


def _less_taken(out: torch.Tensor, x: torch.Tensor, sizes: list[int], parts: list[LowRank | None]) -> torch.Tensor:
    """Return out [n, out] minus s·B₀·A₀·x, for the members whose factors saw x after dropout."""
    pieces = []
    for part, piece, rows in zip(parts, out.split(sizes), x.split(sizes), strict=True):
        if part is None or part.taken is None or not part.is_taken_apart:
            pieces.append(piece)
        else:
            a, b = part.taken
            pieces.append((piece - part.scaling * (rows.to(a.dtype) @ a.t()) @ b.t()).to(piece.dtype))
    return torch.cat(pieces)


def _own_columns(sizes: list[int], columns: list[tuple[int, float, int]], like: torch.Tensor) -> torch.Tensor:
    """[positions, all ranks]: the scaling of a position's member in that member's columns, else zero."""
    places = torch.repeat_interleave(torch.tensor(sizes)).to(like.device)
    ranks = torch.tensor([rank for _, _, rank in columns])
    owners = torch.repeat_interleave(torch.tensor([place for place, _, _ in columns]), ranks).to(like.device)
    scales = torch.repeat_interleave(torch.tensor([scaling for _, scaling, _ in columns]), ranks).to(like)
    return (places[:, None] == owners) * scales


class _ByRows(torch.autograd.Function):
    """Multiply pieces of x [n, in], of the given sizes, each by its own weight, without copying rows.

    own: weight W + s·B·A, A and B of each piece.  A and B are None if the weight receives the gradient.  Otherwise they
    receive it directly: the weight's gradient would cost as much as another pass.
    """

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, bias: torch.Tensor | None, sizes: list[int], scalings: list[float], *own: Any
    ) -> torch.Tensor:
        weights = own[::3]
        out = x.new_empty(len(x), len(weights[0]))
        for piece, weight, place in zip(x.split(sizes), weights, out.split(sizes), strict=True):
            torch.mm(piece, weight.t(), out=place) if bias is None else torch.addmm(bias, piece, weight.t(), out=place)
        ctx.save_for_backward(x, *own)
        ctx.sizes, ctx.scalings = sizes, scalings
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        x, *own = ctx.saved_tensors
        pieces, rows = gradients[0].split(ctx.sizes), x.split(ctx.sizes)
        to_x = None
        if ctx.needs_input_grad[0]:
            to_x = torch.empty_like(x)
            for piece, weight, place in zip(pieces, own[::3], to_x.split(ctx.sizes), strict=True):
                torch.mm(piece, weight, out=place)
        to_own: list[torch.Tensor | None] = []
        for number, (piece, seen, scaling) in enumerate(zip(pieces, rows, ctx.scalings, strict=True)):
            a, b = own[3 * number + 1 : 3 * number + 3]
            to_own.append(piece.t() @ seen if ctx.needs_input_grad[4 + 3 * number] else None)
            if a is None:
                to_own += [None, None]
            else:  # [r, n] first: on CPUs [n, r] takes up to eight times as long
                to_own.append(((b.t() @ piece.t()) @ seen).mul_(scaling))
                to_own.append(((a @ seen.t()) @ piece).mul_(scaling).t())
        return to_x, None, None, None, *to_own


class OwnModules(torch.nn.Module):
    """A layer that each member trains fully, such as a classifier head.  Each row uses its member's copy."""

    def __init__(self, copies: dict[int, torch.nn.Module], layout: Layout):
        super().__init__()
        self.copies = torch.nn.ModuleDict({str(member): copy for member, copy in copies.items()})
        self.layout = layout

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """x [rows of all members, ...]."""
        pieces = x.split([rows for rows, _ in self.layout.shapes])
        return torch.cat(
            [self.copies[str(member)](piece, *args, **kwargs) for member, piece in zip(self.layout.members, pieces, strict=True)]
        )
