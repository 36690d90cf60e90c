"""Matrix products on AMD's processors by OpenBLAS, which numpy brings, in place of torch's MKL, which is slower there.

Products of float32 in one thread, from a size on; what is smaller, in another precision or shared out over threads stays
torch's.  It is settled by the processor alone, never by a measurement, so that the same machine gives the same bits.
"""

from __future__ import annotations

import warnings
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

FEWEST_ROWS = 32
LEAST_MULTIPLICATIONS = 1 << 22
"""Below either MKL is as quick, and calling from Python costs more than is gained."""


class _Kernels:
    """In place of torch's own for as long as this lives, process-wide; what they leave goes on to those."""

    def __init__(self) -> None:
        from threadpoolctl import threadpool_limits

        threadpool_limits(1, user_api="blas")
        self.wanted = True
        self._torchs = {name: torch.library.get_kernel(f"aten::{name}", "CPU") for name in ("mm", "mm.out", "addmm")}
        self._library = torch.library.Library("aten", "IMPL")
        for name, kernel in (("mm", self._mm), ("mm.out", self._mm_out), ("addmm", self._addmm)):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # torch says that something is overridden
                self._library.impl(name, kernel, "CPU", with_keyset=True, allow_override=True)

    @property
    def is_on(self) -> bool:
        return self.wanted and torch.get_num_threads() == 1

    def _mm(self, keys: Any, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        if not (self.is_on and _gains(x, y)):
            return self._torchs["mm"].call_boxed(keys, x, y)
        return torch.from_numpy(np.matmul(_array(x), _array(y)))

    def _mm_out(self, keys: Any, x: torch.Tensor, y: torch.Tensor, *, out: torch.Tensor) -> torch.Tensor:
        fits = out.dtype is torch.float32 and out.shape == (x.size(0), y.size(1)) and out.is_contiguous()
        if not (self.is_on and fits and _gains(x, y)):
            return self._torchs["mm.out"].call_boxed(keys, x, y, out=out)
        np.matmul(_array(x), _array(y), out=_array(out))
        return out

    def _addmm(
        self, keys: Any, bias: torch.Tensor, x: torch.Tensor, y: torch.Tensor, *, beta: Any = 1, alpha: Any = 1
    ) -> torch.Tensor:
        is_plain = beta == alpha == 1 and bias.shape == y.shape[1:] and bias.dtype is torch.float32
        if not (self.is_on and is_plain and _gains(x, y)):
            return self._torchs["addmm"].call_boxed(keys, bias, x, y, beta=beta, alpha=alpha)
        return torch.from_numpy(np.matmul(_array(x), _array(y))).add_(bias)


_kernels: _Kernels | None = None


def settle(wanted: bool = True) -> None:
    """Has this process multiply as it is quickest, where that is known; or, not wanted, as torch comes."""
    global _kernels
    if _kernels is None and wanted and _is_quicker():
        _kernels = _Kernels()
    if _kernels is not None:
        _kernels.wanted = wanted


def library() -> str:
    """Which library multiplies in this process now, for the record."""
    blas = _blas_of_numpy()
    return f"{blas['name']} {blas['version']}" if _kernels is not None and _kernels.is_on else "torch"


@cache
def _is_quicker() -> bool:
    return _vendor() == "AuthenticAMD" and torch.backends.mkl.is_available() and "openblas" in _blas_of_numpy()["name"]


def _vendor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("vendor_id")), "")


@cache
def _blas_of_numpy() -> dict[str, str]:
    built: Any = np.show_config(mode="dicts")
    return {"name": "", "version": "", **built["Build Dependencies"]["blas"]}


def _gains(x: torch.Tensor, y: torch.Tensor) -> bool:
    """Whether x [n, k] times y [k, m] is work enough, and lies as a BLAS takes it."""
    rows, inner = x.shape
    return (
        rows >= FEWEST_ROWS
        and inner == y.size(0)
        and rows * inner * y.size(1) >= LEAST_MULTIPLICATIONS
        and x.dtype is y.dtype is torch.float32
        and _is_plain(x)
        and _is_plain(y)
    )


def _is_plain(matrix: torch.Tensor) -> bool:
    """Whether its rows or its columns are whole, one behind the other; numpy multiplies others by itself, slowly."""
    (rows, columns), (down, right) = matrix.shape, matrix.stride()
    return (right == 1 and down >= columns) or (down == 1 and right >= rows)


def _array(matrix: torch.Tensor) -> Any:
    return matrix.detach().numpy()
