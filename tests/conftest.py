"""Shared by all tests: one thread, so that timings and float sums do not depend on the machine."""

import torch

torch.set_num_threads(1)
