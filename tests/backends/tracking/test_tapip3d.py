import sys
import types
from collections import defaultdict
from typing import Any

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

from tracekit.backends.foreign.tapip3d_network import nearest, plain, resolved
from tracekit.backends.protocols import BackendSetup
from tracekit.backends.tracking.network_tracks import Clip, frames_to_ask
from tracekit.backends.tracking.tapip3d import Tapip3d
from tracekit.errors import BadDataError, UnavailableError

REPOSITORY = "TAPIP3D"


def weights_of(scene, path, most_frames=0, **changes):
    """A checkpoint as TAPIP3D's: the double of its network, whose weights are this scene."""
    config = {
        "model": {
            "name": "point_tracker_3d",
            "seq_len": 8,
            "encoder": {"name": "cotracker_cnn", "pretrained": True},
            "corr_feature": {"name": "knn_corr_4d", "num_frames": scene.num_frames, "num_points": len(ALL_POINTS)},
            "point_updater": {"name": "efficient_updateformer"},
            "norm_mode": "isotropic",
        },
        "train_dataset": {"resolution": [24, 32]},
    }
    weight = {
        "camera": torch.tensor(scene.camera, dtype=torch.float32),
        "hidden": torch.tensor(scene.hidden, dtype=torch.float32),
        "most_frames": torch.full((1,), float(most_frames)),
    }
    torch.save({"cfg": config, "weight": weight} | changes, path)
    return path


@pytest.fixture(scope="module")
def tracker(tmp_path_factory):
    scene = scene_of(SHAPES[0], 61)
    tracker = Tapip3d(setup(REPOSITORY, weights_of(scene, tmp_path_factory.mktemp("weights") / "tapip3d_final.pth")))
    yield tracker
    tracker.close()


def test_a_known_scene_comes_back_in_our_world_at_any_size(tracker):
    for shape in SHAPES:
        scene = scene_of(shape, 7)
        expect_truth(find(tracker, scene), scene, bridges=True)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ("coords=coords[..., :2], visibs=visibs", r"coords of the shape \(7, 8, 2\), should be \(7, 8, 3\)"),
        ("coords=coords, visibs=visibs[..., None]", r"logits of the shape \(7, 8, 1\), should be \(7, 8\)"),
    ],
)
def test_answers_of_another_shape_are_those_of_another_version(tmp_path, other, said):
    scene = scene_of(SHAPES[2], 7)
    scene.query_frames[:] = 0  # one pass, forwards
    weights, real = weights_of(scene, tmp_path / "tapip3d_final.pth"), "SimpleNamespace(coords=coords, visibs=visibs), []\n\n    def"
    other = f"SimpleNamespace({other}), []\n\n    def"
    expect_other_shapes_to_be_told(Tapip3d, REPOSITORY, "models/point_tracker_3d.py", real, other, said, weights, scene)


def test_clips_of_any_length_and_single_points_come_back(tracker):
    for num_frames in LENGTHS:
        scene = scene_of(SHAPES[2], num_frames)
        for points in (ALL_POINTS, [2]):
            expect_truth(find(tracker, scene, points), scene, points, bridges=True)


def test_no_points_need_no_network(tracker):
    scene = scene_of(SHAPES[2], 3)
    xyz, visible = find(tracker, scene, np.zeros(0, int))
    assert xyz.shape == (3, 0, 3) and visible.shape == (3, 0)


def test_what_hides_a_point_for_a_while_is_bridged_and_beyond_its_last_sight_nothing_is_claimed(tmp_path):
    scene = scene_of(SHAPES[0], 12)
    hide_some(scene)
    tracker = Tapip3d(setup(REPOSITORY, weights_of(scene, tmp_path / "tapip3d_final.pth")))
    expect_truth(find(tracker, scene), scene, bridges=True)
    tracker.close()


def test_identities_survive_many_chunks(tracker):
    scene = scene_of(SHAPES[0], 14)
    tracks = track_in_chunks(tracker, scene, chunk=4)
    assert np.array_equal(np.sort(tracks.keypoint), ALL_POINTS)
    np.testing.assert_array_equal(tracks.born, scene.query_frames[tracks.keypoint])
    start = scene.query_frames // 4 * 4  # a candidate is tracked within its chunk, and on
    for column, point in enumerate(tracks.keypoint):
        known = np.arange(14) >= start[point]
        np.testing.assert_array_equal(tracks.visible[:, column].astype(bool), known)
        np.testing.assert_allclose(np.asarray(tracks.xyz_world)[known, column], scene.world[known, point], atol=1e-4)


def test_without_depth_points_lie_on_the_plane_before_each_camera(tmp_path):
    scene = scene_of(SHAPES[0], 9)
    flat = scene.camera / scene.camera[..., 2:]
    scene.world = np.einsum("tij,tpj->tpi", scene.poses[:, :3, :3], flat) + scene.poses[:, None, :3, 3]
    scene.camera = flat * np.linspace(0.8, 1.3, 9)[:, None, None]  # the network does not keep to it
    scene.camera[scene.query_frames, ALL_POINTS] = flat[scene.query_frames, ALL_POINTS]
    tracker = Tapip3d(setup(REPOSITORY, weights_of(scene, tmp_path / "tapip3d_final.pth")))
    expect_truth(find(tracker, scene, depth=None), scene, bridges=True)
    tracker.close()


def test_depth_with_holes_is_used_where_it_is_known(tracker):
    scene = scene_of(SHAPES[0], 7)
    depth = scene.depth
    u, v = np.meshgrid(np.arange(scene.width), np.arange(scene.height))
    for frame, place in enumerate(scene.place[:, 3] * [scene.width - 1, scene.height - 1]):
        depth[frame][(abs(u - place[0]) < 9) & (abs(v - place[1]) < 9)] = 0
    expect_truth(find(tracker, scene, depth=depth), scene, bridges=True)
    xyz, visible = find(tracker, scene, depth=np.zeros_like(depth))
    assert np.isnan(xyz).all() and not visible.any()


def test_points_that_cannot_be_seen_are_asked_for_where_they_come_into_sight_or_are_not_known(tracker):
    scene = scene_of(SHAPES[0], 7)
    behind = scene.poses[0, :3, 3] - scene.poses[0, :3, 2]
    beside = scene.poses[0, :3, 3] + scene.poses[0, :3, 2] + 9 * scene.poses[0, :3, 0]
    queries = np.stack([behind, scene.world[2, 0], beside])
    xyz, visible = find(tracker, scene, [5, 0, 6], queries=queries, query_frames=np.array([0, 2, 3]))
    assert np.isnan(xyz[:, [0, 2]]).all() and not visible[:, [0, 2]].any()
    np.testing.assert_allclose(xyz[:, 1], scene.world[:, 0], atol=1e-4)

    depth = scene.depth
    depth[:3] = 1.0  # something right before the camera
    clip = Clip((scene.width, scene.height), depth, scene.intrinsics, scene.poses)
    np.testing.assert_array_equal(frames_to_ask(clip, scene.world[0], np.array([0, 1, 3, 6, 0, 4, 2, 5])), [3, 3, 3, 6, 3, 4, 3, 5])
    depth[3:] = 1.0
    np.testing.assert_array_equal(frames_to_ask(clip, scene.world[0, :2], np.array([0, 5])), [-1, -1])


def test_a_network_that_returns_no_numbers_is_told_with_the_frame(tmp_path):
    scene = scene_of(SHAPES[0], 12)
    scene.camera[9, 3] = np.nan
    tracker = Tapip3d(setup(REPOSITORY, weights_of(scene, tmp_path / "tapip3d_final.pth")))
    with pytest.raises(BadDataError, match="track: tracker tapip3d sees track 3 in frame 9, but its position is not finite"):
        track_in_chunks(tracker, scene, chunk=6)
    tracker.close()


def test_a_chunk_that_does_not_fit_in_memory_is_tracked_in_pieces(tmp_path):
    scene = scene_of(SHAPES[2], 40)
    tracker = Tapip3d(setup(REPOSITORY, weights_of(scene, tmp_path / "tapip3d_final.pth", most_frames=21)))
    tracks = track_in_chunks(tracker, scene, chunk=40)
    process = tracker.worker._process
    assert process is not None and process.poll() is None  # it went on
    for column, point in enumerate(tracks.keypoint):
        np.testing.assert_allclose(np.asarray(tracks.xyz_world)[:, column], scene.world[:, point], atol=1e-4)
    tracker.close()
    assert process.poll() is not None


class Payload:
    def __reduce__(self):
        return print, ("code in a pickle ran",)


@pytest.mark.parametrize("kind", ["other network", "other shape", "truncated", "pickle", "pickle in cfg", "bare state_dict"])
def test_weights_that_are_not_its_own_are_refused_and_run_no_code(tmp_path, capfd, kind):
    scene = scene_of(SHAPES[0], 7)
    path = weights_of(scene, tmp_path / "tapip3d_final.pth")
    if kind == "other network":
        weights_of(scene, path, weight={"other": torch.zeros(2)})
    if kind == "other shape":
        scene.camera = scene.camera[:5]
        weights_of(scene, path, weight={"camera": torch.zeros(3, 8, 3), "hidden": torch.zeros(7, 8), "most_frames": torch.zeros(1)})
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:1000])
    if kind == "pickle":
        torch.save(Payload(), path)
    if kind == "pickle in cfg":
        weights_of(scene, path, cfg=Payload())
    if kind == "bare state_dict":
        torch.save({"camera": torch.zeros(3)}, path)
    tracker = Tapip3d(setup(REPOSITORY, path))
    with pytest.raises(BadDataError, match=str(path)):
        find(tracker, scene)
    assert tracker.worker._process is None
    assert "code in a pickle ran" not in capfd.readouterr().out


def test_it_says_what_is_missing_without_torch(tmp_path, monkeypatch):
    monkeypatch.delenv("TRACEKIT_CHECKOUTS", raising=False)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert "git clone https://github.com/zbw001/TAPIP3D" in Tapip3d.missing(BackendSetup())
    here = setup(REPOSITORY, tmp_path / "none.pth")
    assert "none.pth" in Tapip3d.missing(here)
    assert "zbww/tapip3d" in Tapip3d.missing(BackendSetup(repo=here.repo)) and "--download" in Tapip3d.missing(BackendSetup(repo=here.repo))
    with pytest.raises(UnavailableError, match="tapip3d cannot run here"):
        Tapip3d(here)


def test_nearest_agrees_with_brute_force(monkeypatch):
    rng = np.random.default_rng(0)
    sizes, asked = [40, 3, 500], [7, 5, 90]
    points, queries = (torch.tensor(rng.normal(size=(sum(n), 3)), dtype=torch.float32) for n in (sizes, asked))
    ends, query_ends = (torch.tensor(np.cumsum(n), dtype=torch.int32) for n in (sizes, asked))
    expected_index, expected_distance = np.zeros((sum(asked), 6), int), np.full((sum(asked), 6), np.inf)
    for group in range(3):
        first, first_query = sum(sizes[:group]), sum(asked[:group])
        for row in range(first_query, first_query + asked[group]):
            distance = np.linalg.norm(points[first : first + sizes[group]].double() - queries[row].double(), axis=1)
            order = np.argsort(distance)[:6]
            expected_index[row], expected_distance[row, : len(order)] = first, distance[order]
            expected_index[row, : len(order)] = first + order
    for most in (1 << 25, 1000, 1):  # in one piece, in some, row by row
        monkeypatch.setattr("tracekit.backends.foreign.tapip3d_network.MOST_DISTANCES", most)
        index, distance = nearest(6, points, queries, ends, query_ends)
        assert index.dtype == torch.int32
        np.testing.assert_array_equal(index.numpy(), expected_index)
        np.testing.assert_allclose(distance.numpy(), expected_distance, rtol=1e-5)


def test_nearest_is_exact_far_from_the_origin():
    # Distances by a product of matrices lose all digits here.
    points = torch.tensor([[1000.0, 0, 0], [1000.001, 0, 0], [1000.002, 0, 0]])
    index, _ = nearest(1, points, points + torch.tensor([1e-4, 0, 0]), torch.tensor([3]), torch.tensor([3]))
    assert index[:, 0].tolist() == [0, 1, 2]


def as_omegaconf(value, classes):
    """The value as OmegaConf keeps it: every mapping, list and leaf an object that knows its parent."""
    node = object.__new__(classes["dictconfig.DictConfig" if isinstance(value, dict) else "nodes.AnyNode"])
    node.__dict__["_metadata"] = object.__new__(classes["base.ContainerMetadata"])
    node.__dict__["_metadata"].__dict__.update(ref_type=classes["any"], object_type=dict, key_type=int, resolver_cache=defaultdict(dict))
    if isinstance(value, dict):
        node.__dict__["_content"] = {key: as_omegaconf(item, classes) for key, item in value.items()}
        for child in node.__dict__["_content"].values():
            child.__dict__["_parent"] = node
    elif isinstance(value, list):
        node = object.__new__(classes["listconfig.ListConfig"])
        node.__dict__["_content"] = [as_omegaconf(item, classes) for item in value]
    else:
        node.__dict__["_val"] = value
    return node


def test_a_configuration_that_was_pickled_by_omegaconf_is_read_without_it(tmp_path, monkeypatch):
    scene = scene_of(SHAPES[2], 9)
    path = weights_of(scene, tmp_path / "tapip3d_final.pth")
    plain_checkpoint = torch.load(path, weights_only=True)
    classes = {"any": Any}
    monkeypatch.setitem(sys.modules, "omegaconf", types.ModuleType("omegaconf"))
    for name in ("dictconfig.DictConfig", "listconfig.ListConfig", "base.ContainerMetadata", "nodes.AnyNode"):
        module = types.ModuleType(f"omegaconf.{name.partition('.')[0]}")
        kind = type(name.partition(".")[2], (), {"__module__": module.__name__})
        setattr(module, kind.__name__, kind)
        monkeypatch.setitem(sys.modules, module.__name__, module)
        classes[name] = kind
    configuration = plain_checkpoint["cfg"]
    configuration["model"]["seq_len"] = "${train_dataset.seq_len}"
    configuration["train_dataset"]["seq_len"] = 8
    weights_of(scene, path, cfg=as_omegaconf(configuration, classes))
    assert b"omegaconf.dictconfig" in path.read_bytes()
    tracker = Tapip3d(setup(REPOSITORY, path))
    expect_truth(find(tracker, scene), scene, bridges=True)
    tracker.close()


def test_a_configuration_with_references_is_read():
    class Node:
        def __init__(self, **content):
            self.__dict__.update(content)

    pickled = Node(_content={"a": Node(_val=3), "b": Node(_content=[Node(_val="${c.d}"), Node(_val=None)]), "c": {"d": Node(_val=2.5)}})
    whole = plain(pickled)
    assert resolved(whole, whole) == {"a": 3, "b": [2.5, None], "c": {"d": 2.5}}
    circle = {"a": "${a}"}
    with pytest.raises(ValueError, match="leads to itself"):
        resolved(circle, circle)
