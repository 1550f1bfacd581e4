"""What the device can do at most: products of large matrices, copies of large tensors."""

from __future__ import annotations

from functools import partial

import torch
from torch.nn import functional as F

from measurements.bench.turns import repeated
from sau_bench.benchmark.train import Precision

SIZES = {"cpu": (1024, 2048, 4096), "cuda": (4096, 8192, 16384)}
"""Rows of the square matrices."""
COPIED = 2**27
"""Bytes of the tensor that is copied: more than caches hold."""


def precisions(device: torch.device) -> tuple[Precision, ...]:
    return ("fp32", "tf32", "bf16") if device.type == "cuda" else ("fp32", "bf16")


def matrix_product(kind: str, device: torch.device, seconds: float) -> float:
    """GFLOP/s of the fastest product of two square matrices. kind: fp32, tf32 or bf16.

    Once as a product and once as a convolution of 1 x 1, because two libraries compute these on a
    CPU, and either may be the slower one.
    """
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = kind == "tf32"
    best = 0.0
    try:
        for size in SIZES[device.type] if seconds >= 1 else SIZES[device.type][:1]:
            dtype = torch.bfloat16 if kind == "bf16" else torch.float32
            a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
            images = a.view(size // 64, 8, 8, size).permute(0, 3, 1, 2)  # channels last
            weight = b.view(size, size, 1, 1)
            for product in (partial(torch.mm, a, b), partial(F.conv2d, images, weight)):
                taken = repeated(product, seconds / 6, device)
                best = max(best, 2 * size**3 / min(taken) / 1e9)
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
    return best


def copy_bandwidth(device: torch.device, seconds: float) -> float:
    """GB/s, bytes read and bytes written, of the fastest copy of a large tensor."""
    source = torch.zeros(COPIED, dtype=torch.uint8, device=device)
    target = torch.ones_like(source)
    taken = repeated(lambda: target.copy_(source), seconds, device)
    return 2 * COPIED / min(taken) / 1e9
