"""The contract suite accepts every plugin of the project and rejects a bad plugin for each rule."""

import ast
import textwrap
from itertools import chain
from pathlib import Path

import pytest
import torch

from sau_bench.benchmark import contract, rules
from sau_bench.benchmark.loading import load, plugin_names
from sau_bench.benchmark.plugin import KINDS
from sau_bench.benchmark.rules import SEED

PLUGINS = [(kind, key) for kind in KINDS for key in plugin_names(kind)]

HEAD = """
import torch
from dataclasses import dataclass
from torch import nn
from sau_bench.attacks.base import DataPoisoning
from sau_bench.benchmark.data import Dataset, Images, Task
from sau_bench.benchmark.train import fit, train_model
from sau_bench.defenses.base import Defense, NotApplicable
from sau_bench.models.classifier import Architecture, Classifier
CALLS = []
"""

ATTACK = """
@dataclass(frozen=True, kw_only=True)
class Bad(DataPoisoning):
    '''An attack.'''
    name = "Bad"
    {extra}
    def trigger(self, x):
        {body}
"""

TRAINING = """
@dataclass(frozen=True, kw_only=True)
class Bad(DataPoisoning):
    '''An attack.'''
    name = "Bad"
    def trigger(self, x):
        return 1 - x
    def __call__(self, model, train, rows, recipe, asset):
        {body}
"""

ASSET = """
from sau_bench.attacks.asset import Asset
from sau_bench.attacks.base import AssetPoisoning
@dataclass(frozen=True, kw_only=True)
class Made(Asset):
    model_state = "unused"
    def __call__(self, model, train, recipe):
        CALLS.append(1)
        return {"value": torch.tensor(1 / (1 + len(CALLS)))}

@dataclass(frozen=True, kw_only=True)
class Bad(AssetPoisoning):
    '''An attack.'''
    name = "Bad"
    @property
    def asset(self):
        return Made()
    def trigger(self, asset):
        return lambda x: x * asset["value"]
"""

FILES = """
from sau_bench.attacks.base import no_trigger, poison_test
from sau_bench.benchmark.metrics import Poisoned
@dataclass(frozen=True, kw_only=True)
class Bad(DataPoisoning):
    '''An attack.'''
    name, from_files = "Bad", True
    def trigger(self, x):
        return 1 - x
    def __call__(self, model, train, rows, recipe, asset):
        return no_trigger
    {extra}
"""

POISONED_SET = """def poisoned_set(self, train, rows, trigger, num_classes, batch_size):
        {body}"""

DEFENSE = """
@dataclass(frozen=True, kw_only=True)
class Bad(Defense):
    '''A defense.'''
    name = "Bad"
    {extra}
    def __call__(self, model, data):
        {body}
"""

MODEL = """
class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(4)
        self.linear = nn.Linear(48, classes)
        self.spare = nn.Linear(48, 10)
    def forward(self, x):
        {forward}

@dataclass(frozen=True, kw_only=True)
class Bad(Architecture):
    '''A model.'''
    name = "Bad"
    def __call__(self, dataset):
        {body}
"""

DATASET = """
@dataclass(frozen=True, kw_only=True)
class Bad(Dataset):
    '''A dataset.'''
    name = "Bad"
    num_classes, shape, mean, std, flips = 2, (1, 4, 4), (0.0,), (0.0,), False
    def __call__(self, root):
        x, y = torch.zeros(4, 1, 4, 4, dtype=torch.uint8), torch.tensor([0, 1, 0, 1])
        {body}
"""

LOOSE = """
class Loose(Classifier):
    def __deepcopy__(self, memo):
        return Loose(Net(10), head="linear", stages=[], mean=(0.,) * 3, std=(1.,) * 3)
"""

BUILD = (
    "return Classifier(Net(10), head='linear', stages=['pool'], mean=dataset.mean, std=dataset.std)"
)
LINEAR = "return self.linear(self.pool(x).flatten(1))"
TRAIN = "train_model(model, train, recipe)"
STORE = "Task(Images(x, y), Images(x, y))"


def attack(body: str, extra: str = "") -> str:
    return ATTACK.format(body=body, extra=extra)


def poisoned_set(body: str) -> str:
    return attack("return 1 - x", POISONED_SET.format(body=body))


def files(extra: str) -> str:
    return FILES.format(extra=extra)


def defense(body: str, extra: str = "") -> str:
    return DEFENSE.format(body=body, extra=extra)


def model(body: str = BUILD, forward: str = LINEAR) -> str:
    return MODEL.format(body=body, forward=forward)


BAD = {
    "every field is documented": ("attacks", attack("return 1 - x", "mystery: int = 1")),
    "defaults and smoke values are valid fields": (
        "attacks",
        attack("return 1 - x", "smoke = {'ratio': 3}"),
    ),
    "a plugin survives pickling": (
        "attacks",
        attack("return 1 - x", "def __eq__(self, other): return self is other"),
    ),
    "a plugin is a value": (
        "attacks",
        attack("return 1 - x", "def __hash__(self): return id(self)"),
    ),
    "no path enters the key": (
        "attacks",
        attack(
            "return 1 - x",
            "def canonical(self): import sau_bench; return {'file': sau_bench.__file__}",
        ),
    ),
    "a plugin imports no other plugin": (
        "attacks",
        "from sau_bench.attacks.badnets import BadNets\n" + attack("return 1 - x"),
    ),
    "an attack takes model, train, rows, recipe, asset": (
        "attacks",
        TRAINING.format(body=f"{TRAIN}; return self.trigger").replace(", asset)", ")"),
    ),
    "an attack returns its trigger": (
        "attacks",
        TRAINING.format(body="yield from fit(model, train, recipe); return self.trigger"),
    ),
    "an attack saves checkpoints": ("attacks", TRAINING.format(body="return self.trigger")),
    "an asset is repeatable, interrupted or not": ("attacks", ASSET),
    "a poisoned training set has all images": ("attacks", poisoned_set("return train[rows]")),
    "a poisoned training set is a copy": (
        "attacks",
        poisoned_set("train.y[rows] = 0; return train"),
    ),
    "a poisoned training set is repeatable": (
        "attacks",
        poisoned_set("CALLS.append(1); return Images(train.x // len(CALLS), train.y)"),
    ),
    "an attack whose files are missing says what is accepted": (
        "attacks",
        files("def check(self, dataset, recipe): raise ValueError('no')"),
    ),
    "triggered test images are those of the other classes, in order": (
        "attacks",
        files("def poisoned_test(self, test, t, k): return Poisoned(test, test.y, test.y)"),
    ),
    "triggered test images are repeatable": (
        "attacks",
        files(
            """def poisoned_test(self, test, trigger, num_classes):
        CALLS.append(1)
        return poison_test(test, self, lambda x: x / len(CALLS), num_classes)"""
        ),
    ),
    "a method leaves its data untouched": (
        "attacks",
        TRAINING.format(body=f"train.x[rows] = 0; {TRAIN}; return self.trigger"),
    ),
    "a trigger leaves its input untouched": ("attacks", attack("return x.mul_(0.5)")),
    "a trigger returns images": ("attacks", attack("return None")),
    "a trigger keeps shape and type of its images": ("attacks", attack("return x[:, :1]")),
    "a trigger stays in [0, 1]": ("attacks", attack("return x + 0.5")),
    "a trigger is deterministic": ("attacks", attack("return torch.rand_like(x)")),
    "a trigger changes images": ("attacks", attack("return x")),
    "a trigger does not depend on the other images of a batch": (
        "attacks",
        attack("return (x + x.mean(0, keepdim=True)) / 2"),
    ),
    "an attack is repeatable": (
        "attacks",
        TRAINING.format(
            body=f"{TRAIN}; CALLS.append(1); c = len(CALLS); return lambda x: x / (c + 1)"
        ),
    ),
    "an interrupted attack is resumed from its checkpoint": (
        "attacks",
        TRAINING.format(
            body="""epochs = []
        for _ in fit(model, train, recipe):
            epochs.append(1)
        return lambda x: x / (1 + len(epochs))"""
        ),
    ),
    "an attack returns a trigger for each of its parts": (
        "attacks",
        attack("return 1 - x", "parts = property(lambda self: (self, self))"),
    ),
    "a preview shows what the trained trigger does": (
        "attacks",
        attack("return 1 - x", "def preview(self, size, asset): return lambda x: x"),
    ),
    "a plugin imports from sau_bench": (
        "attacks",
        "from attacks.base import Attack\n" + attack("return 1 - x"),
    ),
    "every setting has an annotation": ("attacks", attack("return 1 - x", "opacity = 0.5")),
    "a plugin prints nothing": ("defenses", defense("print('round 1'); yield model")),
    SEED: ("defenses", defense("torch.manual_seed(5); yield model")),
    "labels are classes": (
        "attacks",
        attack("return 1 - x", "def relabel(self, y, num_classes): return y + num_classes"),
    ),
    "a defense declares its kind": ("defenses", defense("yield model", "uses = 'everything'")),
    "candidates are pairs of a setting and a model": (
        "defenses",
        defense("yield model", "yields = 'candidates'"),
    ),
    "rounds are models": ("defenses", defense("yield (0.5, model)")),
    "a defense applies to a network with batch norm": (
        "defenses",
        defense("raise NotApplicable('never'); yield"),
    ),
    "a defense yields its models": ("defenses", defense("return model")),
    "a plugin leaves global state alone": (
        "defenses",
        defense("torch.set_num_threads(torch.get_num_threads() + 1); yield model"),
    ),
    "a defense yields at least one model": ("defenses", defense("yield from ()")),
    "a defended model is a classifier": (
        "defenses",
        defense("yield nn.Sequential(model, nn.Linear(10, 3))"),
    ),
    "a defended model gives finite logits": (
        "defenses",
        defense("model.head.weight.data.fill_(float('nan')); yield model"),
    ),
    "a defense is repeatable": (
        "defenses",
        defense("CALLS.append(1); model.head.weight.data.mul_(len(CALLS)); yield model"),
    ),
    "a model is a Classifier": ("models", model("return Net(10)")),
    "a model is drawn from torch's generator": (
        "models",
        model(
            "CALLS.append(1); net = Net(10); net.linear.weight.data.fill_(len(CALLS)); "
            + BUILD.replace("Net(10)", "net")
        ),
    ),
    "a model gives one logit for each class": (
        "models",
        model(BUILD.replace("Net(10)", "Net(9)")),
    ),
    "a model normalises": ("models", model(BUILD.replace("dataset.mean", "(0., 0., 0.)"))),
    "features and logits come from one pass": (
        "models",
        model(forward=f"CALLS.append(1); x = x * len(CALLS); {LINEAR}"),
    ),
    "the head is the last layer": (
        "models",
        model(
            BUILD.replace("'linear'", "'spare'"),
            "x = self.pool(x).flatten(1); return self.linear(x) + self.spare(x)",
        ),
    ),
    "the classifier gives the logits": (
        "models",
        model(
            BUILD.replace("stages=", "classifier='spare', stages="),
            "x = self.pool(x).flatten(1); self.spare(x); return self.linear(x)",
        ),
    ),
    "a model can be copied": ("models", LOOSE + model(BUILD.replace("Classifier", "Loose"))),
    "a missing dataset names the command that makes it": (
        "datasets",
        "from sau_bench.benchmark.errors import InputError\n"
        + DATASET.format(body="raise InputError('not there')"),
    ),
    "a dataset returns its two splits": (
        "datasets",
        DATASET.format(body="return Images(x, y), Images(x, y)"),
    ),
    "images are uint8 tensors of the declared shape": (
        "datasets",
        DATASET.format(body=f"x = x.float(); return {STORE}"),
    ),
    "labels are int64 and every class occurs": (
        "datasets",
        DATASET.format(body=f"y = y * 0; return {STORE}"),
    ),
    "splits say whether they may be flipped": (
        "datasets",
        DATASET.format(body="return Task(Images(x, y, True), Images(x, y, True))"),
    ),
    "mean and std describe the training images": (
        "datasets",
        DATASET.format(body=f"x = x + 200; return {STORE}"),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("kind", "key"), PLUGINS, ids=[f"{k}/{n}" for k, n in PLUGINS])
def test_every_plugin_keeps_its_contract(kind, key):
    contract.check(kind, load(kind, key))


@pytest.mark.parametrize("rule", BAD)
def test_a_bad_plugin_is_rejected(rule, tmp_path):
    kind, source = BAD[rule]
    file = tmp_path / "bad.py"
    file.write_text(textwrap.dedent(HEAD) + source)
    with pytest.raises(contract.BrokenRule) as broken:
        contract.check(kind, load(kind, str(file)))
    assert broken.value.rule == rule


def test_a_generator_of_models_is_refused_with_what_to_do_instead(tmp_path):
    file = tmp_path / "bad.py"
    file.write_text(textwrap.dedent(HEAD) + BAD["an attack returns its trigger"][1])
    with pytest.raises(contract.BrokenRule, match="generator; train in place without `yield`"):
        contract.check("attacks", load("attacks", str(file)))


@pytest.mark.parametrize(
    ("kind", "source", "told", "line"),
    [
        ("defenses", defense("yield 0.5"), "a number (0.5)", "yield 0.5"),
        ("defenses", defense("yield model.state_dict()"), "a state dict", "yield model"),
        ("defenses", defense("yield"), "yielded None", "yield"),
        ("defenses", defense("return 3"), "`__call__` returned a number (3)", None),
        ("defenses", defense("pass"), "None and yielded nothing; write `yield model`", None),
        ("defenses", defense("return model"), "a model (Classifier)", None),
        ("defenses", defense("yield 1, model", "yields = 'candidates'"), "a float", "yield 1"),
        ("defenses", defense("data.x.zero_(); yield model"), "`data.x.clone()`", None),
        ("defenses", defense("torch.set_default_dtype(torch.float64); yield model"), "dtype", None),
        ("defenses", defense("torch.set_grad_enabled(False); yield model"), "gradient", None),
        ("defenses", defense("torch.seed(); yield model"), "torch.seed", "torch.seed"),
        (
            "defenses",
            "from torch import manual_seed\n" + defense("manual_seed(5); yield model"),
            "calls torch.manual_seed",
            None,
        ),
        (
            "attacks",
            TRAINING.format(body=f"torch.manual_seed(5); {TRAIN}; return self.trigger"),
            "calls torch.manual_seed",
            "torch.manual_seed",
        ),
        (
            "defenses",
            defense("import numpy; numpy.random.seed(1); yield model"),
            "numpy.random.seed",
            "numpy.random",
        ),
        ("defenses", defense("print('one', 2); yield model"), "printed 'one'", "print("),
        ("defenses", defense("import sys; sys.stderr.write('x'); yield model"), "'x'", "stderr"),
        ("defenses", defense("yield model", "lr = 0.1"), "`lr: float = 0.1`", "lr = 0.1"),
        ("attacks", attack("return x.double()"), "became float64 (10, 3, 32, 32)", None),
        ("attacks", attack("return x.mean(1, keepdim=True)"), "float32 (10, 1, 32, 32)", None),
        ("attacks", attack("return x * 255"), "values from 0 to 255", None),
        ("attacks", attack("return x / 0"), "values that are not finite", None),
        ("attacks", attack("return x.numpy()"), "it returned a ndarray", None),
    ],
)  # fmt: skip
def test_what_is_said_of_a_broken_rule_and_its_line(kind, source, told, line, tmp_path):
    file = tmp_path / "bad.py"
    file.write_text(textwrap.dedent(HEAD) + source)
    with pytest.raises(contract.BrokenRule) as broken:
        contract.check(kind, load(kind, str(file)))
    assert told in str(broken.value)
    if line is None:
        assert broken.value.line is None
    else:
        assert line in file.read_text().splitlines()[broken.value.line - 1]


def test_the_rules_that_a_plugin_keeps_are_returned():
    kept = contract.check("defenses", load("defenses", "ft"))
    assert {"rounds are models", "a plugin prints nothing", "a plugin is a value"} <= set(kept)
    assert len(set(kept)) == len(kept) and not any("trigger" in rule for rule in kept)


def test_what_a_bad_plugin_changed_is_put_back(tmp_path):
    file = tmp_path / "bad.py"
    source = defense("torch.set_default_dtype(torch.float64); yield model; 1 / 0")
    file.write_text(textwrap.dedent(HEAD) + source)
    with pytest.raises(contract.BrokenRule):
        contract.check("defenses", load("defenses", str(file)))
    assert torch.get_default_dtype() == torch.float32


def test_every_rule_has_its_bad_plugin():
    found = set()
    home = Path(contract.__file__).parent
    more = (home.parent / "rules.py", home.parent / "jobs" / "networks.py")
    trees = [ast.parse(file.read_text()) for file in (*home.glob("*.py"), *more)]
    for node in chain.from_iterable(map(ast.walk, trees)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            position = {"require": 1, "BrokenRule": 0}.get(node.func.id)
            if position is None:
                continue
            match node.args[position]:
                case ast.Constant(value=rule):
                    found.add(rule)
                case ast.Name(id=name) if name.isupper():
                    found.add(getattr(rules, name))
    found |= {"a defense yields its models", "candidates are pairs of a setting and a model"}
    assert found == set(BAD)
