"""Unbiased estimate of pass@k from n samples, c of which pass: the chance that at least one of k passes.

    n = 5 samples, c = 2 pass:   pass@1 = 0.4   pass@2 = 0.7   pass@5 = 1.0

Source: Chen et al. 2021 (arXiv 2107.03374), equation 1, in the numerically stable form of its figure 3.
"""

import math

from lora_ns.errors import ConfigError


def pass_at_k(n: int, c: int, k: int) -> float:
    """Return pass@k = 1 − C(n−c, k)/C(n, k) = 1 − ∏_{i=n−c+1}^{n} (1 − k/i); 1 if fewer than k samples fail.

    n: samples drawn; c: samples that pass, 0 … n; k: 1 … n.  Raises ConfigError for a k above n or below 1.
    """
    if not 0 <= c <= n:
        raise ValueError(f"{c} of {n} samples cannot pass.")
    if not 1 <= k <= n:
        raise ConfigError(f"pass@{k} needs at least {max(k, 1)} samples of each problem, and {n} were drawn.")
    if n - c < k:
        return 1.0
    return 1.0 - math.prod(1.0 - k / i for i in range(n - c + 1, n + 1))
