import dataclasses
import sys
import types

import numpy as np
import pytest
import torch
from tracker_trials import (
    ALL_POINTS,
    LENGTHS,
    SHAPES,
    expect_other_shapes_to_be_told,
    expect_truth,
    find,
    hide_some,
    scene_of,
    setup,
    track_in_chunks,
)

from tracekit.backends.protocols import BackendSetup
from tracekit.backends.tracking.cotracker3 import CoTracker3
from tracekit.backends.tracking.klt import FORECAST_FRAMES
from tracekit.errors import BadDataError, UnavailableError

REPOSITORY = "co-tracker"


def weights_of(scene, path, state=None):
    state = state or {"place": torch.from_numpy(scene.padded(scene.place)), "hidden": torch.from_numpy(scene.padded(scene.hidden))}
    torch.save(state, path)
    return path


@pytest.fixture(scope="module")
def tracker(tmp_path_factory):
    tracker = CoTracker3(setup(REPOSITORY, weights_of(scene_of(SHAPES[0], 61), tmp_path_factory.mktemp("weights") / "scaled_offline.pth")))
    yield tracker
    tracker.close()


def own_tracker(scene, tmp_path, state=None):
    return CoTracker3(setup(REPOSITORY, weights_of(scene, tmp_path / "scaled_offline.pth", state)))


def test_a_known_scene_comes_back_in_our_world_at_any_size(tracker):
    for shape in SHAPES:
        scene = scene_of(shape, 7)
        expect_truth(find(tracker, scene), scene, bridges=False)


def test_clips_of_any_length_and_single_points_come_back(tracker):
    for num_frames in LENGTHS:
        scene = scene_of(SHAPES[2], num_frames)
        for points in (ALL_POINTS, [2]):
            expect_truth(find(tracker, scene, points), scene, points, bridges=False)


def test_points_are_asked_for_in_batches(tracker, monkeypatch):
    monkeypatch.setattr(CoTracker3, "most_queries", 3)
    scene = scene_of(SHAPES[0], 7)
    expect_truth(find(tracker, scene), scene, bridges=False)


def test_a_clip_is_shown_once_for_all_its_points(tracker, monkeypatch):
    asked = []
    call = tracker.worker.call
    monkeypatch.setattr(tracker.worker, "call", lambda arrays, **message: asked.append(message["ask"]) or call(arrays, **message))
    scene = scene_of(SHAPES[0], 7)
    frames = scene.frames
    for points in ([0, 1], [2, 3, 4]):
        found = tracker.track(
            frames,
            scene.depth,
            scene.intrinsics,
            scene.poses,
            scene.queries(np.array(points)),
            scene.query_frames[points],
            np.array(points),
        )
        expect_truth(found, scene, points, bridges=False)
    other = scene_of(SHAPES[0], 5)
    expect_truth(find(tracker, other), other, bridges=False)
    assert [what for what in asked if what != "shape"] == ["clip", "track", "track", "clip", "track"]


def test_a_closed_tracker_starts_again(tmp_path):
    scene = scene_of(SHAPES[2], 3)
    tracker = own_tracker(scene, tmp_path)
    frames = scene.frames
    for _ in range(2):
        found = tracker.track(frames, None, scene.intrinsics, scene.poses, scene.queries(ALL_POINTS), scene.query_frames, ALL_POINTS)
        assert found[1].all()
        tracker.close()
        assert tracker.worker._process is None


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there_is_told(tmp_path):
    scene = scene_of(SHAPES[2], 3)
    for device, said in (("cuda", "sees no GPU"), ("mps", "cuda or cpu alone")):
        tracker = CoTracker3(dataclasses.replace(setup(REPOSITORY, weights_of(scene, tmp_path / "scaled_offline.pth")), device=device))
        with pytest.raises(UnavailableError, match=f"cotracker3: there is no device '{device}'.*{said}") as caught:
            find(tracker, scene)
        assert caught.value.hint == "--device: auto, cpu"


def test_weights_inside_a_dictionary_are_found(tmp_path):
    scene = scene_of(SHAPES[2], 3)
    state = {"place": torch.from_numpy(scene.padded(scene.place)), "hidden": torch.from_numpy(scene.padded(scene.hidden))}
    tracker = own_tracker(scene, tmp_path, {"model": state})
    expect_truth(find(tracker, scene), scene, bridges=False)
    tracker.close()


def test_hidden_points_have_no_position(tmp_path):
    scene = scene_of(SHAPES[0], 12)
    hide_some(scene)
    tracker = own_tracker(scene, tmp_path)
    expect_truth(find(tracker, scene), scene, bridges=False)
    tracker.close()


def test_identities_survive_many_chunks(tracker):
    scene = scene_of(SHAPES[0], 14)
    tracks = track_in_chunks(tracker, scene, chunk=4)
    assert np.array_equal(np.sort(tracks.keypoint), ALL_POINTS)
    start = scene.query_frames // 4 * 4
    for column, point in enumerate(tracks.keypoint):
        known = np.arange(14) >= start[point]
        np.testing.assert_array_equal(tracks.visible[:, column].astype(bool), known)
        np.testing.assert_allclose(np.asarray(tracks.xyz_world)[known, column], scene.world[known, point], atol=1e-4)


def test_without_depth_points_lie_on_the_plane_before_each_camera(tracker):
    scene = scene_of(SHAPES[0], 9)
    flat = scene.camera / scene.camera[..., 2:]
    scene.world = np.einsum("tij,tpj->tpi", scene.poses[:, :3, :3], flat) + scene.poses[:, None, :3, 3]
    expect_truth(find(tracker, scene, depth=None), scene, bridges=False)


def test_another_surface_in_the_place_of_a_point_hides_it_whatever_the_network_says(tracker):
    scene = scene_of(SHAPES[0], 9)
    depth = scene.depth
    depth[4:6] *= 0.5  # something comes before everything: too fast to be the same
    xyz, visible = find(tracker, scene, [0, 1], depth=depth)
    np.testing.assert_array_equal(visible.all(axis=1), [True] * 4 + [False] * 2 + [True] * 3)
    assert np.isnan(xyz[4:6]).all()
    np.testing.assert_allclose(xyz[visible], scene.world[:, :2][visible], atol=1e-4)


def test_a_surface_that_comes_nearer_takes_its_points_along(tracker):
    scene = scene_of(SHAPES[0], 9)
    depth = scene.depth
    depth[3:] *= 0.85  # more than the same surface may change, less than another one in front would
    xyz, visible = find(tracker, scene, depth=depth)
    nearer = np.where(np.arange(9) < 3, 1.0, 0.85)[:, None, None]
    expected = np.einsum("tij,tpj->tpi", scene.poses[:, :3, :3], scene.camera * nearer) + scene.poses[:, None, :3, 3]
    follows = scene.query_frames < 3
    assert visible[:, follows].all()
    np.testing.assert_allclose(xyz[:, follows], expected[:, follows], atol=1e-4)


def test_in_a_hole_of_the_depth_a_point_goes_on_for_a_while_and_is_then_unknown(tracker):
    scene = scene_of(SHAPES[0], 20)
    depth = scene.depth
    depth[5:15] = 0
    xyz, visible = find(tracker, scene, [0])  # it rests in the world
    assert visible.all()
    xyz, visible = find(tracker, scene, [0], depth=depth)
    known = [True] * (5 + FORECAST_FRAMES) + [False] * (10 - FORECAST_FRAMES) + [True] * 5
    np.testing.assert_array_equal(visible[:, 0], known)
    np.testing.assert_allclose(xyz[known, 0], scene.world[known, 0], atol=1e-4)
    assert np.isnan(xyz[~visible]).all()


def test_a_network_that_returns_no_numbers_is_told_with_the_frame(tmp_path):
    scene = scene_of(SHAPES[0], 12)
    scene.place[9, 3] = np.nan
    tracker = own_tracker(scene, tmp_path)
    scene.place[9, 3] = 0.5
    with pytest.raises(BadDataError, match="track: tracker cotracker3 sees track 3 in frame 9, but its position is not finite"):
        track_in_chunks(tracker, scene, chunk=6)
    tracker.close()


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ("return tracks[:, :-1], visible", r"tracks of the shape \(6, 8, 2\), should be \(7, 8, 2\)"),
        ("return tracks, visible[..., None]", r"visible of the shape \(7, 8, 1\), should be \(7, 8\)"),
    ],
)
def test_answers_of_another_shape_are_those_of_another_version(tmp_path, other, said):
    scene = scene_of(SHAPES[2], 7)
    weights, real = weights_of(scene, tmp_path / "scaled_offline.pth"), "return tracks / resized * own, visible"
    other = other.replace("tracks", "(tracks / resized * own)")
    expect_other_shapes_to_be_told(CoTracker3, REPOSITORY, "cotracker/predictor.py", real, other, said, weights, scene)


class Payload:
    def __reduce__(self):
        return print, ("code in a pickle ran",)


def test_the_file_of_tapip3d_is_recognised(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "omegaconf", types.ModuleType("omegaconf"))
    module = types.ModuleType("omegaconf.dictconfig")
    module.DictConfig = type("DictConfig", (), {"__module__": "omegaconf.dictconfig", "__qualname__": "DictConfig"})
    monkeypatch.setitem(sys.modules, "omegaconf.dictconfig", module)
    path = tmp_path / "tapip3d_final.pth"
    torch.save({"cfg": module.DictConfig(), "weight": {"a": torch.zeros(1)}}, path)
    tracker = CoTracker3(setup(REPOSITORY, path))
    with pytest.raises(BadDataError, match="a configuration as TAPIP3D's file has one") as caught:
        find(tracker, scene_of(SHAPES[2], 3))
    assert "docs/backends/cotracker3.md" in caught.value.hint


@pytest.mark.parametrize("kind", ["other network", "truncated", "pickle"])
def test_weights_that_are_not_its_own_are_refused_and_run_no_code(tmp_path, capfd, kind):
    scene = scene_of(SHAPES[2], 3)
    path = weights_of(scene, tmp_path / "scaled_offline.pth", {"other": torch.zeros(2)} if kind == "other network" else None)
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:1000])
    if kind == "pickle":
        torch.save({"place": Payload()}, path)
    tracker = CoTracker3(setup(REPOSITORY, path))
    with pytest.raises(BadDataError, match=str(path)):
        find(tracker, scene)
    assert "code in a pickle ran" not in capfd.readouterr().out


def test_it_says_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.delenv("TRACEKIT_CHECKOUTS", raising=False)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert "git clone https://github.com/facebookresearch/co-tracker" in CoTracker3.missing(BackendSetup())
    assert "facebook/cotracker3" in CoTracker3.missing(BackendSetup(repo=setup(REPOSITORY, tmp_path).repo))
