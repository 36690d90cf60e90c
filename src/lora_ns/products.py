"""Matrix products of a training on AMD's processors by OpenBLAS, which numpy brings: torch brings MKL, which is slower there.

Products of float32 in one thread, from a size on; what is smaller, in another precision or shared out over threads stays
torch's.  It is settled by the processor, never by a measurement, so that a run gives the same bits on the same machine.
Answers are not computed so: with MKL a row's hang on that row alone, with OpenBLAS their last bits on the rows beside it.
"""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any

import numpy as np
import torch

from lora_ns.record import of_processor

FEWEST_ROWS = 32
"""Also of columns that are summed over."""
LEAST_MULTIPLICATIONS = 1 << 23
"""Below either MKL is as quick, and calling from Python costs more than is gained."""


class _Kernels:
    """In place of torch's own, process-wide, until they are taken away; what they leave goes on to those."""

    def __init__(self) -> None:
        from threadpoolctl import threadpool_limits

        self._limits = threadpool_limits(1, user_api="blas")
        self._torchs = {name: torch.library.get_kernel(f"aten::{name}", "CPU") for name in ("mm", "mm.out", "addmm")}
        self._library = torch.library.Library("aten", "IMPL")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # torch says that something is overridden
            for name, kernel in (("mm", self._mm), ("mm.out", self._mm_out), ("addmm", self._addmm)):
                self._library.impl(name, kernel, "CPU", with_keyset=True, allow_override=True)

    def take_away(self) -> None:
        self._library._destroy()
        self._limits.restore_original_limits()

    def _mm(self, keys: Any, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return _product(x, y) if _gains(x, y) else self._torchs["mm"].call_boxed(keys, x, y)

    def _mm_out(self, keys: Any, x: torch.Tensor, y: torch.Tensor, *, out: torch.Tensor) -> torch.Tensor:
        if not (_gains(x, y) and _fits(out, x, y)):
            return self._torchs["mm.out"].call_boxed(keys, x, y, out=out)
        return _multiply(x, y, out)

    def _addmm(
        self, keys: Any, bias: torch.Tensor, x: torch.Tensor, y: torch.Tensor, *, beta: Any = 1, alpha: Any = 1
    ) -> torch.Tensor:
        if not (_gains(x, y) and beta == alpha == 1 and bias.shape == y.shape[1:] and bias.dtype is torch.float32):
            return self._torchs["addmm"].call_boxed(keys, bias, x, y, beta=beta, alpha=alpha)
        return _product(x, y).add_(bias)


_kernels: _Kernels | None = None


def settle(wanted: bool) -> None:
    """Has this process multiply as it is quickest, where that is known; or, not wanted, as torch comes.

    No other thread may be multiplying meanwhile.
    """
    global _kernels
    wanted = wanted and torch.get_num_threads() == 1 and quicker() is not None
    if wanted and _kernels is None:
        _kernels = _Kernels()
    elif _kernels is not None and not wanted:
        _kernels.take_away()
        _kernels = None


def library() -> str:
    """Which library multiplies on this process's processor now, for the record."""
    return (quicker() or "torch") if _kernels is not None and torch.get_num_threads() == 1 else "torch"


@cache
def quicker() -> str | None:
    """The library that is quicker here than torch's, with what of it is used; None where none is known."""
    if of_processor("vendor_id") != "AuthenticAMD" or not torch.backends.mkl.is_available():
        return None
    from threadpoolctl import threadpool_info

    found = [library for library in threadpool_info() if library["internal_api"] == "openblas"]
    if not found:
        return None
    numpys = min(found, key=lambda library: "numpy" not in library["filepath"])  # scipy brings one of its own
    return f"OpenBLAS {numpys['version']} ({numpys['architecture']})"


def _gains(x: torch.Tensor, y: torch.Tensor) -> bool:
    """Whether x [n, k] times y [k, m] is work enough for a matrix product in one thread, and lies as a BLAS takes it."""
    if x.dim() != 2 or y.dim() != 2:
        return False
    (rows, inner), (summed, columns) = x.shape, y.shape
    return (
        rows * inner * columns >= LEAST_MULTIPLICATIONS
        and min(rows, inner) >= FEWEST_ROWS
        and inner == summed
        and x.dtype is y.dtype is torch.float32
        and _is_plain(x)
        and _is_plain(y)
        and torch.get_num_threads() == 1
    )


def _is_plain(matrix: torch.Tensor) -> bool:
    """Whether its rows or its columns are whole, one behind the other; numpy multiplies others by itself, slowly."""
    (rows, columns), (down, right) = matrix.shape, matrix.stride()
    return (right == 1 and down >= columns) or (down == 1 and right >= rows)


def _fits(out: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> bool:
    return out.dtype is torch.float32 and out.shape == (x.size(0), y.size(1)) and out.is_contiguous()


def _product(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return _multiply(x, y, x.new_empty(x.size(0), y.size(1)))


def _multiply(x: torch.Tensor, y: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    with np.errstate(all="ignore"):  # what is not finite goes on as such
        np.matmul(_array(x), _array(y), out=_array(out))
    return out


def _array(matrix: torch.Tensor) -> Any:
    """The same memory; `.numpy()` would keep torch from ever giving it another size."""
    return np.from_dlpack(matrix.detach())
