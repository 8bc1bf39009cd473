import os
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from tracekit.backends.features.lowlevel import Lowlevel
from tracekit.backends.protocols import BackendSetup, PatchFeatures
from tracekit.errors import BadDataError, ConfigurationError
from tracekit.extract.keypoints import PRESETS, KeypointsParameters, select_keypoints
from tracekit.records import CameraSensor, Keypoints
from tracekit.report import Report

REAL_DATA = Path(os.environ.get("TRACEKIT_REAL_DATA", Path(__file__).parents[3] / "shared" / "data"))
HEIGHT, WIDTH, SIDE = 240, 320, 56


def textured(shape, colour, generator):
    noise = cv2.GaussianBlur(generator.normal(size=shape).astype(np.float32), (0, 0), 1.5)
    return np.clip(np.float32(colour) + 90 * noise[..., None], 0, 255).astype(np.uint8)


def moving_squares(num_frames=40):
    """Two red squares that move apart on textured green, a tiny blue one that rests; (T, H, W, 3), and which is where (T, H, W)."""
    generator = np.random.default_rng(0)
    background = textured((HEIGHT, WIDTH), (60, 130, 50), generator)
    red, blue = textured((SIDE, SIDE), (200, 40, 40), generator), textured((22, 22), (40, 50, 210), generator)
    frames, truth = np.repeat(background[None], num_frames, axis=0), np.zeros((num_frames, HEIGHT, WIDTH), int)
    for t in range(num_frames):
        for thing, picture, x, y in ((1, red, 40 + t, 30), (2, red, 200 - t, 150), (3, blue, 280, 30)):
            place = np.s_[t, y : y + len(picture), x : x + len(picture)]
            frames[place] = picture
            truth[place] = thing
    return frames, truth


def choose(frames, features=None, seed=0, report=None, sensor_depth=None, camera_sensor=None, **settings):
    return select_keypoints(
        frames,
        features or Lowlevel(BackendSetup()),
        KeypointsParameters(**settings),
        seed=seed,
        report=report or Report(),
        sensor_depth=sensor_depth,
        camera_sensor=camera_sensor,
    )


@pytest.fixture(scope="module")
def squares():
    frames, truth = moving_squares()
    found = choose(frames, chunk=14, budget=100)
    u, v = found.uv.astype(int).T
    return SimpleNamespace(frames=frames, truth=truth, found=found, thing=truth[found.frame, v, u])


def test_every_chunk_gets_its_budget_and_every_field_its_shape(squares):
    found = squares.found
    assert np.bincount(found.chunk).tolist() == [100, 100, 100]
    assert list(zip(found.chunk_start.tolist(), found.chunk_stop.tolist(), strict=True)) == [(0, 14), (14, 28), (28, 40)]
    sizes = {"T": 40}
    for declared in fields(Keypoints):
        spec, value = declared.metadata["spec"], getattr(found, declared.name)
        if spec.shape is None:
            assert isinstance(value, {"f8": float, "i4": int, "str": str}[spec.dtype]), declared.name
            continue
        assert value.dtype == np.dtype(spec.dtype), declared.name
        assert value.ndim == len(spec.shape), declared.name
        for axis, size in zip(spec.shape, value.shape, strict=True):
            assert size == (axis if isinstance(axis, int) else sizes.setdefault(axis, size)), declared.name
    assert (found.chunk_start[found.chunk] <= found.frame).all()
    assert (found.frame < found.chunk_stop[found.chunk]).all()
    assert set(found.entity) <= set(found.entity_id)
    assert set(found.labels.ravel()) == set(found.entity_id)
    assert set(found.frame) <= set(found.label_frame)
    assert (np.diff(found.label_frame) > 0).all()


def test_every_thing_carries_points_and_they_lie_on_it(squares):
    found = squares.found
    for chunk in range(3):
        for thing in (1, 2, 3):
            on_it = (squares.thing == thing) & (found.chunk == chunk)
            assert on_it.sum() >= KeypointsParameters().minimum_quota - 1, f"thing {thing} in chunk {chunk}"
            # The entity that has most of these points has hardly any elsewhere.
            entity = np.bincount(found.entity[on_it]).argmax()
            mine = (found.entity == entity) & (found.chunk == chunk)
            assert (squares.thing[mine] == thing).mean() >= 0.9


def test_points_keep_off_outlines(squares):
    for frame in np.unique(squares.found.frame):
        edges = cv2.morphologyEx(squares.truth[frame].astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))
        distance = cv2.distanceTransform((edges == 0).astype(np.uint8), cv2.DIST_L2, 5)
        u, v = squares.found.uv[squares.found.frame == frame].astype(int).T
        assert (distance[v, u] >= 2).all()


def test_identities_last_through_the_clip_and_tell_twins_apart(squares):
    found = squares.found
    entities = {
        thing: {np.bincount(found.entity[(squares.thing == thing) & (found.chunk == chunk)]).argmax() for chunk in range(3)}
        for thing in range(4)
    }
    assert all(len(names) == 1 for names in entities.values()), entities
    assert len(set.union(*entities.values())) == 4, entities


def test_entities_know_their_colour_and_size(squares):
    found = squares.found
    for thing, colour in ((0, (60, 130, 50)), (1, (200, 40, 40)), (3, (40, 50, 210))):
        entity = np.bincount(found.entity[squares.thing == thing]).argmax()
        np.testing.assert_allclose(found.entity_rgb[entity], colour, atol=35)
    np.testing.assert_array_equal(found.entity_num_patches, np.bincount(found.labels.ravel(), minlength=len(found.entity_id)))
    visible = [(found.labels == entity).any(axis=(1, 2)).sum() for entity in found.entity_id]
    np.testing.assert_array_equal(found.entity_num_frames, visible)


def test_each_entity_is_placed_early_and_as_a_whole_and_again_later(squares):
    """Half of its keypoints and a minimum quota at least lie on the first frame that shows nearly all of it."""
    found = squares.found
    for chunk in range(3):
        rows = (found.label_frame >= found.chunk_start[chunk]) & (found.label_frame < found.chunk_stop[chunk])
        for entity in np.unique(found.entity[found.chunk == chunk]):
            visible = (found.labels[rows] == entity).sum(axis=(1, 2))
            frames = found.frame[(found.chunk == chunk) & (found.entity == entity)]
            first = found.label_frame[rows][np.argmax(visible >= 0.8 * visible.max())]
            here = np.count_nonzero(frames == first)
            assert here >= min(len(frames), max(KeypointsParameters().minimum_quota, len(frames) / 2))
            assert len(np.unique(frames)) > 1 or len(frames) <= KeypointsParameters().minimum_quota


def test_points_are_spread_over_the_background(squares):
    """Farthest points leave no large gap: every background pixel of their frame is near one."""
    found = squares.found
    mine = (found.chunk == 0) & (squares.thing == 0)
    frame = np.bincount(found.frame[mine]).argmax()
    points = found.uv[mine & (found.frame == frame)]
    v, u = np.nonzero(squares.truth[frame] == 0)
    nearest = np.sqrt(((np.stack([u, v], axis=1)[::7, None] - points) ** 2).sum(axis=2).min(axis=1))
    spacing = np.sqrt(HEIGHT * WIDTH / len(points))
    assert nearest.max() < 1.8 * spacing


def test_the_pixel_in_a_patch_is_the_one_that_can_be_tracked():
    generator = np.random.default_rng(3)
    frame = np.full((240, 320, 3), 120, np.uint8)
    middles = np.stack(np.meshgrid(np.arange(24, 300, 16), np.arange(24, 230, 16)), axis=-1).reshape(-1, 2)
    corners = middles + generator.integers(-2, 3, middles.shape)
    for u, v in corners:
        frame[v - 1 : v + 2, u - 1 : u + 2] = 160
    found = choose(frame[None], features=Plain(), budget=60)
    distance = np.abs(found.uv[:, None] - corners).max(axis=2).min(axis=1)
    assert (distance <= 2).all()
    assert (found.score > 0).all()


def test_score_is_the_smaller_eigenvalue_of_the_structure_tensor():
    frames, _ = moving_squares(1)
    found = choose(frames, budget=20)
    grey = cv2.GaussianBlur(cv2.cvtColor(frames[0], cv2.COLOR_RGB2GRAY), (0, 0), 1.0).astype(np.float64) / 255
    across = cv2.Sobel(grey, cv2.CV_64F, 1, 0) / 4
    down = cv2.Sobel(grey, cv2.CV_64F, 0, 1) / 4
    smaller = []
    for u, v in found.uv.astype(int):
        window = np.s_[v - 3 : v + 4, u - 3 : u + 4]
        gradient = np.stack([across[window].ravel(), down[window].ravel()])
        smaller.append(np.linalg.eigvalsh(gradient @ gradient.T)[0])
    # The same up to one constant factor.
    np.testing.assert_allclose(found.score / np.mean(found.score), smaller / np.mean(smaller), rtol=1e-3)


def test_points_keep_away_from_the_edge_of_the_image(squares):
    u, v = squares.found.uv.T
    assert min(u.min(), v.min()) >= 8
    assert u.max() <= WIDTH - 9
    assert v.max() <= HEIGHT - 9


@pytest.mark.parametrize("shape", [(120, 160), (480, 640), (90, 200)])
def test_holes_and_edges_of_measured_depth_are_avoided(shape):
    frames, truth = moving_squares(3)
    height, width = shape
    rows, columns = np.arange(height) * HEIGHT // height, np.arange(width) * WIDTH // width
    depth = np.full((3, height, width), 2.0, np.float32)
    comb = 36 * width // WIDTH
    depth[:, ::2, :comb] = 0  # a comb of holes on the left: nothing there is far from one
    depth[truth[:, rows][:, :, columns] == 2] = 1.0  # the second square stands before the background
    report = Report()
    found = choose(frames, budget=60, sensor_depth=depth, report=report)
    column = ((found.uv[:, 0] + 0.5) * width / WIDTH).astype(int)
    row = ((found.uv[:, 1] + 0.5) * height / HEIGHT).astype(int)
    assert (depth[found.frame, row, column] > 0).all()
    assert (column >= comb).all()
    assert report.counts["keypoints on a hole or an edge of the measured depth"] == 0
    around = np.stack([depth[found.frame, row + y, column + x] for y in (-1, 0, 1) for x in (-1, 0, 1)])
    assert (around.min(axis=0) == around.max(axis=0)).all(), "a point straddles a jump in depth"


def test_without_any_depth_return_points_are_placed_all_the_same_and_counted():
    frames, _ = moving_squares(2)
    report = Report()
    found = choose(frames, budget=30, sensor_depth=np.zeros((2, 60, 80), np.float32), report=report)
    assert len(found.uv) == 30
    assert report.counts["keypoints on a hole or an edge of the measured depth"] == 30


def test_what_has_no_measured_depth_gets_no_share_and_is_counted():
    frames, truth = moving_squares(5)
    frames[:, :100, :] = (120, 160, 220)  # a sky
    depth = np.full(truth.shape, 2.0, np.float32)
    depth[:, :100] = 0
    report = Report()
    found = choose(frames, budget=80, sensor_depth=depth, report=report)
    assert len(found.uv) == 80
    assert found.uv[:, 1].min() > 100
    rows = found.labels.shape[1]
    without = np.arange(rows) * HEIGHT // rows < 100 - HEIGHT / rows
    assert report.counts["patches without measured depth, which get no share of the budget"] >= 5 * without.sum() * found.labels.shape[2]


def test_depth_tells_apart_what_looks_alike():
    """A thing in the colour of what is behind it: with depth it is an entity, and its points lie on it and off its outline."""
    picture = textured((HEIGHT, WIDTH), (90, 90, 90), np.random.default_rng(5))
    frames = np.repeat(picture[None], 3, axis=0)
    depth = np.full((3, HEIGHT, WIDTH), 2.0, np.float32)
    depth[:, 83:157, 101:199] = 1.5
    for sensor_depth in (depth, None):
        found = choose(frames, sensor_depth=sensor_depth)
        u, v = found.uv.astype(int).T
        inside = (v >= 83) & (v < 157) & (u >= 101) & (u < 199)
        shared = set(found.entity[inside]) & set(found.entity[~inside])
        if sensor_depth is None:
            assert shared, "colour alone cannot tell"
            continue
        assert not shared
        assert inside.sum() >= 24
        off = np.min([u - 101, 198 - u, v - 83, 156 - v], axis=0)[inside]
        assert off.min() >= 1
        assert (off >= 3).mean() > 0.9


@pytest.mark.parametrize("measured", [True, False])
def test_with_quota_motion_most_points_lie_on_what_moves(squares, measured):
    frames, truth = squares.frames[:30], squares.truth[:30]
    things = {}
    for quota in ("coverage", "motion"):
        report = Report()
        depth = np.where(truth > 0, 1.5, 2.0).astype(np.float32) if measured else None
        camera = fixed_camera(30) if measured else None
        found = choose(frames, budget=100, quota=quota, sensor_depth=depth, camera_sensor=camera, report=report)
        assert len(found.uv) == 100
        u, v = found.uv.astype(int).T
        things[quota] = np.bincount(truth[found.frame, v, u], minlength=4)
    assert things["motion"][[1, 2]].sum() >= 80
    assert things["motion"][[1, 2]].min() >= 25
    assert things["motion"][[0, 3]].min() >= 1, "what rests keeps a little"
    assert things["coverage"][[1, 2]].sum() < 50
    assert not report.notes


def test_where_nothing_moves_quota_motion_is_quota_coverage_and_says_so():
    frames = np.repeat(moving_squares(1)[0], 20, axis=0)
    report = Report()
    found, by_coverage = choose(frames, quota="motion", report=report), choose(frames)
    assert any("nothing was seen to move" in note for note in report.notes)
    for declared in fields(Keypoints):
        np.testing.assert_array_equal(getattr(found, declared.name), getattr(by_coverage, declared.name))


def test_the_same_seed_gives_the_same_points():
    frames, _ = moving_squares(8)
    first, again = choose(frames, seed=4, chunk=5), choose(frames.copy(), seed=4, chunk=5)
    for declared in fields(Keypoints):
        np.testing.assert_array_equal(getattr(first, declared.name), getattr(again, declared.name))


class Guarded:
    """Frames of a long clip that are made when asked for, a few at a time, and remember what was read."""

    def __init__(self, picture, num_frames):
        self.picture, self.shape, self.reads = picture, (num_frames, *picture.shape), []

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, index):
        assert isinstance(index, slice)
        assert index.stop - index.start <= 5
        self.reads += range(index.start, index.stop)
        return np.repeat(self.picture[None], index.stop - index.start, axis=0)


def test_only_representative_frames_are_read():
    frames = Guarded(moving_squares(1)[0][0], 6000)
    found = choose(frames, chunk=1000, budget=40)
    assert frames.reads == found.label_frame.tolist()
    assert len(frames.reads) == 6 * 5
    assert frames.reads[:5] == [0, 250, 500, 749, 999]


@pytest.mark.parametrize("shape", [(1, 5, 7), (2, 40, 9), (1, 64, 64), (3, 1, 1)])
@pytest.mark.parametrize("noisy", [False, True])
def test_tiny_and_plain_clips_are_no_error(shape, noisy):
    frames = np.full((*shape, 3), 128, np.uint8)
    if noisy:
        frames = np.random.default_rng(0).integers(0, 256, frames.shape).astype(np.uint8)
    report = Report()
    found = choose(frames, budget=50, report=report)
    missing = report.counts["keypoints of the budget with no pixel left to lie on"]
    assert len(found.uv) + missing == 50
    assert missing == 0 or shape[1] * shape[2] < 50
    assert len(np.unique(np.concatenate([found.uv, found.frame[:, None]], axis=1), axis=0)) == len(found.uv)


def test_a_plain_clip_is_one_entity():
    assert len(choose(np.full((3, 64, 64, 3), 128, np.uint8)).entity_id) == 1


def test_no_frames_give_no_keypoints():
    found = choose(np.zeros((0, 48, 64, 3), np.uint8))
    assert found.uv.shape == (0, 2)
    assert found.entity.shape == (0,)
    assert found.entity_rgb.shape == (0, 3)
    assert found.labels.shape[0] == len(found.chunk_start) == 0


def test_a_budget_smaller_than_the_number_of_entities_goes_to_the_largest():
    frames, truth = moving_squares(1)
    found = choose(frames, budget=1)
    u, v = found.uv[0].astype(int)
    assert truth[0, v, u] == 0


class Plain:
    """Sees the same in every patch."""

    name = "plain"

    def describe(self, frames):
        return PatchFeatures(np.ones((len(frames), 15, 20, 4), np.float32))


class Broken:
    name = "broken"

    def describe(self, frames):
        features = np.ones((len(frames), 4, 5, 3), np.float32)
        features[2, 1, 1, 0] = np.nan
        return PatchFeatures(features)


def test_features_that_are_not_finite_stop_with_the_frame():
    with pytest.raises(BadDataError, match="frame 20 from backend 'broken'"):
        choose(np.zeros((41, 48, 64, 3), np.uint8), features=Broken())


def test_parameters_are_checked():
    with pytest.raises(ConfigurationError, match="--budget"):
        choose(np.zeros((1, 48, 64, 3), np.uint8), budget=0)


def test_as_many_points_for_every_entity_whatever_the_budget_and_however_much_it_covers(squares):
    frames = squares.frames[:20]
    found = choose(frames, chunk=20, budget=7, points_per_entity=12, quota="motion")
    seen = {entity for labels in found.labels for entity in np.unique(labels)}
    assert len(seen) >= 4  # the meadow and three squares
    counts = np.bincount(found.entity, minlength=len(found.entity_id))
    assert counts[sorted(seen)].tolist() == [12] * len(seen)
    assert found.budget == 12 * len(seen)


def test_entities_are_found_on_every_nth_frame_of_each_chunk(squares):
    found = choose(squares.frames, chunk=14, representative_frames=2, representative_every=5)
    assert found.label_frame.tolist() == [0, 5, 10, 14, 19, 24, 28, 33, 38]


def test_the_release_preset_is_that_of_its_code(squares):
    """infer.py: 48 points an entity, every fifth frame of 360."""
    settings = {name: value for name, value in PRESETS["release"].items() if name not in ("backend", "fps")}
    found = choose(squares.frames, **settings)
    assert found.label_frame.tolist() == list(range(0, 40, 5)) and len(found.chunk_start) == 1
    counts = np.bincount(found.entity, minlength=len(found.entity_id))
    seen = np.unique(found.labels)
    assert len(seen) <= 12 and counts.max() == 48 and found.budget == 48 * len(seen)


def test_things_that_look_alike_are_one_entity_unless_they_must_hang_together(squares):
    def things_of_red_entities(connected):
        found = choose(squares.frames[:14], chunk=14, budget=100, connected=connected)
        u, v = found.uv.astype(int).T
        on = squares.truth[:14][found.frame, v, u]
        return [{1, 2} & set(on[found.entity == entity]) for entity in np.unique(found.entity[np.isin(on, (1, 2))])]

    assert sorted(things_of_red_entities(True), key=sum) == [{1}, {2}]
    assert {1, 2} in things_of_red_entities(False)


def fixed_camera(num_frames):
    intrinsics = np.array([[600.0, 0, 319.5], [0, 600.0, 239.5], [0, 0, 1]])
    return CameraSensor(intrinsics, np.repeat(np.eye(4)[None], num_frames, axis=0))


def real_frames(name, numbers):
    import av

    if not (REAL_DATA / name).exists():
        pytest.skip(f"no real recordings at {REAL_DATA}")
    with av.open(str(REAL_DATA / name)) as container:
        frames = {}
        for number, frame in enumerate(container.decode(video=0)):
            if number in numbers:
                frames[number] = frame.to_ndarray(format="rgb24")
            if number >= max(numbers):
                break
    return np.stack([frames[number] for number in numbers])


def entity_at(found, frame_number, u, v, shape):
    rows, columns = found.labels.shape[1:]
    return found.labels[frame_number, int(v * rows / shape[0]), int(u * columns / shape[1])]


def test_two_real_sheep_are_two_entities_with_points_on_each():
    """Positions were read off the pictures by a human eye."""
    frames = real_frames("sheep.mp4", (0, 15, 30, 44, 59))
    found = choose(frames)
    front = {entity_at(found, 0, 300, 160, (406, 724)), entity_at(found, 3, 250, 190, (406, 724))}
    back = {entity_at(found, 0, 580, 170, (406, 724)), entity_at(found, 3, 560, 170, (406, 724))}
    grass = {entity_at(found, shown, u, 380, (406, 724)) for shown in range(5) for u in (60, 650)}
    assert [len(names) for names in (front, back, grass)] == [1, 1, 1]
    assert len(front | back | grass) == 3
    assert all(np.count_nonzero(found.entity == names.pop()) >= 8 for names in (front, back))


def test_real_robot_arm_drawer_and_vegetables_carry_points():
    pictures = sorted((REAL_DATA / "bridge_drawer" / "rgb").glob("*.jpg"))
    if not pictures:
        pytest.skip(f"no real recordings at {REAL_DATA}")
    frames = np.stack([cv2.cvtColor(cv2.imread(str(picture)), cv2.COLOR_BGR2RGB) for picture in pictures])
    depth = np.stack([cv2.imread(str(p.parents[1] / "depth" / (p.stem + ".png")), cv2.IMREAD_UNCHANGED) for p in pictures]) / 1000.0
    assert depth.shape[0] == len(frames)
    report = Report()
    found = choose(frames, report=report, sensor_depth=depth.astype(np.float32))
    assert len(found.uv) == 256
    # The cabbage and the peppers never move: boxes (left, top, right, bottom) that hold them in every frame.
    for box in ((415, 275, 492, 355), (285, 420, 350, 480), (475, 395, 580, 480)):
        inside = (found.uv >= box[:2]).all(axis=1) & (found.uv <= box[2:]).all(axis=1)
        assert inside.sum() >= 4, box
    # In the first picture the arm hangs before a black recess; read off by a human eye: its upper part, its hand, its finger.
    arm = {entity_at(found, 0, u, v, (480, 640)) for u, v in ((300, 90), (320, 170), (225, 120))}
    recess = {entity_at(found, 0, u, v, (480, 640)) for u, v in ((460, 145), (550, 190))}
    assert not arm & recess
    on_arm = np.isin(found.entity, list(arm))
    assert on_arm.sum() >= 14
    row, column = (found.uv[on_arm][:, ::-1].astype(int) * np.array(depth.shape[1:]) // [480, 640]).T
    assert (depth[found.frame[on_arm], row, column] > 0).mean() >= 0.9

    moving = choose(frames, sensor_depth=depth.astype(np.float32), camera_sensor=fixed_camera(len(frames)), quota="motion")
    assert np.isin(moving.entity, list(arm)).sum() >= max(40, 3 * on_arm.sum())
    assert not np.isin(moving.entity, list(recess)).sum() > 10
