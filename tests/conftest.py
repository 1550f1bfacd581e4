"""Shared by all tests: one thread, so that timings and float sums do not depend on the machine."""

import pytest
import torch
from clusters import Cluster

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    """A Dask cluster of two workers, started apart, that see a device each."""
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    try:
        for device in ("5", "7"):
            cluster.worker(CUDA_VISIBLE_DEVICES=device)
        yield cluster
    finally:
        cluster.close()
