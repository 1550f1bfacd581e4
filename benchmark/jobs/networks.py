"""The networks of jobs: fresh, trained, and defended."""

from __future__ import annotations

import torch
from torch import Tensor

from sau_bench.benchmark.data import Dataset
from sau_bench.benchmark.errors import InputError, listed
from sau_bench.benchmark.jobs.job import AssetJob, AttackJob, DefenseJob
from sau_bench.benchmark.jobs.results import Store
from sau_bench.benchmark.jobs.weights import restore, steps_of
from sau_bench.benchmark.rules import CLASSIFIER, ONE_LOGIT, described, require
from sau_bench.models.classifier import Architecture, Classifier


def make_model(job: AssetJob | AttackJob, device: torch.device) -> Classifier:
    """The freshly initialised network of a job."""
    # Channels last is the faster layout for convolutions, on a CPU by a fifth (see measurements/).
    return (
        network_of(job.architecture, job.dataset).to(device).to(memory_format=torch.channels_last)
    )


def network_of(architecture: Architecture, dataset: Dataset) -> Classifier:
    """The network of an architecture for a dataset, on the CPU.

    Raises:
        BrokenRule: it is no `Classifier`, or not one of the dataset's classes.
    """
    model: object = architecture(dataset)
    detail = f"`__call__` returned {described(model)}; wrap the network in a `Classifier`"
    require(isinstance(model, Classifier), CLASSIFIER, detail)
    assert isinstance(model, Classifier)
    detail = f"its head has {model.num_classes} outputs, the dataset {dataset.num_classes} classes"
    require(model.num_classes == dataset.num_classes, ONE_LOGIT, detail)
    return model


def load_victim(
    job: AttackJob, store: Store, device: torch.device
) -> tuple[Classifier, dict[str, Tensor]]:
    """The trained model of a finished job, and the tensors beside its weights."""
    tensors = store.tensors(job.key, str(device))
    model = make_model(job, device)
    weights = {name: tensors.pop(f"model.{name}") for name in model.state_dict()}
    model.load_state_dict(weights)
    return model, tensors


def load_defended(
    job: DefenseJob, store: Store, device: torch.device, step: int | None = None
) -> Classifier:
    """The model that a finished job with `keep` has kept.

    step: of the round or candidate; by default the only one that was kept.

    Raises:
        InputError: the job has kept no such step.
    """
    model, _ = load_victim(job.victim, store, device)
    tensors = store.tensors(job.key, str(device)) if job.keep else {}
    steps = steps_of(tensors)
    if step is None and len(steps) == 1:
        (step,) = steps
    if step not in steps:
        accepted = listed(map(str, steps)) or "none, run it with `keep: [defended]` in the config"
        raise InputError(f"{job}: step is {step}; kept: {accepted}")
    restore(model, tensors, step)
    return model
