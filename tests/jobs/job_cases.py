"""Shared by the tests of jobs: the smallest victim."""

import torch

from attacks.badnets import BadNets
from benchmark.datasets.digits import Digits
from benchmark.jobs.job import AttackJob
from benchmark.train import Recipe
from models.small_cnn import SmallCNN

CPU = torch.device("cpu")
VICTIM = AttackJob(
    dataset=Digits(),
    architecture=SmallCNN(width=4),
    attack=BadNets(),
    recipe=Recipe(epochs=1, lr=0.05),
    seed=0,
)
