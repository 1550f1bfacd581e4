"""Rules of plugins that the contract and a grid check alike, in the words that both say.

`benchmark.contract` has those that only it checks.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

import torch
from torch import Tensor, nn

from sau_bench.benchmark.data import Dataset, Images, Task
from sau_bench.benchmark.errors import listed, shown

SLACK = 1e-5
"""How far a trigger may leave [0, 1]: the rounding of a few operations in float32. Far below one
level of 8 bits, 4e-3, to which triggered images are cut anyway."""
GLOBAL_STATE = "a plugin leaves global state alone"
UNTOUCHED = "a method leaves its data untouched"
CLASSIFIER = "a model is a Classifier"
ONE_LOGIT = "a model gives one logit for each class"
SILENT = "a plugin prints nothing"
SEED = "a method draws from the generators of its run, which have the run's seed"

_checked: ContextVar[list[str] | None] = ContextVar("checked", default=None)


class BrokenRule(AssertionError):
    """A plugin breaks a rule; `rule` names it. line: of the plugin's file, where it is known."""

    def __init__(self, rule: str, detail: str = "", line: int | None = None) -> None:
        super().__init__(f"{rule}: {detail}" if detail else rule)
        self.rule, self.detail, self.line = rule, detail, line


def require(holds: bool, rule: str, detail: str = "", line: int | None = None) -> None:
    """Raises: BrokenRule: the rule does not hold."""
    if not holds:
        raise BrokenRule(rule, detail, line)
    if (rules := _checked.get()) is not None and rule not in rules:
        rules.append(rule)


@contextmanager
def counted() -> Iterator[list[str]]:
    """Yields a list of the rules that `require` finds kept inside the block, each once."""
    rules: list[str] = []
    token = _checked.set(rules)
    try:
        yield rules
    finally:
        _checked.reset(token)


def check_parameters(attack: object) -> None:
    """How the `__call__` of an attack can be called."""
    arguments = ["model", "train", "rows", "recipe", "asset"]
    parameters = list(inspect.signature(type(attack).__call__).parameters)[1:]
    detail = f"its parameters are {listed(parameters)}"
    taken = parameters in (arguments, [*arguments, "loss"])
    require(taken, "an attack takes model, train, rows, recipe, asset", detail)


def check_trigger(trigger: object, parts: int, triggers: tuple[object, ...]) -> None:
    """What an attack has returned. parts: how many the attack has; triggers: of each."""
    detail = f"`__call__` returned {described(trigger)}; end it with `return self.trigger`"
    if inspect.isgenerator(trigger):
        detail = "it returned a generator; train in place without `yield`, then return the trigger"
    require(all(map(callable, (trigger, *triggers))), "an attack returns its trigger", detail)
    detail = f"{len(triggers)} triggers for {parts} parts"
    require(len(triggers) == parts, "an attack returns a trigger for each of its parts", detail)


def check_stamped(x: Tensor, triggered: object) -> None:
    """What a trigger has made of images x, float (B, C, H, W) in [0, 1]; one pass over it."""
    detail = f"it returned {described(triggered)}"
    require(isinstance(triggered, Tensor), "a trigger returns images", detail)
    assert isinstance(triggered, Tensor)
    same = triggered.shape == x.shape and triggered.dtype == x.dtype
    detail = f"{_form(x)} became {_form(triggered)}"
    require(same, "a trigger keeps shape and type of its images", detail)
    if not triggered.numel():
        return
    low, high = (float(end) for end in triggered.detach().aminmax())  # NaN where any value is
    found = f"values from {low:.3g} to {high:.3g}" if low == low else "values that are not finite"
    inside = low >= -SLACK and high <= 1 + SLACK
    require(inside, "a trigger stays in [0, 1]", f"{found}; end it with `.clamp(0, 1)`")


def check_wanted(wanted: object, y: Tensor, num_classes: int) -> None:
    """What an attack wants images of classes y, int64 (B,), to be taken for."""
    detail = f"`relabel` returned {described(wanted)}, accepted: int64 {tuple(y.shape)}"
    fits = isinstance(wanted, Tensor) and wanted.shape == y.shape and wanted.dtype == y.dtype
    require(fits, "labels are classes", detail)
    assert isinstance(wanted, Tensor)
    if len(wanted):
        low, high = (int(end) for end in wanted.aminmax())
        detail = f"{low} to {high}, accepted: 0 to {num_classes - 1}"
        require(low >= 0 and high < num_classes, "labels are classes", detail)


def check_poisoned_set(poisoned: Images, train: Images) -> None:
    """What the `poisoned_set` of an attack has made of the training set."""
    detail = f"{_form(poisoned.x)}, accepted: {_form(train.x)}"
    complete = poisoned.x.shape == train.x.shape and poisoned.x.dtype == train.x.dtype
    complete = complete and poisoned.y.shape == train.y.shape
    require(complete, "a poisoned training set has all images", detail)


def check_task(dataset: Dataset, task: object) -> None:
    """What the `__call__` of a dataset has returned."""
    detail = f"`__call__` returned {described(task)}; write `return Task(train, test)`"
    require(isinstance(task, Task), "a dataset returns its two splits", detail)
    assert isinstance(task, Task)
    wanted = torch.arange(dataset.num_classes)
    for split in (task.train, task.test):
        x, y = split.x, split.y
        detail = f"{_form(x)}, accepted: uint8 {(len(y), *dataset.shape)}"
        good = x.dtype == torch.uint8 and x.shape == (len(y), *dataset.shape)
        require(good, "images are uint8 tensors of the declared shape", detail)
        detail = f"{_form(y)} with {len(found := y.unique())} classes"
        detail += f", accepted: int64 with all of 0 to {dataset.num_classes - 1}"
        classes = y.dtype == torch.int64 and torch.equal(found, wanted)
        require(classes, "labels are int64 and every class occurs", detail)
        flips = f"they say {split.flips}, the dataset {dataset.flips}"
        require(split.flips == dataset.flips, "splits say whether they may be flipped", flips)


def check_steps(steps: object) -> None:
    """What the `__call__` of a defense has returned."""
    rule = "a defense yields its models"
    detail = f"`__call__` returned {described(steps)} and yielded nothing; write `yield model`"
    require(isinstance(steps, Iterator), rule, detail)


def yielded(kind: str, result: object, steps: object) -> tuple[float | None, nn.Module]:
    """The setting and the model of what a defense has yielded; rounds have no setting.

    kind: "rounds" or "candidates". steps: the generator, for the line of the `yield`.
    """
    line = getattr(getattr(steps, "gi_frame", None), "f_lineno", None)
    what = f"it yielded {described(result)}" + (f" in line {line} of its file" if line else "")
    if kind == "candidates":
        pair = isinstance(result, tuple) and len(result) == 2
        good = pair and isinstance(result[0], float) and isinstance(result[1], nn.Module)  # type: ignore[index]
        rule = "candidates are pairs of a setting and a model"
        require(good, rule, f"{what}; write `yield setting, model`, the setting a float", line)
        assert isinstance(result, tuple)
        return result
    require(isinstance(result, nn.Module), "rounds are models", f"{what}; yield the model", line)
    assert isinstance(result, nn.Module)
    return None, result


def described(value: object) -> str:
    """A value that a plugin has handed over, in a few words."""
    if value is None or isinstance(value, bool | str):
        return shown(value)
    if isinstance(value, int | float):
        return f"a number ({shown(value)})"
    if isinstance(value, Tensor):
        return f"a tensor, {_form(value)}"
    if isinstance(value, nn.Module):
        return f"a model ({type(value).__name__})"
    if isinstance(value, Mapping):
        weights = value and all(isinstance(entry, Tensor) for entry in value.values())
        return "a state dict" if weights else "a mapping"
    if isinstance(value, tuple):
        return f"a tuple ({listed(map(described, value), 100)})"
    return f"a {type(value).__name__}"


def told_of(printed: str) -> str:
    """What to say of a text that a plugin has printed."""
    return f"it printed {shown(printed)}; use `logging` or `benchmark.notes.note`"


def seed_changed(seed: int) -> bool:
    """Whether torch's generator was seeded anew since it was with this seed."""
    return torch.initial_seed() != seed


def file_of(cls: type) -> Path:
    return Path(inspect.getfile(cls))


def _form(x: Tensor) -> str:
    return f"{str(x.dtype).removeprefix('torch.')} {tuple(x.shape)}"
