"""BadNets' patch, against the pixels of the published victims (BackdoorBench)."""

import torch
from attack_cases import constant

from sau_bench.attacks.badnets import BadNets
from sau_bench.benchmark.data import to_uint8


def test_badnets_square_is_nine_white_pixels_in_the_corner() -> None:
    stamped = to_uint8(BadNets().trigger(constant(0, 32)))[0]
    assert (stamped[:, 29:, 29:] == 255).all()
    assert stamped.count_nonzero() == 3 * 9


def test_badnets_value_sets_the_brightness_of_the_square() -> None:
    stamped = to_uint8(BadNets(value=0.2).trigger(constant(200, 32)))[0]
    assert (stamped[:, 29:, 29:] == 51).all() and (stamped == 200).sum() == 3 * (32 * 32 - 9)


def test_badnets_grid_alternates_white_and_one() -> None:
    stamped = to_uint8(BadNets(pattern="grid").trigger(constant(100, 32)))[0]
    expected = [[255, 1, 255], [1, 255, 1], [255, 1, 255]]
    assert stamped[:, 29:, 29:].tolist() == [expected] * 3
    assert (stamped == 100).sum() == 3 * (32 * 32 - 9)


def test_badnets_patch_at_64_pixels_has_a_soft_rim() -> None:
    stamped = to_uint8(BadNets().trigger(constant(100, 64)))[0]
    rim = torch.full((7, 7), 255)
    rim[1, 1:] = rim[1:, 1] = 191
    rim[0, :] = rim[:, 0] = 64
    rim[0, 0], rim[0, 1], rim[1, 0], rim[1, 1] = 16, 48, 48, 143
    assert stamped[:, 57:, 57:].tolist() == [rim.tolist()] * 3
    assert (stamped == 100).sum() == 3 * (64 * 64 - 49)


def test_badnets_patch_at_64_pixels_is_scaled_to_whole_pixels_if_not_as_published() -> None:
    stamped = to_uint8(BadNets(as_published=False).trigger(constant(100, 64)))[0]
    assert (stamped[:, 58:, 58:] == 255).all()
    assert (stamped == 100).sum() == 3 * (64 * 64 - 36)
