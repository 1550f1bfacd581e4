"""What every plugin promises, as checks that run on any plugin class.

`check(kind, cls)` runs a plugin with its `smoke` fields on a few digits and raises at the first
broken rule. The project's tests call it for each plugin file found; an out-of-tree plugin's tests
can call it in the same way.
"""

from __future__ import annotations

import ast
import copy
import inspect
import json
import pickle
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from attacks.base import Attack, Training, Trigger
from benchmark.checkpoint import checkpoints
from benchmark.data import Dataset, Images
from benchmark.datasets.digits import Digits
from benchmark.errors import InputError
from benchmark.plugin import KINDS, Plugin, construct, key_of, keys
from benchmark.train import Recipe, fit
from defenses.base import Defense, NotApplicable
from models.classifier import Architecture, Classifier
from models.small_cnn import SmallCNN


class BrokenRule(AssertionError):
    """A plugin breaks its contract; `rule` names how."""

    def __init__(self, rule: str, detail: str = "") -> None:
        super().__init__(f"{rule}: {detail}" if detail else rule)
        self.rule = rule


def check(kind: str, cls: type[Plugin]) -> None:
    """Check one plugin class of a kind ("attacks", "defenses", "models", "datasets").

    Raises:
        BrokenRule: the first rule it breaks.
    """
    plugin = _check_class(kind, cls)
    checks: dict[str, Callable[[Any], None]] = {
        "attacks": _check_attack,
        "defenses": _check_defense,
        "models": _check_model,
        "datasets": _check_dataset,
    }
    checks[kind](plugin)


def _require(holds: bool, rule: str, detail: str = "") -> None:
    if not holds:
        raise BrokenRule(rule, detail)


def _check_class(kind: str, cls: type[Plugin]) -> Plugin:
    document = cls.__doc__ or ""
    for field in fields(cls):
        inherited = any(
            field.name in getattr(base, "__annotations__", {}) for base in cls.__mro__[1:]
        )
        named = inherited or field.name in document
        _require(named, "every field is documented", field.name)
    try:
        plugin: Plugin = construct(cls, dict(cls.smoke), cls.__name__)
        construct(cls, {}, cls.__name__)
    except InputError as error:
        raise BrokenRule("defaults and smoke values are valid fields", str(error)) from error
    _require(pickle.loads(pickle.dumps(plugin)) == plugin, "a plugin survives pickling")
    _require(hash(plugin) == hash(copy.deepcopy(plugin)), "a plugin is a value")
    text = json.dumps(plugin.canonical())
    _require(str(Path(__file__).parent.parent) not in text, "no path enters the key", text)
    others = {f"{KINDS[k]}.{key}" for k in KINDS for key in keys(k)} - {cls.__module__}
    for module in _imports(Path(inspect.getfile(cls))):
        _require(module not in others, "a plugin imports no other plugin", module)
    return plugin


def _imports(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@dataclass(frozen=True)
class _World:
    """A few digits and a small classifier, the same at every call."""

    train: Images
    test: Images
    model: Classifier


def _world() -> _World:
    torch.manual_seed(0)
    digits = Digits()
    task = digits(Path())
    train = task.train[torch.arange(len(task.train)) < 96]
    return _World(train, task.test[torch.arange(len(task.test)) < 16], SmallCNN(width=8)(digits))


def _start_attack(attack: Attack, recipe: Recipe) -> tuple[Training, _World]:
    world = _world()
    rows = attack.draw(world.train.y, seed=0)
    return attack(world.model, world.train, rows, recipe), world


def _run_attack(attack: Attack, recipe: Recipe) -> tuple[Trigger, _World]:
    training, world = _start_attack(attack, recipe)
    before = world.train.x.clone(), world.train.y.clone()
    models = 0
    while True:
        try:
            _require(isinstance(next(training), nn.Module), "an attack yields the model")
        except StopIteration as stop:
            trigger = stop.value
            break
        models += 1
    _require(models > 0, "an attack yields the model", "after each epoch")
    _require(callable(trigger), "an attack returns its trigger", repr(trigger))
    same = torch.equal(before[0], world.train.x) and torch.equal(before[1], world.train.y)
    _require(same, "an attack leaves its data untouched")
    return cast(Trigger, trigger), world


def _resume_attack(attack: Attack, recipe: Recipe) -> tuple[Trigger, _World]:
    """As `_run_attack`, but interrupted in its second epoch and started again."""

    class Interrupted(Exception):
        pass

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "job.pt"
        training, _ = _start_attack(attack, recipe)
        with suppress(Interrupted), checkpoints(file, every=0):
            next(training)
            next(training, None)
            raise Interrupted
        training, world = _start_attack(attack, recipe)
        with checkpoints(file, every=0):
            while True:
                try:
                    next(training)
                except StopIteration as stop:
                    return cast(Trigger, stop.value), world


@torch.no_grad()
def _check_attack(attack: Attack) -> None:
    y = torch.arange(10)
    wanted = attack.relabel(y, 10)
    _require(wanted.shape == y.shape and bool((wanted < 10).all()), "labels are classes")
    recipe = Recipe(epochs=2, batch_size=32)
    with torch.enable_grad():
        trigger, world = _run_attack(attack, recipe)
        again, twin = _run_attack(attack, recipe)
        later, resumed = _resume_attack(attack, recipe)
    x = world.test.floats()
    kept = x.clone()
    triggered = trigger(x)
    _require(torch.equal(x, kept), "a trigger leaves its input untouched")
    _require(triggered.shape == x.shape and triggered.dtype == x.dtype, "a trigger keeps the shape")
    inside = bool((triggered >= -1e-6).all() and (triggered <= 1 + 1e-6).all())
    _require(inside, "a trigger stays in [0, 1]", f"[{triggered.min():.3f}, {triggered.max():.3f}]")
    _require(torch.equal(triggered, trigger(x)), "a trigger is deterministic")
    _require(bool((triggered != x).flatten(1).any(1).any()), "a trigger changes images")
    alone = torch.cat([trigger(part) for part in x.split(1)])
    gap = (triggered - alone).abs()
    # A trigger that rounds to 8 bits may round the last bits of a sum either way, in a few pixels.
    close = gap.max() < 1.01 / 255 and gap.mean() < 1e-4
    _require(bool(close), "a trigger treats each image on its own")
    repeated = _same_weights(world.model, twin.model) and torch.equal(triggered, again(x))
    _require(repeated, "an attack is repeatable")
    same = _same_weights(world.model, resumed.model) and torch.equal(triggered, later(x))
    _require(same, "an interrupted attack goes on where it was saved")


def _run_defense(defense: Defense) -> tuple[list[Tensor], _World]:
    world = _world()
    for _ in fit(world.model, world.train, Recipe(epochs=2, batch_size=32, lr=0.05)):
        pass
    torch.manual_seed(0)
    before = world.train.x.clone(), world.train.y.clone()
    outputs = []
    for result in defense(world.model, world.train):
        if defense.yields == "candidates":
            pair = isinstance(result, tuple) and len(result) == 2 and isinstance(result[0], float)
            _require(pair, "candidates are pairs of a setting and a model", repr(type(result)))
            result = cast(tuple[float, nn.Module], result)[1]
        _require(isinstance(result, nn.Module), "rounds are models", repr(type(result)))
        model = copy.deepcopy(cast(nn.Module, result)).eval()
        with torch.no_grad():
            outputs.append(model(world.test.floats()))
    same = torch.equal(before[0], world.train.x) and torch.equal(before[1], world.train.y)
    _require(same, "a defense leaves its data untouched")
    return outputs, world


def _check_defense(defense: Defense) -> None:
    threads, grad = torch.get_num_threads(), torch.is_grad_enabled()
    try:
        outputs, world = _run_defense(defense)
        again, _ = _run_defense(defense)
    except NotApplicable as reason:
        raise BrokenRule("a defense applies to a network with batch norm", str(reason)) from reason
    state = torch.get_num_threads() == threads and torch.is_grad_enabled() == grad
    _require(state, "a defense leaves global state alone")
    _require(bool(outputs), "a defense yields at least one model")
    for logits in outputs:
        shape = logits.shape == (len(world.test), 10)
        _require(shape, "a defended model is a classifier", str(tuple(logits.shape)))
        _require(bool(logits.isfinite().all()), "a defended model gives finite logits")
    equal = len(outputs) == len(again) and all(map(torch.equal, outputs, again))
    _require(equal, "a defense is repeatable")


def _check_model(architecture: Architecture) -> None:
    digits = Digits()
    torch.manual_seed(0)
    model = architecture(digits).eval()
    torch.manual_seed(0)
    _require(_same_weights(model, architecture(digits)), "a model is drawn from torch's generator")
    x = digits(Path()).test.floats(slice(4))
    logits = model(x)
    _require(logits.shape == (4, digits.num_classes), "a model gives one logit for each class")
    _require(torch.equal(model.mean.flatten(), torch.tensor(digits.mean)), "a model normalises")
    found = model.features(x, *model.stages, "penultimate")
    _require(torch.equal(found["logits"], logits), "features and logits come from one pass")
    rebuilt = model.head(found["penultimate"]).float()
    _require(torch.allclose(rebuilt, logits, atol=1e-5), "the head is the last layer")
    _require(_same_weights(model, copy.deepcopy(model)), "a model can be copied")


def _check_dataset(dataset: Dataset) -> None:
    try:
        task = dataset(Path("no-such-folder"))
    except InputError as error:
        told = f"fetch {key_of(dataset)}" in str(error)
        _require(told, "a missing dataset names the command that makes it", str(error))
        return
    for split in (task.train, task.test):
        good = split.x.dtype == torch.uint8 and split.x.shape == (len(split), *dataset.shape)
        _require(good, "images are uint8 tensors of the declared shape", str(split.x.shape))
        classes = split.y.dtype == torch.int64 and set(split.y.tolist()) == set(
            range(dataset.num_classes)
        )
        _require(classes, "labels are int64 and every class occurs")
        _require(split.flips == dataset.flips, "splits say whether they may be flipped")
    x = task.train.floats()
    measured = torch.stack((x.mean((0, 2, 3)), x.std((0, 2, 3))))
    near = torch.allclose(measured, torch.tensor([dataset.mean, dataset.std]), atol=0.02)
    _require(near, "mean and std describe the training images")


def _same_weights(first: nn.Module, second: nn.Module) -> bool:
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)
