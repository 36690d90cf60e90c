"""GPU models by name, with the vendors' figures (dense, without sparsity)."""

from typing import NamedTuple


class Gpu(NamedTuple):
    """Data-sheet figures of one GPU model."""

    gibibytes: float
    """Memory [GiB]."""
    float32: float
    """TFLOP/s without tensor cores."""
    half: float
    """TFLOP/s of half precision with tensor cores."""
    gigabytes_a_second: float
    """Memory bandwidth [GB/s]."""
    bfloat16: bool = True
    """Whether the GPU supports bfloat16."""


DATA_SHEETS = {
    "t4": Gpu(15, 8.1, 65, 320, bfloat16=False),
    "v100": Gpu(32, 15.7, 125, 900, bfloat16=False),
    "rtx3090": Gpu(24, 35.6, 71, 936),
    "rtx4090": Gpu(24, 82.6, 165, 1008),
    "a10": Gpu(24, 31.2, 125, 600),
    "l4": Gpu(24, 30.3, 121, 300),
    "l40s": Gpu(48, 91.6, 362, 864),
    "a100-40gb": Gpu(40, 19.5, 312, 1555),
    "a100-80gb": Gpu(80, 19.5, 312, 2039),
    "h100": Gpu(80, 67, 989, 3350),
    "h200": Gpu(141, 67, 989, 4800),
}
