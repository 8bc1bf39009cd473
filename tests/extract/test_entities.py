import itertools

import numpy as np
import pytest

from tracekit.extract.entities import (
    dissolve_outlines,
    group_patches,
    mean_features,
    recognise,
    similarity,
    split_regions,
    unit_features,
    variety,
)

LOOKS = np.eye(6, dtype=np.float32)


def painted(*rows):
    """A frame drawn in digits, one a patch: (labels (gh, gw), unit features (gh, gw, 6))."""
    labels = np.array([[int(digit) for digit in row] for row in rows])
    return labels, LOOKS[labels]


def test_similarity_is_1_when_equal_and_0_on_average_between_patches_at_random():
    features = unit_features(np.random.default_rng(0).normal(size=(300, 8)) + 2)
    alike = similarity(features, features, variety(features))
    np.testing.assert_allclose(np.diag(alike), 1, atol=1e-4)
    assert alike.mean() == pytest.approx(0, abs=1e-4)


def test_mean_features_are_means():
    features = np.random.default_rng(1).normal(size=(40, 3)).astype(np.float32)
    labels = np.random.default_rng(2).integers(0, 4, 40)
    means = mean_features(features, labels, 6)
    for label in range(4):
        np.testing.assert_allclose(means[label], features[labels == label].mean(axis=0), rtol=1e-5)
    assert (means[4:] == 0).all()


def test_a_large_background_does_not_eat_the_groups():
    """A background of slowly changing colour takes most of the k-means centres; merging gives it one group and each thing its own."""
    rows, columns = 30, 40
    shade = np.linspace(0, 0.25, columns)
    features = np.zeros((2, rows, columns, 4), np.float32)
    features[..., 0], features[..., 1] = np.cos(shade), np.sin(shade)
    features[:, 5:10, 5:10] = [0, 0, 1, 0]
    features[:, 20:24, 30:36] = [0, 0, 0, 1]
    groups = group_patches(features, num_clusters=12, position_weight=0.3, merge_similarity=0.6, seed=0)
    assert len(np.unique(groups)) == 3
    assert len(np.unique(groups[:, 5:10, 5:10])) == 1
    assert len(np.unique(groups[:, 20:24, 30:36])) == 1
    unmerged = group_patches(features, num_clusters=12, position_weight=0.3, merge_similarity=1.0, seed=0)
    assert len(np.unique(unmerged)) > 6


def test_two_things_of_one_look_that_do_not_touch_are_two_regions():
    groups, features = painted("0000000", "0110110", "0110110", "0000000")
    regions, num_absorbed = split_regions(groups, features, minimum_patches=2)
    assert num_absorbed == 0
    assert sorted(np.bincount(regions.ravel()).tolist()) == [4, 4, 20]
    assert regions[1, 1] != regions[1, 4]


def test_specks_join_the_neighbour_that_looks_most_like_them():
    groups, features = painted("000111", "000111", "002111", "000111")
    features = features.copy()
    features[2, 2] = 0.2 * LOOKS[0] + 0.8 * LOOKS[1]
    regions, num_absorbed = split_regions(groups, features, minimum_patches=4)
    assert num_absorbed == 1
    assert regions[2, 2] == regions[0, 5] != regions[0, 0]
    assert set(regions.ravel().tolist()) == {0, 1}


def test_a_frame_of_specks_only_becomes_one_region():
    groups, features = painted("010", "101")
    regions, num_absorbed = split_regions(groups, features, minimum_patches=100)
    assert (regions == 0).all()
    assert num_absorbed > 0


def test_things_of_one_look_on_two_surfaces_are_two_regions_and_specks_stay_on_their_surface():
    groups, features = painted("0000", "0000", "0010", "0000")
    surface = np.array([[5, 5, 7, 7]] * 4)
    regions, _ = split_regions(groups, features, minimum_patches=2, surface=surface)
    assert regions.tolist() == [[0, 0, 1, 1]] * 4


def test_what_has_depth_never_joins_what_has_none():
    groups, features = painted("0000", "0010", "0000")
    surface = np.where(groups == 1, 3, -1)
    regions, num_absorbed = split_regions(groups, features, minimum_patches=4, surface=surface)
    assert num_absorbed == 0
    assert regions[1, 2] != regions[0, 0]


def test_half_the_size_is_enough_for_what_looks_like_nothing_around_it():
    groups, features = painted("000000", "011200", "000200", "000000")
    features = features.copy()
    features[groups == 2] = 0.6 * LOOKS[0] + 0.8 * LOOKS[2]  # somewhat like what is around it
    regions, num_absorbed = split_regions(groups, features, minimum_patches=4, yardstick=1.5)
    assert num_absorbed == 2
    assert regions.tolist() == [[0] * 6, [0, 1, 1, 0, 0, 0], [0] * 6, [0] * 6]


def test_half_the_size_is_enough_for_what_stands_out():
    groups, features = painted("000000", "011022", "000000")
    standing_out = groups == 2
    regions, num_absorbed = split_regions(groups, features, minimum_patches=4, standing_out=standing_out)
    assert num_absorbed == 2
    assert regions.tolist() == [[0] * 6, [0, 0, 0, 0, 1, 1], [0] * 6]


@pytest.mark.parametrize("thin_colour", [None, (20, 20, 20)])
def test_a_strip_across_an_outline_goes_to_its_sides_and_a_thin_thing_stays(thin_colour):
    picture = np.zeros((60, 90, 3), np.uint8)
    picture[:, :44], picture[:, 44:] = (60, 130, 50), (200, 40, 40)
    if thin_colour:
        picture[:, 40:50] = thin_colour
    regions = np.repeat([[0, 0, 0, 0, 1, 2, 2, 2, 2]], 6, axis=0)  # patches of 10 px; the strip is the one from 40 to 50
    given, num_given = dissolve_outlines(regions, picture)
    if thin_colour:
        assert num_given == 0
        np.testing.assert_array_equal(given, regions)
    else:
        assert num_given == 6
        assert (given[:, :4] == 0).all()
        assert (given[:, 4:] == 1).all(), "most of the strip is red"


def name(frames, **options):
    known = []
    settings = {"yardstick": 1.5, "overlap_weight": 0.4, "least": 0.5} | options
    names = []
    for groups, features in frames:
        regions, _ = split_regions(groups, features, minimum_patches=1)
        names.append(recognise(regions, features, known, **settings))
    return names, known


def test_an_identity_follows_its_thing():
    names, known = name([painted("0110000", "0000000"), painted("0011000", "0000000"), painted("0000110", "0000000")])
    assert len(known) == 2
    assert names[0][0, 1] == names[1][0, 2] == names[2][0, 5] != names[0][1, 0]
    assert [entity.num_frames for entity in known] == [3, 3]
    assert sorted(entity.num_patches for entity in known) == [6, 36]


def test_twins_keep_their_identities_by_where_they_are():
    names, _ = name([painted("0110011000"), painted("0011001100"), painted("0001100110")])
    left, right = int(names[0][0, 1]), int(names[0][0, 5])
    assert left != right
    assert (names[1][0, 3], names[1][0, 7]) == (left, right)
    assert (names[2][0, 4], names[2][0, 8]) == (left, right)


def test_what_looks_like_nothing_known_is_new_even_in_the_place_of_another():
    names, known = name([painted("0110"), painted("0220")], least=0.7)
    assert names[1][0, 1] not in names[0]
    assert len(known) == 3 + (names[0][0, 0] != names[0][0, 3])


def test_a_thing_that_was_hidden_for_a_while_is_recognised():
    names, _ = name([painted("00110", "00110"), painted("00000", "00000"), painted("01100", "01100")])
    assert names[2][0, 1] == names[0][0, 2]


def test_the_matching_is_the_best_of_all_and_not_greedy():
    """Greedily, the first region would take the entity that it is most like, which is the second's only match."""
    a, b, c = LOOKS[:3]
    before = np.stack([0.6 * a + 0.8 * b, 0.6 * b + 0.8 * c])[None]
    after = np.stack([0.9 * b + 0.436 * a, a])[None]
    alike = similarity(after[0], before[0], 2.0)
    assert alike[0, 0] > max(alike[0, 1], alike[1, 0]) > 0.5 > 0.1 > alike[1, 1]
    known = []
    settings = {"yardstick": 2.0, "overlap_weight": 0.0, "least": 0.1}
    recognise(np.array([[0, 1]]), before, known, **settings)
    assert recognise(np.array([[0, 1]]), after, known, **settings).tolist() == [[1, 0]]
    assert len(known) == 2


@pytest.mark.parametrize("overlap_weight", [0.0, 0.4])
def test_matching_equals_brute_force(overlap_weight):
    """Over all ways to pair regions with entities: a pair counts what it scores above the threshold, and nothing below."""
    generator = np.random.default_rng(0)
    for _ in range(30):
        before, after = unit_features(generator.normal(size=(2, 1, 4, 3)).astype(np.float32))
        known = []
        settings = {"yardstick": 1.5, "overlap_weight": overlap_weight, "least": 0.3}
        recognise(np.arange(4)[None], before, known, **settings)
        names = recognise(np.arange(4)[None], after, known, **settings)[0]
        score = (1 - overlap_weight) * similarity(after[0], before[0], 1.5) + overlap_weight * np.eye(4)
        gain = np.maximum(score - 0.3, 0)
        best = max(sum(gain[region, entity] for region, entity in enumerate(order)) for order in itertools.permutations(range(4)))
        assert sum(gain[region, name] for region, name in enumerate(names) if name < 4) == pytest.approx(best, abs=1e-5)
        assert all(score[region, name] >= 0.3 for region, name in enumerate(names) if name < 4)
        assert len(set(names.tolist())) == 4
