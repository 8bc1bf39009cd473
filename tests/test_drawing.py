"""Pictures are checked where it is known what must be there: which pixels change, and to which colour."""

import dataclasses

import cv2
import numpy as np
import pytest

from tracekit import drawing, timeline
from tracekit.errors import BadDataError
from tracekit.geometry import cameras, se3
from tracekit.records import Captions, Clip, Episode, Events, Geometry, Keypoints, Motion, Tracks

T = 24


def scene(width=160, height=120, *, pan=0.0, moving=(1, 0), captions=True):
    """Two points a metre away: one goes right by 0.4 m, one stays. The camera goes right by `pan` metres in all."""
    intrinsics = np.array([[width, 0, width / 2 - 0.5], [0, width, height / 2 - 0.5], [0, 0, 1.0]])
    along = np.linspace(0, 1, T)[:, None]
    poses = se3.from_rotation_translation(np.tile(np.eye(3), (T, 1, 1)), along * [pan, 0, 0])
    xyz = np.stack([along * [0.4, 0, 0] + [-0.2, -0.1, 1], 0 * along + [0.0, 0.2, 1]], axis=1)
    uv, _ = cameras.project(xyz, intrinsics, poses)
    ones, ints = np.ones((T, 2), np.uint8), np.zeros(2, np.int32)
    frames = np.arange(T, dtype=np.int32)
    one = np.zeros(1, np.int32)
    signal = np.sin(np.linspace(0, 4 * np.pi, T)).astype(np.float32) + 1
    texts = ["The red region moves to the right.", ""]
    no_summary = (one[:0], one[:0], one[:0], [])
    ok = np.array([1, 0], np.uint8)
    said = Captions("t", "", frames[[0, 12]], frames[[11, 23]] + 1, ok, texts, texts, texts, texts, [[], []], *no_summary)
    labels = np.zeros((1, 6, 8), np.int32)
    labels[0, :, 4:] = 1
    return Episode(
        "clip",
        Clip("x", "", 10.0, width, height, width, height, 0, "t", T, 0, frames / 10, frames),
        keypoints=Keypoints(
            20.0, 2, "t", uv[0].astype(np.float32), ints, np.array([0, 1], np.int32), ints, ints.astype(np.float32), one, one + T,
            np.array([0, 1], np.int32), ints + 24, ints + 1, np.zeros((2, 3), np.uint8), one, labels,
        ),
        geometry=Geometry("t", True, intrinsics, poses, np.ones(T), one, one, one, one, poses[:1], one, one),
        tracks=Tracks("t", xyz.astype(np.float32), uv.astype(np.float32), ones, ones.copy(), ints, np.array([0, 1], np.int32), ints, ints),
        motion=Motion(40.0, 0.1, np.ones(2, np.float32), ints, np.array(moving, np.uint8)),
        events=Events(signal, signal, frames[[3, 15]], frames[[0, 12]], frames[[11, 23]] + 1),
        captions=said if captions else None,
    )  # fmt: skip


def grey(width=160, height=120):
    return np.full((height, width, 3), 90, np.uint8)


def changed(picture, ground):
    """Rows and columns of pixels that are not what they were."""
    return np.argwhere((picture != ground).any(axis=-1))


def test_trace_lies_where_the_camera_of_this_frame_saw_the_past():
    # The camera runs along with the point. Seen from frame t the past positions lie to the left: a tail as long as the way.
    episode = scene(pan=0.4)
    picture = drawing.draw_traces(grey(), episode, T - 1, tail=T, static=False)
    marks = changed(picture, grey())
    # uv stays at x = 47.5 in every frame; in the last frame's camera the start is 0.4 m, 64 px, to the left.
    np.testing.assert_allclose(episode.tracks.uv[:, 0, 0], 47.5, atol=1e-4)
    assert marks[:, 1].max() == pytest.approx(47.5, abs=5)
    assert marks[:, 1].min() == 0
    assert marks[:, 0].min() > 43.5 - 6 and marks[:, 0].max() < 43.5 + 6
    pixels = drawing.trace_pixels(episode.tracks, episode.geometry, T - 1, [0, T - 1])
    np.testing.assert_allclose(pixels[:, 0, 0], [47.5 - 64, 47.5], atol=1e-4)


def test_tail_is_as_long_as_asked_and_fades():
    episode = scene(640, 480)
    ground = np.full((480, 640, 3), 255, np.uint8)
    picture = drawing.draw_traces(ground, episode, 20, tail=10, static=False)
    uv = episode.tracks.uv[:, 0]
    marks = changed(picture, ground)
    assert marks[:, 1].min() == pytest.approx(uv[10, 0], abs=4)
    row = round(float(uv[10, 1]))
    strength = [255 - picture[row, int((uv[t, 0] + uv[t + 1, 0]) / 2)].astype(int).mean() for t in (11, 14, 17)]
    assert strength[0] < strength[1] < strength[2]


def test_colours_are_the_entitys_or_the_ages():
    episode = scene(640, 480)
    uv = episode.tracks.uv[:, 0]
    row, column = round(float(uv[20, 1])), int((uv[19, 0] + uv[18, 0]) / 2)
    by_entity = drawing.draw_traces(grey(640, 480), episode, 20)
    np.testing.assert_allclose(by_entity[row, column].astype(int), drawing.entity_colour(0), atol=25)
    by_age = drawing.draw_traces(grey(640, 480), episode, 20, colour_by="age")
    assert np.abs(by_age[row, column].astype(int) - by_entity[row, column]).max() > 50


def test_static_points_are_drawn_unless_left_out():
    episode = scene()
    u, v = np.round(episode.tracks.uv[5, 1]).astype(int)
    assert (drawing.draw_traces(grey(), episode, 5)[v, u] != 90).any()
    assert (drawing.draw_traces(grey(), episode, 5, static=False)[v, u] == 90).all()


def test_visible_points_stand_out():
    seen, hidden = scene(640, 480), scene(640, 480)
    hidden.tracks.visible[12] = 0
    ground = grey(640, 480)
    bright, faint = (drawing.draw_traces(ground, e, 12, tail=0, static=False).astype(int) - 90 for e in (seen, hidden))
    assert 0 < np.abs(faint).sum() < 0.5 * np.abs(bright).sum()


def test_gaps_and_points_behind_the_camera_are_not_drawn():
    episode = scene()
    episode.tracks.valid[8:12, 0] = 0
    episode.tracks.xyz_world[8:12, 0] = np.nan
    picture = drawing.draw_traces(grey(), episode, 20, tail=20, static=False)
    columns = set(changed(picture, grey())[:, 1].tolist())
    uv = episode.tracks.uv[:, 0, 0]
    assert int(uv[10]) not in columns and int(uv[4]) in columns and int(uv[16]) in columns
    behind = scene()
    behind.tracks.xyz_world[..., 2] = -1
    np.testing.assert_array_equal(drawing.draw_traces(grey(), behind, 10), grey())


def test_points_far_out_of_the_image_do_no_harm():
    episode = scene()
    episode.tracks.xyz_world[10, 0] = [1e12, 0, 1e-6]
    episode.tracks.xyz_world[11, 0] = [-3e3, 1, 1]
    drawing.draw_traces(grey(), episode, 12)


def test_inputs_stay_as_they_are():
    episode, ground = scene(), grey()
    for picture in (
        drawing.draw_traces(ground, episode, 5),
        drawing.draw_keypoints(ground, episode.keypoints, 0),
        drawing.draw_before_after(ground, episode, 5),
        drawing.contact_sheet([ground], titles=["a"]),
    ):
        assert picture.dtype == np.uint8
        np.testing.assert_array_equal(ground, grey())
    frames = np.stack([ground] * T)
    frames.setflags(write=False)
    assert len(list(timeline.render_view(frames, episode))) == T


def test_keypoints_show_entities_and_their_border():
    ground = grey()
    picture = drawing.draw_keypoints(ground, dataclasses.replace(scene().keypoints, frame=np.array([3, 3], np.int32)), 0)
    left, right = picture[30, 30].astype(int), picture[30, 130].astype(int)
    for pixel, entity in ((left, 0), (right, 1)):
        tint = np.array(drawing.entity_colour(entity)) - np.mean(drawing.entity_colour(entity))
        assert np.corrcoef(tint, pixel - pixel.mean())[0, 1] > 0.95
    assert (picture[30, 80] == 255).all()
    with_points = drawing.draw_keypoints(ground, scene().keypoints, 0)
    marks = changed(with_points, picture)
    expected = scene().keypoints.uv[:, ::-1]
    for point in expected:
        assert (np.abs(marks - point) < 2).all(axis=1).any()
    assert (np.abs(marks[:, None] - expected[None]).max(axis=-1).min(axis=1) < 5).all()


def test_before_and_after_the_filter():
    episode = scene()
    picture = drawing.draw_before_after(grey(), episode, 10)
    gap, head = 2, picture.shape[0] - 120 - 4
    left = picture[gap + head : gap + head + 120, gap : gap + 160]
    right = picture[gap + head : gap + head + 120, 2 * gap + 160 : 2 * gap + 320]
    u, v = np.round(episode.tracks.uv[10, 1]).astype(int)
    assert (left[v, u] != 90).any() and (right[v, u] == 90).all()
    u, v = np.round(episode.tracks.uv[5, 0]).astype(int)
    assert (left[v, u] != 90).any() and (right[v, u] != 90).any()


def test_contact_sheet_holds_the_images():
    images = [np.full((30, 40, 3), value, np.uint8) for value in range(10, 60, 10)]
    sheet = drawing.contact_sheet(images, columns=2)
    assert sheet.shape == (3 * 32 + 2, 2 * 42 + 2, 3)
    np.testing.assert_array_equal(sheet[66:96, 2:42], images[4])
    assert (sheet[66:96, 44:84] == 255).all()
    for wrong in ([], [images[0], images[0][:10]]):
        with pytest.raises(ValueError, match="contact sheet"):
            drawing.contact_sheet(wrong)


def test_entity_colours_are_apart():
    colours = np.array([drawing.entity_colour(entity) for entity in range(12)], np.uint8)
    lab = cv2.cvtColor(colours[None].astype(np.float32) / 255, cv2.COLOR_RGB2LAB)[0]
    distance = np.linalg.norm(lab[:, None] - lab[None], axis=-1) + 1e3 * np.eye(12)
    assert distance.min() > 8
    assert np.ptp(lab[:, 0]) < 15


def test_oklch_of_grey_white_and_red():
    assert drawing.oklch(1.0, 0.0, 0.0) == (255, 255, 255)
    assert drawing.oklch(0.0, 0.0, 0.0) == (0, 0, 0)
    assert drawing.oklch(0.62796, 0.25768, 29.234) == (255, 0, 0)


def test_text_is_placed_and_clipped():
    for anchor, low, high in (("left", 50, 110), ("centre", 20, 80), ("right", 0, 51)):
        picture = np.full((40, 160, 3), 255, np.uint8)
        drawing.draw_text(picture, "Héllo", 50, 20, 14, anchor=anchor)
        marks = changed(picture, np.full_like(picture, 255))
        assert len(marks) > 20 and low <= marks[:, 1].min() and marks[:, 1].max() <= high
        assert marks[:, 0].min() > 8 and marks[:, 0].max() < 32
    drawing.draw_text(picture, "far away", 500, -30, 14)
    drawing.draw_text(picture, "", 5, 5, 14)


def test_wrapping_keeps_all_words_or_says_that_some_are_missing():
    text = "the quick brown fox jumps over the lazy dog"
    lines = drawing.wrapped(text, 14, 120, 9)
    assert " ".join(lines) == text and len(lines) > 2
    assert all(drawing.text_width(line, 14) <= 120 for line in lines)
    short = drawing.wrapped(text, 14, 120, 2)
    assert len(short) == 2 and short[1].endswith("…") and drawing.text_width(short[1], 14) <= 120
    assert drawing.wrapped("", 14, 120, 3) == [] and drawing.fitted("abc", 14, 1) == ""


def test_timeline_shows_spans_signal_and_peaks():
    episode = scene(captions=False)
    width = 640
    picture = timeline.draw_timeline(episode, width)
    margin = 12

    def x(frame):
        return margin + (width - 2 * margin) * frame / T

    # Near the top of the panel, right of the number, each span has its colour, from its first to its last frame.
    row = margin + 2
    for event, (start, stop) in enumerate([(0, 12), (12, 24)]):
        assert tuple(picture[row, int(x(start)) + 2]) == timeline.event_colour(event)
        assert tuple(picture[row, int(x(stop)) - 4]) == timeline.event_colour(event)
    red = np.argwhere((np.abs(picture.astype(int) - timeline.CURSOR) < 20).all(axis=-1))
    for peak in (3, 15):
        assert np.abs(red[:, 1] - x(peak + 0.5)).min() < 2
    assert (np.abs(red[:, 1][:, None] - [x(3.5), x(15.5)]).min(axis=1) < 10).all()


def test_cursor_runs_through_the_strip():
    episode = scene(640, 480, captions=False)
    pictures = list(timeline.render_view(np.stack([grey(640, 480)] * T), episode))
    where = []
    for picture in pictures:
        strip = picture[480:]
        where.append(np.median(np.argwhere((np.abs(strip[2:12].astype(int) - timeline.CURSOR) < 60).all(axis=-1))[:, 1]))
    steps = np.diff(where)
    np.testing.assert_allclose(steps, steps.mean(), atol=1.5)
    assert where[0] < 40 and where[-1] > 600


def test_view_is_frames_over_strip_over_caption():
    episode = scene()
    frames = np.stack([np.full((120, 160, 3), 40 + t, np.uint8) for t in range(T)])
    for t, picture in enumerate(timeline.render_view(frames, episode, tail=3)):
        np.testing.assert_array_equal(picture[:120], drawing.draw_traces(frames[t], episode, t, 3))
    with_words, without = (next(iter(timeline.render_view(frames, e))).shape for e in (episode, scene(captions=False)))
    assert with_words[0] > without[0] > 120


def test_view_of_what_there_is():
    frames = np.stack([grey()] * T)
    bare = Episode("clip", scene().video)
    for picture, frame in zip(timeline.render_view(frames, bare), frames, strict=True):
        np.testing.assert_array_equal(picture, frame)


@pytest.mark.parametrize("width, height", [(64, 48), (65, 49), (1920, 1080)])
def test_any_size(width, height):
    episode = scene(width, height)
    frame = grey(width, height)
    for picture in timeline.render_view(np.stack([frame] * 2), episode):
        assert picture.shape[0] % 2 == 0 and picture.shape[1] % 2 == 0 and picture.shape[0] > height
    marks = changed(drawing.draw_traces(frame, episode, 12), frame)
    assert 0.0005 < len(marks) / (width * height) < 0.12
    drawing.draw_before_after(frame, episode)
    drawing.draw_keypoints(frame, episode.keypoints, 0)
    timeline.draw_timeline(episode, width)


def test_nothing_to_draw():
    video = scene().video
    empty = np.zeros((0, 48, 64, 3), np.uint8)
    assert list(timeline.render_view(empty, scene())) == []
    with pytest.raises(BadDataError, match="tracks"):
        drawing.draw_traces(grey(), Episode("clip", video), 0)
    with pytest.raises(BadDataError, match="move"):
        drawing.draw_before_after(grey(), dataclasses.replace(scene(), motion=None))
    with pytest.raises(BadDataError, match="events"):
        timeline.draw_timeline(Episode("clip", video), 640)


@pytest.mark.parametrize("num_frames", [0, 1, 2])
def test_short_and_empty_episodes(num_frames):
    whole = scene()
    cut = np.arange(num_frames, dtype=np.int32)
    flat = np.full(num_frames, np.nan, np.float32)
    events = Events(flat, np.zeros(num_frames, np.float32), cut[:0], cut[:1], cut[:1] + num_frames)
    video = dataclasses.replace(whole.video, pts=cut / 10, source_frame=cut)
    episode = dataclasses.replace(whole, video=video, events=events, captions=None)
    assert timeline.draw_timeline(episode, 320).shape[1] == 320
    frames = np.stack([grey()] * T)[:num_frames]
    assert len(list(timeline.render_view(frames, episode))) == num_frames
    # No tracks at all.
    full = whole.tracks
    none = Tracks("t", *(array[:, :0] for array in (full.xyz_world, full.uv, full.visible, full.valid)), *[cut[:0]] * 4)
    episode = dataclasses.replace(whole, tracks=none, motion=None)
    np.testing.assert_array_equal(drawing.draw_traces(grey(), episode, 0), grey())
