"""SIG's sinusoid, against the formula of the paper (arXiv 1902.11237)."""

import numpy as np
import torch
from attack_cases import constant
from torch import Tensor

from sau_bench.attacks.sig import SIG
from sau_bench.benchmark.data import to_uint8


def test_sig_signal_is_that_of_the_paper() -> None:
    signal = SIG().signal(32)
    first = torch.tensor([0.0, 36.955, 28.284, -15.307, -40.0, -15.307, 28.284, 36.955])
    assert torch.allclose(signal[:8], first, atol=1e-3)
    assert signal[:16].sum().abs() < 1e-4
    assert torch.allclose(SIG().signal(64)[::2], signal, atol=1e-4)


def test_sig_truncates_the_clipped_sum_and_varies_along_columns(noise: Tensor) -> None:
    v = np.round(40 * np.sin(2 * np.pi * np.arange(32) * 6 / 32), 6)
    exact = np.floor(np.clip(np.round(noise.numpy().astype(np.float64) * 255) + v, 0, 255))
    assert np.array_equal(to_uint8(SIG().trigger(noise)).numpy(), exact)
    grey = SIG().trigger(constant(128, 32))[0]
    assert torch.equal(grey, grey[:1, :1].expand(3, 32, 32)) and grey[0, 0].unique().numel() > 4
