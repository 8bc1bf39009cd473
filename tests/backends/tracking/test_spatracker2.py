import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
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

from tracekit.backends.foreign.spatracker2_network import depth_edge, harmless
from tracekit.backends.protocols import BackendSetup
from tracekit.backends.tracking.spatracker2 import SpatialTracker2, own_size
from tracekit.errors import BadDataError, MissingInputError, UnavailableError, UsageError

REPOSITORY = "SpaTrackerV2"
CONFIGURATION = {
    "backbone_cfg": {"ckpt_dir": "checkpoints/model.pt"},
    "Track_cfg": {"base_ckpt": __file__, "mode": "online", "s_wind": 100, "overlap": 4},  # a file that is there: it must not be opened
    "resolution": 56,
    "moge_as_base": True,
    "something_new": 1,
}


def weights_of(scene, folder, configuration=None, **changes):
    state = {
        "spatrack.camera": torch.from_numpy(scene.padded(scene.camera)),
        "spatrack.hidden": torch.from_numpy(scene.padded(scene.hidden)),
    }
    save_file(state | changes, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"args": configuration or CONFIGURATION}))
    return folder


@pytest.fixture(scope="module")
def tracker(tmp_path_factory):
    tracker = SpatialTracker2(setup(REPOSITORY, weights_of(scene_of(SHAPES[0], 61), tmp_path_factory.mktemp("weights"))))
    yield tracker
    tracker.close()


def own_tracker(scene, folder, **changes):
    return SpatialTracker2(setup(REPOSITORY, weights_of(scene, folder, **changes)))


def test_a_known_scene_comes_back_in_our_world_at_any_size(tracker):
    for shape in SHAPES:
        scene = scene_of(shape, 7)
        expect_truth(find(tracker, scene), scene, bridges=True)


@pytest.mark.parametrize(
    ("real", "other", "said"),
    [
        ("return first, intrs", "return first[:, :3], intrs", r"first_from_camera of the shape \(7, 3, 4\), should be \(7, 4, 4\)"),
        ("return first, intrs", "return first, intrs[:1]", r"intrinsics of the shape \(1, 3, 3\), should be \(7, 3, 3\)"),
        ("nothing, track3d,", "nothing, track3d[1:],", r"xyz_camera of the shape \(6, 8, 3\), should be \(7, 8, 3\)"),
        ("nothing, visibility,", "nothing, visibility[:, 1:],", r"visibility of the shape \(7, 7\), should be \(7, 8\)"),
    ],
)
def test_answers_of_another_shape_are_those_of_another_version(tmp_path, real, other, said):
    scene = scene_of(SHAPES[2], 7)
    (tmp_path / "weights").mkdir()
    weights, code = weights_of(scene, tmp_path / "weights"), "models/SpaTrackV2/models/predictor.py"
    expect_other_shapes_to_be_told(SpatialTracker2, REPOSITORY, code, real, other, said, weights, scene)


def test_clips_of_any_length_and_single_points_come_back(tracker):
    for num_frames in LENGTHS:
        scene = scene_of(SHAPES[2], num_frames)
        for points in (ALL_POINTS, [2]):
            expect_truth(find(tracker, scene, points), scene, points, bridges=True)


def test_what_hides_a_point_for_a_while_is_bridged_and_beyond_its_last_sight_nothing_is_claimed(tmp_path):
    scene = scene_of(SHAPES[0], 12)
    hide_some(scene)
    tracker = own_tracker(scene, tmp_path)
    expect_truth(find(tracker, scene), scene, bridges=True)
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


def test_a_version_that_moves_the_cameras_is_refused(tracker, monkeypatch):
    scene = scene_of(SHAPES[0], 7)
    call = tracker.worker.call

    def moved(arrays, **message):
        answer, found = call(arrays, **message)
        if "first_from_camera" in found:
            found["first_from_camera"][1:, 0, 3] += 0.01
        return answer, found

    monkeypatch.setattr(tracker.worker, "call", moved)
    with pytest.raises(UnavailableError, match="moves the cameras"):
        find(tracker, scene)


def test_without_depth_it_says_what_to_use(tracker):
    with pytest.raises(MissingInputError, match="spatracker2 needs depth"):
        find(tracker, scene_of(SHAPES[2], 3), depth=None)
    xyz, visible = find(tracker, scene_of(SHAPES[2], 3), depth=np.zeros((3, 48, 64), np.float32))
    assert np.isnan(xyz).all() and not visible.any()


def test_more_frames_than_it_takes_are_refused(tmp_path):
    configuration = CONFIGURATION | {"Track_cfg": CONFIGURATION["Track_cfg"] | {"s_wind": 5}}
    scene = scene_of(SHAPES[2], 6)
    tracker = own_tracker(scene, tmp_path, configuration=configuration)
    with pytest.raises(UsageError, match="5 frames at a time, not 6"):
        find(tracker, scene)
    tracker.close()


def test_a_bare_file_of_weights_takes_the_configuration_of_the_repository(tmp_path):
    scene = scene_of(SHAPES[2], 4)
    weights_of(scene, tmp_path)
    (tmp_path / "config.json").unlink()
    tracker = SpatialTracker2(setup(REPOSITORY, tmp_path / "model.safetensors"))
    expect_truth(find(tracker, scene), scene, bridges=True)
    tracker.close()


def test_a_network_that_returns_no_numbers_is_told_with_the_frame(tmp_path):
    scene = scene_of(SHAPES[0], 12)
    scene.camera[9, 3] = np.nan
    tracker = own_tracker(scene, tmp_path)
    with pytest.raises(BadDataError, match="track: tracker spatracker2 sees track 3 in frame 9, but its position is not finite"):
        track_in_chunks(tracker, scene, chunk=6)
    tracker.close()


class Payload:
    def __reduce__(self):
        return print, ("code in a pickle ran",)


@pytest.mark.parametrize("kind", ["other network", "truncated", "pickle", "configuration", "no Track_cfg", "no mapping"])
def test_weights_that_are_not_its_own_are_refused_and_run_no_code(tmp_path, capfd, kind):
    scene = scene_of(SHAPES[2], 3)
    folder = weights_of(scene, tmp_path, **({"other": torch.zeros(2)} if kind == "other network" else {}))
    weights = folder / "model.safetensors"
    if kind == "truncated":
        weights.write_bytes(weights.read_bytes()[:500])
    if kind == "pickle":
        weights = folder / "model.pth"
        torch.save({"spatrack.camera": Payload()}, weights)
    if kind == "configuration":
        (folder / "config.json").write_text("{")
    if kind == "no Track_cfg":
        (folder / "config.json").write_text('{"args": {"backbone_cfg": {}}}')
    if kind == "no mapping":
        (folder / "config.json").write_text('{"args": [1]}')
    tracker = SpatialTracker2(setup(REPOSITORY, weights))
    with pytest.raises(BadDataError, match=r"spatracker2: .*(model\.safetensors|model\.pth|config\.json|Track_cfg)"):
        find(tracker, scene)
    assert "code in a pickle ran" not in capfd.readouterr().out


def test_nothing_that_a_configuration_names_is_opened_or_fetched():
    kept = harmless(CONFIGURATION)
    assert kept["Track_cfg"]["base_ckpt"] == "" and kept["backbone_cfg"] == {"ckpt_dir": ""} and kept["moge_as_base"] is False
    assert "something_new" not in kept and kept["Track_cfg"]["s_wind"] == 100


def test_it_says_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.delenv("TRACEKIT_CHECKOUTS", raising=False)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert "git clone https://github.com/henry123-boy/SpaTrackerV2" in SpatialTracker2.missing(BackendSetup())
    assert "Yuxihenry/SpatialTrackerV2-Offline" in SpatialTracker2.missing(BackendSetup(repo=setup(REPOSITORY, tmp_path).repo))


def test_its_grid_is_the_one_that_it_would_choose():
    # Worked out by hand: 336 on the shorter side, the other to the nearest multiple of 14.
    assert own_size((640, 480), 336) == (448, 336)
    assert own_size((480, 640), 336) == (336, 448)
    assert own_size((3840, 2160), 336) == (602, 336)
    assert own_size((64, 64), 336) == (336, 336)
    assert own_size((100, 99), 100) == (112, 112)  # never below the resolution


def test_depth_edges_agree_with_brute_force():
    rng = np.random.default_rng(0)
    depth = rng.choice([1.0, 1.02, 1.2], (2, 1, 9, 11))
    mask = rng.random(depth.shape) < 0.8
    expected = np.zeros(depth.shape, bool)
    for image in range(2):
        for row in range(9):
            for column in range(11):
                window = (image, 0, slice(max(row - 1, 0), row + 2), slice(max(column - 1, 0), column + 2))
                near = depth[window][mask[window]]
                expected[image, 0, row, column] = len(near) and (near.max() - near.min()) / depth[image, 0, row, column] > 0.03
    found = depth_edge(torch.from_numpy(depth), rtol=0.03, mask=torch.from_numpy(mask))
    np.testing.assert_array_equal(found.numpy(), expected)
