"""Matrix products of float32 numbers that a processor multiplies as bfloat16 (AMX, AVX-512 BF16).

Weights, activations and sums stay float32; only what enters a product is rounded to 8 bits. Of large products that is up
to four times as fast, of a few rows it is slower: so prompts are read in it, and tokens decoded without.
"""

from __future__ import annotations

import math
import timeit
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Literal

import torch

WORTH = 1.5
"""Times by which bfloat16 has to be faster: it costs digits, and a machine's timings scatter."""
_ROWS, _SIDE = 512, 1024  # of the product that is tried

Products = Literal["float32", "bfloat16"]


@contextmanager
def multiplied_as(products: Products) -> Iterator[None]:
    """For the length of a block, the CPU multiplies float32 matrices so (in the whole process); other devices as ever."""
    matmul = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]  # made at run time
    before = matmul.fp32_precision
    matmul.fp32_precision = "bf16" if products == "bfloat16" else "ieee"
    try:
        yield
    finally:
        matmul.fp32_precision = before


@lru_cache(maxsize=1)
def fastest_products() -> Products:
    """ "bfloat16" where this processor takes that much less time with it (`WORTH`): the best of ten products of each, in turn."""
    rows, square = torch.ones(_ROWS, _SIDE), torch.ones(_SIDE, _SIDE)
    took: dict[Products, float] = {"float32": math.inf, "bfloat16": math.inf}
    for _ in range(10):
        for products in took:
            with multiplied_as(products), torch.inference_mode():
                took[products] = min(took[products], timeit.timeit(lambda: rows @ square, number=1))
    return "bfloat16" if took["bfloat16"] * WORTH < took["float32"] else "float32"
