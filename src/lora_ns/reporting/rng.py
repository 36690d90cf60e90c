"""Random generators for bootstrap and permutation tests, seeded per table cell and so independent of other cells."""

import zlib

import numpy as np

SEED = 0


def generator(*place: str) -> np.random.Generator:
    """Return the generator of one cell, seeded by SEED and the cell's names."""
    return np.random.default_rng([SEED, zlib.crc32("\0".join(place).encode())])
