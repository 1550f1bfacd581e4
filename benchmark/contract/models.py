"""What every architecture promises."""

from __future__ import annotations

import copy
from pathlib import Path

import torch

from sau_bench.benchmark.contract.world import make_digits, same_weights
from sau_bench.benchmark.jobs.networks import network_of
from sau_bench.benchmark.rules import ONE_LOGIT, require
from sau_bench.models.classifier import Architecture


def check_model(architecture: Architecture) -> None:
    digits = make_digits()
    torch.manual_seed(0)
    model = network_of(architecture, digits)
    model.eval()
    torch.manual_seed(0)
    require(same_weights(model, architecture(digits)), "a model is drawn from torch's generator")
    x = digits(Path()).test.floats(slice(4))
    logits = model(x)
    require(logits.shape == (4, digits.num_classes), ONE_LOGIT, f"{tuple(logits.shape)} of 4")
    require(torch.equal(model.mean.flatten(), torch.tensor(digits.mean)), "a model normalises")
    outputs = model.features(x, *model.stages, "penultimate", "flat")
    require(torch.equal(outputs["logits"], logits), "features and logits come from one pass")
    rebuilt = model.head(outputs["penultimate"]).float()
    require(torch.allclose(rebuilt, logits, atol=1e-5), "the head is the last layer")
    rebuilt = model.classifier(outputs["flat"]).float()
    require(torch.allclose(rebuilt, logits, atol=1e-5), "the classifier gives the logits")
    require(same_weights(model, copy.deepcopy(model)), "a model can be copied")
