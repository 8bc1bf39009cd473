import dataclasses
import os
import tempfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from moving_scene import HEIGHT, INTRINSICS, WIDTH, MovingScene, keypoints

from tracekit.backends.protocols import BackendSetup
from tracekit.backends.tracking.klt import KLT
from tracekit.backends.worker import WorkerMemoryError
from tracekit.errors import BadDataError, StorageError
from tracekit.extract import followed_tracks
from tracekit.extract.chunks import chunk_bounds
from tracekit.extract.filter import FilterParameters, filter_moving
from tracekit.extract.track import TrackParameters, track
from tracekit.geometry import cameras
from tracekit.records import Geometry
from tracekit.report import Report

NUM_FRAMES = 84


@pytest.fixture(scope="module")
def scene() -> MovingScene:
    return MovingScene(NUM_FRAMES)


class Oracle:
    """A tracker that is told where the points of a scene are, and remembers what it was asked."""

    name = "oracle"

    def __init__(self, scene: MovingScene, hidden=lambda frame: np.zeros(np.shape(frame), bool)) -> None:
        self.scene, self.hidden = scene, hidden
        self.calls = []
        self.paths = {}

    def track(self, frames, depth, intrinsics, world_from_camera, queries_world, query_frames, identities):
        first = int(np.flatnonzero((self.scene.frames[:, 0, :5, 0] == frames[0][0, :5, 0]).all(axis=1))[0])
        self.calls.append((first, len(frames), queries_world.copy(), query_frames.copy(), identities.copy()))
        assert frames.dtype == np.uint8 and np.array_equal(frames, self.scene.frames[first : first + len(frames)])
        assert depth is None or len(depth) == len(frames)
        np.testing.assert_array_equal(world_from_camera, self.scene.world_from_camera[first : first + len(frames)])
        xyz = np.full((len(frames), len(identities), 3), np.nan)
        for column, identity in enumerate(identities):
            if identity not in self.paths:
                frame = first + query_frames[column]
                uv, _ = cameras.project(queries_world[column : column + 1], INTRINSICS, self.scene.world_from_camera[frame])
                self.paths[identity] = self.scene.path_of(uv, frame)[:, 0]
            xyz[:, column] = self.paths[identity][first : first + len(frames)]
        xyz[self.hidden(first + np.arange(len(frames)))] = np.nan
        return xyz, np.isfinite(xyz).all(axis=-1)


def run(scene, candidates, tracker, with_depth=True, report=None, geometry=None, **parameters):
    return track(
        scene.frames, candidates, geometry or scene.geometry(with_depth), tracker, TrackParameters(**parameters), report=report or Report()
    )


def truth(scene, candidates, tracks):
    path = np.concatenate(
        [scene.path_of(candidates.uv[k : k + 1].astype(np.float64), int(candidates.frame[k])) for k in tracks.keypoint], axis=1
    )
    uv = np.stack([cameras.project(path[t], INTRINSICS, scene.world_from_camera[t])[0] for t in range(scene.num_frames)])
    return path, uv


def mixed_candidates(scene, chunk=NUM_FRAMES):
    early, late = scene.corners(0, 70), scene.corners(9, 40)
    return keypoints(np.concatenate([early, late]), np.repeat([0, 9], [len(early), len(late)]), NUM_FRAMES, chunk)


@pytest.mark.parametrize("with_depth", [pytest.param(True, marks=pytest.mark.slow), False])
def test_a_long_clip_cut_into_chunks_gives_the_same_tracks(scene, with_depth):
    candidates = mixed_candidates(scene)
    whole = run(scene, candidates, KLT(BackendSetup()), with_depth, chunk=NUM_FRAMES)
    for num_chunks in (2, 3, 7):
        assert len(chunk_bounds(NUM_FRAMES, NUM_FRAMES // num_chunks)) == num_chunks
        cut = run(scene, candidates, KLT(BackendSetup()), with_depth, chunk=NUM_FRAMES // num_chunks, retire_after=100)
        np.testing.assert_array_equal(cut.keypoint, whole.keypoint)
        np.testing.assert_array_equal(cut.visible, whole.visible)
        difference = np.linalg.norm(cut.uv - whole.uv, axis=-1)[whole.valid == 1]
        assert difference.max() < 0.5
        assert np.median(difference) < 0.01


def test_tracks_follow_the_truth(scene):
    candidates = mixed_candidates(scene)
    found = run(scene, candidates, KLT(BackendSetup()), chunk=28)
    path, uv = truth(scene, candidates, found)
    shown, visible = scene.shown(path), found.visible == 1
    error = np.linalg.norm(found.uv - uv, axis=-1)
    assert visible[shown].mean() > 0.95
    assert np.percentile(error[visible], 90) < 0.5
    assert np.mean(error[visible] > 2) < 0.01
    distance = np.linalg.norm(found.xyz_world - path, axis=-1)
    assert np.percentile(distance[visible], 95) < 0.005
    # What the filter is for: tracks on the wall stand still, although the camera moves; tracks on the boards move.
    motion = filter_moving(found, scene.geometry(), WIDTH, HEIGHT, FilterParameters(threshold=15.0), report=Report())
    pixel = np.rint(candidates.uv[found.keypoint]).astype(int)
    board = scene.surface[candidates.frame[found.keypoint], pixel[:, 1], pixel[:, 0]]
    long_lived = visible.sum(axis=0) > 40
    assert not motion.moving[board == 0].any()
    assert motion.moving[(board > 0) & long_lived].mean() > 0.9


def test_a_track_is_queried_at_the_frame_before_the_chunk_exactly_where_it_was(scene):
    candidates = mixed_candidates(scene)
    oracle = Oracle(scene)
    found = run(scene, candidates, oracle, chunk=28)
    assert [(first, number) for first, number, *_ in oracle.calls] == [(0, 28), (27, 29), (55, 29)]
    for first, _, queries, query_frames, identities in oracle.calls[1:]:
        np.testing.assert_array_equal(query_frames, 0)
        np.testing.assert_array_equal(queries.astype(np.float32), found.xyz_world[first, identities])
    path, uv = truth(scene, candidates, found)
    assert np.abs(found.xyz_world - path).max() < 1e-5 and np.abs(found.uv - uv).max() < 1e-2
    np.testing.assert_array_equal(found.born, candidates.frame[found.keypoint])
    assert (found.entity == 7).all() and found.tracker == "oracle"


def test_uv_is_the_projection_and_what_is_lost_is_nan(scene):
    found = run(scene, mixed_candidates(scene), KLT(BackendSetup()), chunk=28)
    assert found.xyz_world.dtype == np.float32 and found.uv.dtype == np.float32
    for frame in range(NUM_FRAMES):
        uv, _ = cameras.project(found.xyz_world[frame].astype(np.float64), INTRINSICS, scene.world_from_camera[frame])
        np.testing.assert_allclose(found.uv[frame], uv, atol=1e-3)
    np.testing.assert_array_equal(np.isfinite(found.xyz_world).all(-1), found.valid == 1)
    np.testing.assert_array_equal(np.isnan(found.uv).any(-1), found.valid == 0)
    assert (found.valid == 0).any() and (found.visible <= found.valid).all()


def test_a_lost_point_is_queried_by_its_last_valid_position_until_it_retires(scene):
    candidates = keypoints(scene.corners(0, 5), np.zeros(5), NUM_FRAMES, NUM_FRAMES)
    oracle = Oracle(scene, hidden=lambda frame: frame >= 10)
    found = run(scene, candidates, oracle, chunk=12, retire_after=3)
    assert [first for first, *_ in oracle.calls] == [0, 11, 23, 35]
    for _, _, queries, _, identities in oracle.calls[1:]:
        np.testing.assert_array_equal(queries.astype(np.float32), found.xyz_world[9, identities])


def test_new_tracks_start_only_on_patches_that_no_visible_track_is_near(scene):
    on_track = scene.corners(0, 3)
    patch = WIDTH / 20
    # In the second chunk: each track's own place, one patch beside it, two patches beside it.
    oracle = Oracle(scene)
    at = 40
    places = cameras.project(scene.path_of(on_track, 0)[at], INTRINSICS, scene.world_from_camera[at])[0]
    beside = np.where(places[:, :1] < WIDTH / 2, 1, -1) * [patch, 0]
    later = np.concatenate([places, places + beside, places + 2 * beside])
    candidates = keypoints(np.concatenate([on_track, later]), np.repeat([0, at], [3, 9]), NUM_FRAMES, 28)

    def chosen(tracker, **parameters):
        report = Report()
        found = run(scene, candidates, tracker, report=report, chunk=28, least_tracks=0, **parameters)
        return found, set(found.keypoint.tolist()), report.counts["candidates on patches that a track covers already"]

    def near(index, reach):
        cell = np.floor((candidates.uv + 0.5) / patch).astype(int)
        live = np.floor((places + 0.5) / patch).astype(int)
        return (np.abs(cell[index] - live).max(axis=1) <= reach).any()

    found, kept, covered = chosen(oracle)
    assert kept == {0, 1, 2} | {k for k in range(3, 12) if not near(k, 1)}
    assert covered == 12 - len(kept) and 6 <= covered < 9
    _, kept, _ = chosen(Oracle(scene), cover_dilation=0)
    assert kept == {0, 1, 2} | {k for k in range(3, 12) if not near(k, 0)}
    # Once the tracks are lost, they cover nothing.
    _, kept, covered = chosen(Oracle(scene, hidden=lambda frame: (frame >= 30) & (frame <= at)))
    assert kept == set(range(12)) and covered == 0
    # New tracks are tracked from their own frame, backwards to the start of their chunk and no farther.
    new = np.flatnonzero(found.keypoint >= 3)
    assert len(new) > 0
    np.testing.assert_array_equal(found.born[new], at)
    np.testing.assert_array_equal(found.chunk[new], 1)
    assert (found.valid[:28, new] == 0).all() and (found.valid[28:, new] == 1).all()


def test_a_track_keeps_others_away_from_its_own_entity_only_and_not_where_tracks_are_few(scene):
    on_track, patch, at = scene.corners(0, 3), WIDTH / 20, 40
    places = cameras.project(scene.path_of(on_track, 0)[at], INTRINSICS, scene.world_from_camera[at])[0]
    beside = places + np.where(places[:, :1] < WIDTH / 2, 1, -1) * [patch, 0]
    candidates = keypoints(np.concatenate([on_track, places, beside]), np.repeat([0, at], [3, 6]), NUM_FRAMES, 28)

    def kept(entities, labels, **parameters):
        on = dataclasses.replace(candidates, entity=np.asarray(entities, np.int32), labels=np.full_like(candidates.labels, labels))
        return set(run(scene, on, Oracle(scene), chunk=28, **parameters).keypoint.tolist())

    first, second = [7] * 3, [8] * 6
    # Of the same entity, none starts near a track; of another, only where a track is itself.
    assert kept(first + [7] * 6, labels=7, least_tracks=3) == {0, 1, 2}
    assert kept(first + second, labels=7, least_tracks=0) == {0, 1, 2, 6, 7, 8}
    # Tracks that have come to lie on the other entity count for both.
    assert kept(first + second, labels=8, least_tracks=0) == {0, 1, 2}
    # Fewer than asked for: all start.
    assert kept(first + [7] * 6, labels=7, least_tracks=4) == set(range(9))
    assert kept(first + second, labels=7, least_tracks=1) == set(range(9))


def test_candidates_without_depth_take_that_of_their_surface_or_are_dropped(scene):
    uv = scene.corners(0, 30)
    pixel = np.rint(uv).astype(int)
    depth = scene.depth.copy()
    depth[0, pixel[0, 1], pixel[0, 0]] = 0  # a speck: the surface goes on around it
    depth[0, pixel[1, 1] - 6 : pixel[1, 1] + 7, pixel[1, 0] - 6 : pixel[1, 0] + 7] = 0  # a hole
    depth[5, 3, 3], depth[5, 3, 4] = np.nan, -1
    report = Report()
    geometry = dataclasses.replace(scene.geometry(), depth=depth)
    found = run(scene, keypoints(uv, np.zeros(len(uv)), NUM_FRAMES, NUM_FRAMES), Oracle(scene), report=report, geometry=geometry)
    assert 0 in found.keypoint and 1 not in found.keypoint
    assert report.counts["candidates dropped because their depth is unknown or torn between two surfaces"] == len(uv) - len(found.keypoint)
    assert report.counts["depth pixels that are NaN, infinite or negative, taken as unknown"] == 2
    assert found.xyz_world[0, 0] == pytest.approx(scene.path_of(uv[:1], 0)[0, 0], abs=5e-3)


def test_planar_tracks_lie_on_the_plane_at_one(scene):
    found = run(scene, mixed_candidates(scene), KLT(BackendSetup()), with_depth=False, chunk=28)
    for frame in (0, 30, NUM_FRAMES - 1):
        _, z = cameras.project(found.xyz_world[frame].astype(np.float64), INTRINSICS, scene.world_from_camera[frame])
        np.testing.assert_allclose(z[found.valid[frame] == 1], 1.0, atol=1e-5)


def test_too_many_tracks_leave_out_the_weakest(scene):
    uv = scene.corners(0, 20)
    report = Report()
    candidates = keypoints(uv, np.zeros(20), NUM_FRAMES, NUM_FRAMES)
    scores = np.random.default_rng(0).random(20).astype(np.float32)
    found = run(scene, dataclasses.replace(candidates, score=scores), Oracle(scene), report=report, max_tracks=6)
    np.testing.assert_array_equal(found.keypoint, np.sort(np.argsort(-scores)[:6]))
    assert report.counts["candidates left out because of --max-tracks"] == 14


class Wrong(Oracle):
    def __init__(self, scene, spoil) -> None:
        super().__init__(scene)
        self.spoil = spoil

    def track(self, *arguments):
        return self.spoil(*super().track(*arguments), self.calls[-1][0])


def test_a_tracker_is_not_believed(scene):
    candidates = mixed_candidates(scene)

    def nan_in_frame_33(xyz, visible, first):
        if first == 27:
            xyz[6, 4] = np.nan
        return xyz, visible

    with pytest.raises(BadDataError, match=r"track: tracker oracle sees track 4 in frame 33, but its position is not finite"):
        run(scene, candidates, Wrong(scene, nan_in_frame_33), chunk=28)
    with pytest.raises(TypeError, match="shapes"):
        run(scene, candidates, Wrong(scene, lambda xyz, visible, _: (xyz[:-1], visible)))
    with pytest.raises(TypeError, match="shapes"):
        run(scene, candidates, Wrong(scene, lambda xyz, visible, _: (xyz, visible[:, :-1])))


def test_unseen_positions_of_a_tracker_are_valid_and_those_behind_the_camera_are_dropped(scene):
    def behind(xyz, visible, first):
        visible[20:30] = False
        xyz[40, 0] = scene.world_from_camera[40, :3, 3] - scene.world_from_camera[40, :3, 2]
        return xyz, visible

    report = Report()
    found = run(scene, mixed_candidates(scene), Wrong(scene, behind), report=report, chunk=NUM_FRAMES)
    assert (found.visible[20:30] == 0).all() and (found.valid[20:30] == 1).all()
    assert found.valid[40, 0] == 0 and found.visible[40, 0] == 0 and np.isnan(found.xyz_world[40, 0]).all()
    assert report.counts["positions dropped because they lie behind the camera"] == 1


def test_clips_and_geometry_must_fit(scene):
    candidates = mixed_candidates(scene)
    geometry = scene.geometry()
    short = dataclasses.replace(geometry, world_from_camera=geometry.world_from_camera[:-1])
    with pytest.raises(BadDataError, match="84 frames, but the geometry has 83"):
        run(scene, candidates, Oracle(scene), geometry=short)
    with pytest.raises(BadDataError, match="84 frames, but the depth has 80"):
        run(scene, candidates, Oracle(scene), geometry=dataclasses.replace(geometry, depth=scene.depth[:80]))
    with pytest.raises(BadDataError, match="metric, but has no depth") as error:
        run(scene, candidates, Oracle(scene), geometry=dataclasses.replace(geometry, depth=None))
    assert "reconstruct first" in error.value.hint
    with pytest.raises(BadDataError, match="keypoints lie on frames 0 to 99"):
        run(scene, keypoints(np.ones((2, 2)), [0, 99], 100, 100), Oracle(scene))
    with pytest.raises(BadDataError, match="not finite"):
        run(scene, keypoints(np.full((1, 2), np.nan), [0], NUM_FRAMES, NUM_FRAMES), Oracle(scene))


@pytest.mark.parametrize(("num_frames", "number"), [(0, 0), (1, 0), (1, 4), (5, 0)])
def test_empty_and_single(scene, num_frames, number):
    whole = scene.geometry()
    geometry = dataclasses.replace(whole, world_from_camera=whole.world_from_camera[:num_frames], depth=scene.depth[:num_frames])
    candidates = keypoints(scene.corners(0, 4)[:number].reshape(-1, 2), np.zeros(number), num_frames, 10)
    found = track(scene.frames[:num_frames], candidates, geometry, KLT(BackendSetup()), TrackParameters(), report=Report())
    assert found.xyz_world.shape == (num_frames, number, 3) and found.uv.shape == (num_frames, number, 2)
    assert (found.visible == 1).all()


def test_memory_is_bounded_by_a_chunk(scene):
    class Watched:
        """Frames that notice how many are asked for."""

        def __init__(self, array):
            self.array, self.shape, self.most = array, array.shape, 0

        def __len__(self):
            return len(self.array)

        def __getitem__(self, index):
            result = self.array[index]
            self.most = max(self.most, len(result))
            return result

    frames, depth = Watched(scene.frames), Watched(scene.depth)
    geometry = dataclasses.replace(scene.geometry(), depth=depth)
    track(frames, mixed_candidates(scene), geometry, Oracle(scene), TrackParameters(chunk=10), report=Report())
    assert frames.most == depth.most == 11


class Limited(Oracle):
    """Can take `most` points times frames at a time, and forgets everything between two calls."""

    stateless = True

    def __init__(self, scene, most, error=MemoryError, **options) -> None:
        super().__init__(scene, **options)
        self.most, self.error, self.num_refused = most, error, 0

    def track(self, frames, depth, intrinsics, world_from_camera, queries_world, *rest):
        if len(frames) * len(queries_world) > self.most:
            self.num_refused += 1
            raise self.error("no room")
        return super().track(frames, depth, intrinsics, world_from_camera, queries_world, *rest)


@pytest.mark.parametrize("error", [MemoryError, WorkerMemoryError, type("OutOfMemoryError", (RuntimeError,), {})])
@pytest.mark.parametrize("chunk", [NUM_FRAMES, 28])
def test_chunks_that_do_not_fit_in_memory_are_tracked_in_pieces(scene, error, chunk):
    uv, frame = [scene.corners(f, 30) for f in (0, 9, 40, 70)], [0, 9, 40, 70]
    candidates = keypoints(np.concatenate(uv), np.repeat(frame, [len(points) for points in uv]), NUM_FRAMES, chunk)
    options = {"chunk": chunk, "least_tracks": 1000, "retire_after": 100}
    whole = run(scene, candidates, Oracle(scene), **options)
    tracker, report = Limited(scene, 1300, error), Report()
    found = run(scene, candidates, tracker, report=report, **options)
    assert report.counts["runs of the tracker that ran out of memory (made again with fewer frames)"] == tracker.num_refused > 0
    assert report.counts["candidates on patches that a track covers already"] == 0
    assert any(note.startswith("the chunk is cut to at most ") for note in report.notes)
    # The same tracks, in the same order, with every identity followed to the end.
    np.testing.assert_array_equal(found.keypoint, whole.keypoint)
    np.testing.assert_array_equal(found.born, whole.born)
    path, _ = truth(scene, candidates, found)
    known = found.valid == 1
    assert np.abs(found.xyz_world - path)[known].max() < 1e-5
    for column, born in enumerate(found.born):
        assert known[born:, column].all(), "lost at a cut"
    np.testing.assert_array_equal(known & (whole.valid == 0), False)


def test_every_piece_begins_where_the_last_one_ended(scene):
    candidates = keypoints(scene.corners(0, 20), np.zeros(20), NUM_FRAMES, NUM_FRAMES)
    tracker = Limited(scene, 20 * 29)
    found = run(scene, candidates, tracker, chunk=NUM_FRAMES)
    assert [(first, number) for first, number, *_ in tracker.calls] == [(0, 21), (20, 22), (41, 22), (62, 22)]
    for first, _, queries, query_frames, identities in tracker.calls[1:]:
        np.testing.assert_array_equal(query_frames, 0)
        np.testing.assert_array_equal(queries.astype(np.float32), found.xyz_world[first, identities])


def test_where_not_even_few_frames_fit_or_the_tracker_remembers_it_says_what_to_set(scene):
    candidates = mixed_candidates(scene)
    with pytest.raises(StorageError, match=r"out of memory in tracker oracle: \d+ points in frames 0 to \d") as caught:
        run(scene, candidates, Limited(scene, 1), chunk=28)
    assert caught.value.hint.startswith("lower --max-tracks")
    remembers = Limited(scene, 1)
    remembers.stateless = False
    with pytest.raises(StorageError, match="in frames 0 to 27") as caught:
        run(scene, candidates, remembers, chunk=28)
    assert caught.value.hint.startswith("lower --chunk") and remembers.num_refused == 1
    with pytest.raises(RuntimeError, match="no room"):
        run(scene, candidates, Limited(scene, 1, RuntimeError), chunk=28)


def test_what_goes_to_a_temporary_file_comes_back_the_same(scene, monkeypatch, tmp_path):
    candidates = mixed_candidates(scene)
    in_memory = run(scene, candidates, Oracle(scene), chunk=28)
    monkeypatch.setattr(followed_tracks, "IN_MEMORY_BYTES", 100)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for field in dataclasses.fields(in_memory):
        np.testing.assert_array_equal(getattr(run(scene, candidates, Oracle(scene), chunk=28), field.name), getattr(in_memory, field.name))
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "absent"))
    with pytest.raises(StorageError, match=r"absent \(TMPDIR\)"):
        run(scene, candidates, Oracle(scene), chunk=28)


REAL_DATA = Path(os.environ.get("TRACEKIT_REAL_DATA", Path(__file__).parents[3] / "shared" / "data"))


@pytest.mark.skipif(not (REAL_DATA / "bridge_drawer").is_dir(), reason="real recordings are not here")
def test_the_arm_and_the_drawer_move_and_the_table_does_not():
    folder = REAL_DATA / "bridge_drawer"
    frames = np.stack([cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB) for path in sorted((folder / "rgb").glob("*.jpg"))])
    depth = np.stack([cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in sorted((folder / "depth").glob("*.png"))])
    number = len(frames)
    intrinsics = np.array([[616.68, 0, 320.49], [0, 616.68, 239.59], [0, 0, 1]])
    geometry = Geometry(
        backend="sensor",
        metric=True,
        intrinsics=intrinsics,
        world_from_camera=np.tile(np.eye(4), (number, 1, 1)),
        frame_confidence=np.ones(number, np.float32),
        anchor_frame=np.zeros(1, np.int32),
        chunk_start=np.zeros(1, np.int32),
        chunk_stop=np.full(1, number, np.int32),
        chunk_scale=np.ones(1),
        chunk_alignment=np.eye(4)[None],
        chunk_residual=np.zeros(1),
        chunk_num_anchors=np.ones(1, np.int32),
        depth=depth.astype(np.float32) / 1000,
    )
    uv = np.concatenate([cv2.goodFeaturesToTrack(frames[f, ..., 1].copy(), 150, 0.003, 14)[:, 0] for f in (0, 11)])
    candidates = keypoints(uv, np.repeat([0, 11], len(uv) // 2), number, number, grid=(30, 40))
    found = track(frames, candidates, geometry, KLT(BackendSetup()), TrackParameters(), report=Report())
    motion = filter_moving(found, geometry, 640, 480, FilterParameters(), report=Report())
    place = candidates.uv[found.keypoint]
    vegetables = (place[:, 1] > 330) & (place[:, 0] > 270)  # on the table, never touched
    assert vegetables.sum() > 20 and not motion.moving[vegetables].any()
    fingers = (place[:, 0] > 190) & (place[:, 0] < 380) & (place[:, 1] > 90) & (place[:, 1] < 260) & (found.born == 0)
    assert motion.moving[fingers].sum() > 8
    # The drawer's front, seen in frame 11 as far as the fingers, is pulled out by about a quarter of a metre at most: towards the camera,
    # to the right. (At the fingers' outline two points slide: they belong to both.)
    front = (found.born == 11) & (place[:, 0] > 90) & (place[:, 0] < 170) & (place[:, 1] > 150) & (place[:, 1] < 320)
    pulled = front & (motion.moving == 1)
    assert pulled.sum() > 3
    travel = found.xyz_world[-1, pulled] - found.xyz_world[11, pulled]
    assert (travel[np.isfinite(travel).all(axis=1), 0] > 0.02).all()
