"""Shared by the tests of jobs: the smallest victim."""

import torch

from sau_bench.attacks.badnets import BadNets
from sau_bench.benchmark.datasets.digits import Digits
from sau_bench.benchmark.jobs.job import AttackJob
from sau_bench.benchmark.train import Recipe
from sau_bench.models.small_cnn import SmallCNN

CPU = torch.device("cpu")
VICTIM = AttackJob(
    dataset=Digits(),
    architecture=SmallCNN(width=4),
    attack=BadNets(),
    recipe=Recipe(epochs=1, lr=0.05),
    seed=0,
)
