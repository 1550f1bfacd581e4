"""What docstrings, annotations and defaults say of fields."""

from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from sau_bench.attacks.multi import Multi
from sau_bench.benchmark.fields import described, meanings_of, paragraphs, written
from sau_bench.benchmark.train import Recipe


@dataclass(frozen=True, kw_only=True)
class Base:
    """What is below.

    shared: of the base. both: of the base, too.
    """

    shared: int = 1
    both: float | None = None


@dataclass(frozen=True, kw_only=True)
class Derived(Base):
    """Something that says: nothing about
    fields. In its first paragraph: neither.

    both: of the derived
    class (in short: not of the base). first, second: of two; the ratio: text. third: "shared" is
    no name here, and `other: 3` is code.

    Note: first: this is no meaning.
    """

    first: tuple[int, ...] = (1, 2)
    second: Literal["a", "b"]
    third: Recipe = Recipe(epochs=3)
    fourth: dict[str, Any] = field(default_factory=dict)
    hidden: int = field(default=3, init=False)


def test_meanings_stand_in_the_docstring_of_the_class_or_of_a_base():
    assert meanings_of(Derived) == {
        "shared": "of the base.",
        "both": "of the derived class (in short: not of the base).",
        "first": "of two; the ratio: text.",
        "second": "of two; the ratio: text.",
        "third": '"shared" is no name here, and `other: 3` is code.',
    }


def test_fields_are_described_in_the_words_of_a_config():
    found = {d.name: (d.type, d.default) for d in described(Derived)}
    assert found == {
        "shared": ("whole number", "1"),
        "both": ("number", "absent"),
        "first": ("list of whole numbers", "[1, 2]"),
        "second": ("`a` or `b`", ""),
        "third": ("recipe", "{epochs: 3}"),
        "fourth": ("mapping", "{}"),
    }


def test_the_other_paragraphs_are_what_is_left():
    names = [d.name for d in described(Derived)]
    (only,) = paragraphs(Derived.__doc__, names)
    assert only.startswith("Something that says") and only.endswith("neither.")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "absent"),
        (True, "true"),
        (5e-4, "0.0005"),
        ("", "''"),
        ((0.5, 0.9), "[0.5, 0.9]"),
        (Recipe(), "{}"),
        (Multi().second, "{badnets: {target: 1}}"),
        (Multi().first, "blended"),
    ],
)
def test_values_are_written_as_in_a_config(value, text):
    assert written(value) == text
