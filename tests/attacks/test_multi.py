"""Two triggers on one model: rows, labels, scores of each, and the table that shows them."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sau_bench.attacks.badnets import BadNets
from sau_bench.attacks.base import Triggers, poison_test
from sau_bench.attacks.blended import Blended
from sau_bench.attacks.multi import Multi
from sau_bench.attacks.sig import SIG
from sau_bench.attacks.wanet import WaNet
from sau_bench.benchmark.cache.store import Store
from sau_bench.benchmark.cli.show import examples_of
from sau_bench.benchmark.data import Images, to_uint8
from sau_bench.benchmark.datasets.digits import Digits
from sau_bench.benchmark.errors import InputError
from sau_bench.benchmark.grid.config import Config
from sau_bench.benchmark.grid.grid import _judged, make_grid
from sau_bench.benchmark.jobs.run_job import run_job
from sau_bench.benchmark.loading import build
from sau_bench.benchmark.report.write import report
from sau_bench.models.small_cnn import SmallCNN

SECOND = BadNets(target=1)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def digits() -> Images:
    return Digits()(Path()).train


def config(*attacks: object, **more: object) -> Config:
    return Config(
        datasets=["digits"],
        models=["small_cnn:8"],
        attacks=list(attacks),
        recipe={"epochs": 8, "lr": 0.05, "batch_size": 64},
        **more,
    )


def test_a_config_nests_attacks_with_their_fields() -> None:
    spec = {"first": {"wanet": {"s": 1.0}}, "second": {"badnets": {"target": 2, "value": 0.5}}}
    found = build("attacks", {"multi": spec})
    assert found == Multi(first=WaNet(s=1.0), second=BadNets(target=2, value=0.5))
    assert build("attacks", "multi") == Multi(first=Blended(), second=SECOND)
    assert found.label == "WaNet + BadNets"
    with pytest.raises(InputError, match="unknown field 'sss'"):
        build("attacks", {"multi": {"first": {"wanet": {"sss": 1}}}})


def test_the_key_names_both_attacks_with_their_revisions() -> None:
    keys = {str(Multi(first=first).canonical()) for first in (Blended(), WaNet(), WaNet(s=1.0))}
    assert len(keys) == 3
    assert Multi().canonical()["first"] == Blended().canonical()
    assert Multi().canonical()["second"] == SECOND.canonical()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"first": Blended(target=1)}, "target other than"),
        ({"first": Multi()}, "one attack"),
        ({"second": SIG(target=1)}, "changes? their labels"),
        ({"second": WaNet(target=1)}, "stamps images before"),
    ],
)
def test_attacks_that_do_not_fit_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Multi(**fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("first", [Blended(), SIG(ratio=0.05)])
def test_rows_are_disjoint_and_the_second_has_its_full_share(
    first: Blended | SIG, digits: Images
) -> None:
    attack = Multi(first=first, second=BadNets(target=1, ratio=0.2))
    rows = attack.draw(digits.y, seed=3)
    own, other = attack.split(rows, len(digits))
    assert len(other) == round(0.2 * len(digits)) and len(rows.unique()) == len(rows)
    assert torch.equal(own, first.draw(digits.y, seed=3))
    if first.clean_label:
        assert (digits.y[own] == 0).all()


def test_each_trigger_is_stamped_on_its_own_rows_and_relabelled(digits: Images) -> None:
    attack, seen = Multi(), []
    rows = attack.draw(digits.y, seed=0)
    own, other = attack.split(rows, len(digits))

    class Spy(Blended):
        def __call__(self, model, train, rows, recipe, asset):  # type: ignore[no-untyped-def]
            # Cloned: what the other attack has stamped is as before when the training ends.
            seen.append((replace(train, x=train.x.clone(), y=train.y.clone()), rows, asset))
            return self.trigger

    asset = {"pattern": torch.zeros(1)}
    Multi(first=Spy())(SmallCNN(width=2)(Digits()), digits, rows, None, asset)  # type: ignore[arg-type]
    ((train, first, passed),) = seen
    assert torch.equal(first, own) and passed is asset
    assert (train.y[other] == 1).all() and (train.x[other][:, :, -3:, -3:] == 255).all()
    untouched = torch.ones(len(digits), dtype=torch.bool)
    untouched[other] = False
    assert torch.equal(train.x[untouched], digits.x[untouched])
    assert torch.equal(train.y[untouched], digits.y[untouched])


def test_test_images_carry_one_trigger_each_without_its_target(digits: Images) -> None:
    triggers = Triggers((Blended().trigger, SECOND.trigger))
    poisoned = poison_test(digits, Multi(), triggers, 10)
    for number, (part, trigger) in enumerate(zip(Multi().parts, triggers.parts, strict=True)):
        mine = poisoned.part == number
        others = digits.y != part.target
        assert torch.equal(poisoned.data.y[mine], digits.y[others])
        assert (poisoned.wanted[mine] == part.target).all()
        expected = to_uint8(trigger(digits.floats(others.nonzero()[:, 0])))
        assert torch.equal(poisoned.data.x[mine], expected)


def test_lf_first_makes_its_pattern_from_the_clean_images(digits: Images) -> None:
    jobs = make_grid(config({"multi": {"first": {"lf": {"passes": 1}}}})).jobs()
    alone = make_grid(config({"lf": {"passes": 1}})).jobs()
    assert [job.key for job in jobs[:-1]] == [job.key for job in alone[:-1]]
    assert jobs[-1].key != alone[-1].key


def test_two_backdoors_are_learned_scored_and_tabled(tmp_path: Path) -> None:
    grid = make_grid(config("multi", "badnets", defenses=[{"ft": {"recipe": {"epochs": 1}}}]))
    store = Store(tmp_path / "cache")
    for job in grid.jobs():
        run_job(job, store, Path(), CPU)
    rows = grid.rows(store)
    victim = rows[(rows["attack"] == "Blended + BadNets") & (rows["kind"] == "victim")].iloc[0]
    assert victim["asr_1"] > 0.8 and victim["asr_2"] > 0.8
    assert victim["asr"] == pytest.approx((victim["asr_1"] + victim["asr_2"]) / 2)
    assert victim["poison_ratio"] == pytest.approx(0.2, abs=0.001)
    assert rows.loc[rows["attack"] == "BadNets", "asr_1"].isna().all()
    tensors = store.tensors(victim["key"])
    assert len(tensors["train.rows"]) == len(tensors["train.x"]) == len(tensors["train.y"])
    assert set(tensors["train.y"].tolist()) == {0, 1}
    rows.to_csv(tmp_path / "rows.csv", index=False)
    report(tmp_path, {})
    table = (tmp_path / "tables" / "triggers.md").read_text()
    assert f"| Blended + BadNets | No Defense | {100 * victim['acc']:.2f} |" in table
    assert "ASR-2" in table and "| BadNets |" not in table
    labels = [grid.place(victim, None)["attack"] for victim in grid.victims]
    shown = examples_of(list(grid.victims), labels, store, Path())
    names = [trigger.label for trigger in shown]
    assert names == ["Blended + BadNets: Blended", "Blended + BadNets: BadNets", "BadNets"]


def test_a_weak_trigger_marks_the_victim_as_collapsed(tmp_path: Path) -> None:
    victim = make_grid(config("multi")).victims[0]
    row = {"kind": "victim", "status": "ok", "acc": 0.9, "asr": 0.7, "asr_1": 1.0, "asr_2": 0.4}
    assert _judged(victim, row)["status"] == "collapsed"
    assert _judged(victim, row | {"asr_2": 0.6})["status"] == "ok"


def test_both_targets_must_be_classes() -> None:
    with pytest.raises(InputError, match="'badnets': target is 10"):
        make_grid(config({"multi": {"second": {"badnets": {"target": 10}}}}))
