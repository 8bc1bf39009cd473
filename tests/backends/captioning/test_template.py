"""The template captioner on scenes whose motion is known: two coloured clouds of points in front of a camera."""

import dataclasses

import numpy as np
import pytest

from tracekit.backends.captioning.template import Template, colour_name
from tracekit.backends.protocols import BackendSetup, EventRequest
from tracekit.errors import BadDataError
from tracekit.geometry import cameras, se3
from tracekit.records import Clip, Episode, Geometry, Keypoints, Motion, Tracks

WIDTH, HEIGHT, NUM_FRAMES = 640, 480, 31
K = np.array([[600.0, 0, 319.5], [0, 600.0, 239.5], [0, 0, 1]])
RED, BLUE, DARK_GREY = (200, 30, 30), (40, 60, 200), (70, 70, 74)


def scene(starts, moves, colours=(RED, BLUE, DARK_GREY), *, metric=True, poses=None, shares=(0.1, 0.1, 0.1)):
    """Entities of 8 points around `starts` (m, camera of frame 0) that go to starts + moves, or along a path (T, 3)."""
    rng = np.random.default_rng(0)
    cloud = rng.uniform(-0.01, 0.01, (8, 3))
    fraction = np.linspace(0, 1, NUM_FRAMES)[:, None]
    paths = [np.asarray(move, float) if np.ndim(move) == 2 else fraction * np.asarray(move, float) for move in moves]
    xyz = np.concatenate([(np.asarray(s) + path)[:, None] + cloud for s, path in zip(starts, paths, strict=True)], axis=1)
    num_tracks, num_entities = xyz.shape[1], len(starts)
    poses = np.tile(np.eye(4), (NUM_FRAMES, 1, 1)) if poses is None else poses
    xyz = se3.transform_points(np.tile(poses[0], (NUM_FRAMES, 1, 1)), xyz)
    uv, z = cameras.project(xyz, K, poses)
    mask = (z > 0).astype(np.uint8)
    entity = np.repeat(np.arange(num_entities), 8).astype(np.int32)
    ints, one = np.zeros(num_tracks, np.int32), np.zeros(1, np.int32)
    ids = np.arange(num_entities, dtype=np.int32)
    patches = (np.array(shares[:num_entities]) * 16 * 12).astype(np.int32)
    moves_at_all = np.array([np.ptp(path, axis=0).any() for path in paths])
    frames = np.arange(NUM_FRAMES, dtype=np.int32)
    return Episode(
        "clip",
        Clip("x", "", 10.0, WIDTH, HEIGHT, WIDTH, HEIGHT, 0, "t", NUM_FRAMES, 0, frames / 10, frames),
        keypoints=Keypoints(
            40.0, num_tracks, "t", uv[0].astype(np.float32), ints, entity, ints, np.ones(num_tracks, np.float32), one, one + NUM_FRAMES,
            ids, patches, np.ones(num_entities, np.int32), np.array(colours[:num_entities], np.uint8), one, np.zeros((1, 12, 16), np.int32),
        ),
        geometry=Geometry("t", metric, K, poses, np.ones(NUM_FRAMES), one, one, one, one, poses[:1], one, one),
        tracks=Tracks("t", xyz.astype(np.float32), uv.astype(np.float32), mask, mask, ints, entity, ints, ints),
        motion=Motion(40.0, 0.1, np.ones(num_tracks, np.float32), ints, moves_at_all[entity].astype(np.uint8)),
    )  # fmt: skip


def describe(episode, start=0, stop=NUM_FRAMES):
    return Template(BackendSetup()).describe(EventRequest(episode, None, start, stop, ""))


@pytest.mark.parametrize(
    "move, heading",
    [
        ((0.12, 0, 0), "to the right by about 12 cm"),
        ((-0.12, 0, 0), "to the left by about 12 cm"),
        ((0, -0.2, 0), "up by about 20 cm"),
        ((0, 0.2, 0), "down by about 20 cm"),
        ((0, 0, 0.3), "away from the camera by about 30 cm"),
        ((0, 0, -0.3), "towards the camera by about 30 cm"),
        ((0.12, -0.16, 0.01), "up and to the right by about 20 cm"),
        ((1.2, 0, 0), "to the right by about 1.2 m"),
    ],
)
def test_direction_and_distance(move, heading):
    answer = describe(scene([(-0.3, -0.2, 1.0)], [move]))
    assert answer.interaction == f"The red region moves {heading}."
    assert answer.text == f"The red region at the top left moves {heading}."


def test_directions_are_those_of_the_camera_of_the_first_frame_of_the_event():
    # The camera is rolled by 90 degrees: its x axis points along world y. And it travels: the world motion counts, not the image's.
    roll = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    poses = se3.from_rotation_translation(np.tile(roll, (NUM_FRAMES, 1, 1)), np.linspace(0, 1, NUM_FRAMES)[:, None] * [0.3, 0.2, 0.0])
    answer = describe(scene([(0, 0, 1.0)], [(0.12, 0, 0)], poses=poses))
    assert answer.interaction == "The red region moves to the right by about 12 cm."


def test_without_metres_lengths_are_shares_of_the_image():
    answer = describe(scene([(0, 0, 1.0)], [(0.16, 0, 0)], metric=False))
    # 0.16 x 600 px / 640 px.
    assert answer.interaction == "The red region moves to the right by about 15% of the image width."
    assert "cm" not in answer.before and "from the camera" not in answer.before


def test_states_before_and_after():
    answer = describe(scene([(-0.35, 0.3, 1.0)], [(0.35, -0.3, 0)], [DARK_GREY], shares=(0.01,)))
    assert answer.before == "A small dark grey region is at the bottom left, about 1.0 m from the camera."
    assert answer.after == "The small dark grey region is in the middle."
    assert describe(scene([(0, 0, 1.0)], [(0.05, 0, 0)])).after == (
        "The red region is still in the middle, but about 5 cm farther to the right."
    )


def test_there_and_back():
    t = np.linspace(0, 2 * np.pi, NUM_FRAMES)
    path = np.stack([0.1 * (1 - np.cos(t)), 0 * t, 0 * t], axis=-1)
    answer = describe(scene([(0, 0, 1.0)], [path]))
    assert answer.interaction == "The red region moves to and fro, up to about 20 cm away."
    assert answer.after == "The red region is back where it was, in the middle."


def test_those_that_go_the_same_way_go_together():
    answer = describe(scene([(-0.3, 0, 1.0), (-0.1, 0, 1.0)], [(0.2, 0, 0), (0.19, 0.01, 0)]))
    assert answer.interaction == "The red region and the blue region move together to the right by about 20 cm."


def test_two_that_meet():
    answer = describe(scene([(-0.3, 0, 1.0), (0.3, 0, 1.0)], [(0.42, 0, 0), (-0.15, 0, 0)]))
    assert answer.interaction == (
        "The red region moves to the right by about 42 cm, while the blue region moves to the left by about 15 cm, "
        "and the red region comes close to the blue region."
    )
    apart = describe(scene([(-0.3, 0, 1.0), (0.3, 0, 1.0)], [(0.2, 0, 0), (-0.15, 0, 0)]))
    assert "comes close" not in apart.interaction


def test_only_what_moves_in_this_event_is_told():
    path = np.concatenate([np.zeros((15, 3)), np.linspace([0, 0, 0], [0.3, 0, 0], NUM_FRAMES - 15)])
    episode = scene([(0, 0, 1.0)], [path])
    first = describe(episode, 0, 15)
    assert first.text == "Nothing that is tracked moves." and first.interaction == "Nothing that is tracked moves."
    assert describe(episode, 15, NUM_FRAMES).interaction == "The red region moves to the right by about 30 cm."


def test_most_moved_first_and_no_more_than_three():
    starts = [(x, 0, 1.0) for x in (-0.4, -0.2, 0.0, 0.2)]
    moves = [(0, 0.05, 0), (0, -0.3, 0), (0.1, 0, 0), (0, 0, 0.2)]
    answer = describe(scene(starts, moves, [RED, BLUE, DARK_GREY, (30, 160, 40)], shares=(0.1,) * 4))
    assert answer.interaction == (
        "The blue region moves up by about 30 cm, the green region moves away from the camera by about 20 cm, "
        "and the dark grey region moves to the right by about 10 cm."
    )


def test_few_moving_points_on_a_still_thing_are_not_its_motion():
    episode = scene([(-0.2, 0, 1.0), (0.2, 0, 1.0)], [(0.2, 0, 0), (0, 0, 0)])
    tracks = episode.tracks
    # A red point is counted to a blue thing that has 20 still ones.
    more = np.concatenate([np.arange(16), np.repeat(np.arange(8, 16), 2)])
    per_frame = {name: getattr(tracks, name)[:, more] for name in ("xyz_world", "uv", "visible", "valid")}
    tracks = dataclasses.replace(tracks, **per_frame, entity=tracks.entity[more])
    tracks.entity[0] = 1
    episode = dataclasses.replace(episode, tracks=tracks, motion=dataclasses.replace(episode.motion, moving=episode.motion.moving[more]))
    assert describe(episode).interaction == "The red region moves to the right by about 20 cm."


def test_two_of_the_same_look_are_told_apart():
    answer = describe(scene([(-0.35, 0, 1.0), (0.35, 0, 1.0)], [(0, 0.2, 0), (0, -0.1, 0)], [RED, RED]))
    assert answer.text == (
        "The red region on the left moves down by about 20 cm, while the red region on the right moves up by about 10 cm."
    )
    assert answer.before == "A red region is on the left, about 1.0 m from the camera; " + (
        "a red region is on the right, about 1.0 m from the camera."
    )
    assert answer.after == "The red region that began on the left is at the bottom left; " + (
        "the red region that began on the right is still on the right, but about 10 cm farther up."
    )
    twins = describe(scene([(-0.05, 0, 1.0), (0.05, 0, 1.0)], [(0, 0.2, 0), (0, -0.1, 0)], [RED, RED]))
    assert twins.interaction == "The first red region moves down by about 20 cm, while the second red region moves up by about 10 cm."


def test_gaps_and_short_tracks():
    episode = scene([(0, 0, 1.0)], [(0.2, 0, 0)])
    episode.tracks.valid[:5] = 0
    episode.tracks.xyz_world[:5] = np.nan
    episode.tracks.valid[-3:, 1:] = 0
    # Seen in the frames 5 to 27 of 30: 22/30 of the way.
    assert describe(episode).interaction == "The red region moves to the right by about 15 cm."
    # Of one track the last three frames: 2/30 of the way, a little more than 1% of the image width.
    episode.tracks.valid[:-3] = 0
    assert describe(episode).text == "Nothing that is tracked moves far."
    episode.tracks.valid[:-1] = 0
    assert describe(episode).text == "Nothing that is tracked moves.", "known once says nothing"


def known_only(episode, tracks, start, stop):
    """The episode with these tracks known from `start` to `stop` alone."""
    valid = episode.tracks.valid.copy()
    valid[:start, tracks] = valid[stop:, tracks] = 0
    return dataclasses.replace(episode, tracks=dataclasses.replace(episode.tracks, valid=valid))


def test_what_moves_is_told_although_it_is_tracked_only_briefly():
    episode = known_only(scene([(-0.3, 0, 1.0)], [(0.6, 0, 0)]), slice(None), 5, 16)
    answer = describe(episode)
    # Known in 11 of 31 frames, 10/30 of the way, which begins at a sixth of it.
    assert answer.interaction == "The red region moves to the right by about 20 cm while it is tracked."
    assert answer.text == "The red region on the left moves to the right by about 20 cm while it is tracked."
    assert answer.before == "A red region is on the left, about 1.0 m from the camera when it is first tracked."
    assert answer.after == "The red region is in the middle when it is last tracked."
    assert answer.paraphrases[0] == "The red region shifts to the right by about 20 cm while it is tracked."
    assert describe(episode, 5, 16).interaction == "The red region moves to the right by about 20 cm.", "of that event it is all"
    assert describe(episode, 16).text == "Nothing that is tracked moves."


def test_brief_ones_stand_last_and_are_not_said_to_move_at_the_same_time():
    starts, moves = [(-0.3, 0, 1.0), (0.0, -0.2, 1.0), (0.1, 0.2, 1.0)], [(0.6, 0, 0), (0, 0.1, 0), (0.6, 0, 0)]
    episode = known_only(scene(starts, moves), slice(0, 8), 0, 11)
    assert describe(episode).interaction == (
        "The dark grey region moves to the right by about 60 cm, the blue region moves down by about 10 cm, "
        "and the red region moves to the right by about 20 cm while it is tracked."
    )
    episode = known_only(scene(starts[::2], moves[::2], colours=(RED, DARK_GREY)), slice(0, 8), 0, 11)
    episode = known_only(episode, slice(8, 16), 20, 31)
    assert describe(episode).interaction == (
        "The red region moves to the right by about 20 cm while it is tracked, "
        "and the dark grey region moves to the right by about 20 cm while it is tracked."
    ), "neither together nor at the same time"


def test_lasting_tracks_that_stand_still_are_believed_before_brief_ones_that_move():
    still_at_first = np.concatenate([np.zeros((15, 3)), np.linspace([0, 0, 0], [0.3, 0, 0], NUM_FRAMES - 15)])
    for num_strays, text in (
        (3, "Some of the tracked points move."),
        (5, "The red region in the middle moves to the right by about 8 cm while it is tracked."),
    ):
        episode = known_only(scene([(0, 0, 1.0)], [still_at_first]), slice(0, num_strays), 0, 5)
        episode.tracks.xyz_world[:5, :num_strays, 0] += 0.02 * np.arange(5, dtype=np.float32)[:, None]
        assert describe(episode, 0, 15).text == text


def test_it_is_never_said_that_nothing_moves_while_something_does():
    """A point on a thing of 24, what lies behind the camera at first, and what moves less than anybody would tell."""
    episode = scene([(0, 0, 1.0)] * 3, [(0.2, 0, 0), (0, 0, 0), (0, 0, 0)])
    one_of_24 = np.arange(24) == 0
    episode = dataclasses.replace(
        episode,
        tracks=dataclasses.replace(episode.tracks, entity=np.zeros(24, np.int32)),
        motion=dataclasses.replace(episode.motion, moving=one_of_24.astype(np.uint8)),
    )
    assert describe(episode).interaction == "Some of the tracked points move."
    turn = np.tile(np.eye(4), (NUM_FRAMES, 1, 1))
    turn[0, [0, 2], [0, 2]] = -1  # the first camera looks the other way
    behind = scene([(0, 0, 1.0)], [(0.2, 0, 0)])
    behind = dataclasses.replace(behind, geometry=dataclasses.replace(behind.geometry, world_from_camera=turn))
    behind.tracks.valid[0] = 0
    assert describe(behind).interaction == "Some of the tracked points move."
    for share, text in ((0.018, "Nothing that is tracked moves far."), (0.001, "Nothing that is tracked moves.")):
        slow = describe(scene([(0, 0, 1.0)], [(share * WIDTH / K[0, 0], 0, 0)]))
        assert slow.text == slow.interaction == text


def test_paraphrases_differ_and_read_as_sentences():
    for answer in (
        describe(scene([(-0.3, 0, 1.0), (0.3, 0, 1.0)], [(0.42, 0, 0), (-0.15, 0, 0)])),
        describe(scene([(0, 0, 1.0)], [(0, 0, 0)])),
        describe(scene([(0, 0, 1.0)], [(0.01, 0, 0)])),
        describe(known_only(scene([(-0.3, 0, 1.0), (0.3, 0, 1.0)], [(0.42, 0, 0), (-0.15, 0, 0)]), slice(None), 0, 12)),
    ):
        texts = [answer.text, *answer.paraphrases]
        assert len(texts) >= 4 and len(set(texts)) == len(texts)
        for text in [*texts, answer.before, answer.interaction, answer.after]:
            assert text[0].isupper() and text.endswith(".") and "  " not in text and ".." not in text and " ," not in text


def test_merge():
    merge = Template(BackendSetup()).merge
    assert merge(["The cup moves up.", "Nothing moves."]) == "First, the cup moves up; then, nothing moves."
    assert merge(["Some of the tracked points move.", "B."]) == "First, some of the tracked points move; then, B."
    assert merge(["A.", "B.", "C."]) == "First, A; then, B; finally, C."
    assert merge(["The cup moves up."] * 3) == "The cup moves up."
    assert merge(["A.", "B.", "C.", "D.", "E.", "F."]) == "First, A; then, B; then, 3 more steps follow; finally, F."


@pytest.mark.parametrize(
    "rgb, name",
    [
        ((0, 0, 0), "black"), ((255, 255, 255), "white"), ((128, 128, 128), "grey"),
        ((70, 70, 74), "dark grey"), ((200, 200, 195), "light grey"),
        ((255, 0, 0), "red"), ((255, 140, 0), "orange"), ((250, 220, 30), "yellow"), ((30, 160, 40), "green"), ((30, 60, 220), "blue"),
        ((110, 70, 40), "brown"), ((220, 190, 150), "beige"), ((0, 0, 90), "dark blue"), ((180, 210, 250), "light blue"),
        ((250, 150, 200), "light pink"), ((130, 40, 190), "purple"), ((40, 200, 190), "turquoise"),
    ],
)  # fmt: skip
def test_colour_names(rgb, name):
    assert colour_name(rgb) == name


def test_every_colour_has_a_name():
    rng = np.random.default_rng(4)
    assert all(colour_name(rgb) for rgb in rng.integers(0, 256, (2000, 3)))


def test_needs_tracks():
    episode = scene([(0, 0, 1.0)], [(0.1, 0, 0)])
    with pytest.raises(BadDataError, match="tracks"):
        describe(Episode("clip", episode.video, keypoints=episode.keypoints))


def test_is_always_there():
    assert Template.missing(BackendSetup()) is None
    assert Template(BackendSetup()).weights_sha256() == "" and Template.name == "template"
