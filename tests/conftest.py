"""What tests share: a small episode that has every record, and where the real recordings are."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import numpy as np
import pytest

from tracekit import records
from tracekit.format.file import Target, write_records
from tracekit.format.provenance import Step
from tracekit.format.schema import EPISODE


def pytest_collection_finish() -> None:
    """All modules are imported: their objects, millions with torch, need not be looked through by every collection of garbage from here on."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    gc.unfreeze()  # extension modules complain at exit of what was not freed


T, N, K, H, W = 6, 5, 7, 48, 64


def small_episode() -> records.Episode:
    """Six frames, five tracks of seven candidates; two tracks move to the right. All values are made from formulas."""
    intrinsics = np.array([[60.0, 0, 31.5], [0, 60.0, 23.5], [0, 0, 1]])
    poses = np.tile(np.eye(4), (T, 1, 1))
    time = np.arange(T)
    xyz = np.stack([np.linspace(-0.4, 0.4, N), np.linspace(-0.2, 0.2, N), np.full(N, 2.0)], axis=1)[None].repeat(T, axis=0)
    xyz[:, :2, 0] += 0.3 * time[:, None]
    valid = np.ones((T, N), np.uint8)
    valid[:2, 4] = 0
    xyz[valid == 0] = np.nan
    uv = xyz[..., :2] / xyz[..., 2:] * 60 + [31.5, 23.5]
    depth = np.full((T, H // 2, W // 2), 2.0, np.float32)
    labels = np.arange(12, dtype=np.int32).reshape(1, 3, 4) // 4
    return records.Episode(
        clip_id="small",
        video=records.Clip(
            uri="/nowhere/small.mp4",
            sha256="0" * 64,
            fps=10.0,
            width=W,
            height=H,
            source_width=W,
            source_height=H,
            rotation=0,
            decoder="images",
            num_source_frames=T,
            num_missing_frames=0,
            pts=time / 10,
            source_frame=time,
            task="slide the block",
            frames=(np.arange(T * H * W * 3) % 251).astype(np.uint8).reshape(T, H, W, 3),
        ),
        depth_sensor=records.DepthSensor(depth),
        camera_sensor=records.CameraSensor(intrinsics, poses),
        keypoints=records.Keypoints(
            patch_size=16.0,
            budget=K,
            features="lowlevel",
            uv=np.stack([np.linspace(5, 60, K), np.linspace(5, 40, K)], axis=1),
            frame=np.zeros(K, int),
            entity=np.arange(K) % 3,
            chunk=np.zeros(K, int),
            score=np.ones(K),
            chunk_start=np.array([0]),
            chunk_stop=np.array([T]),
            entity_id=np.arange(3),
            entity_num_patches=np.full(3, 4),
            entity_num_frames=np.ones(3, int),
            entity_rgb=np.array([[200, 30, 30], [30, 160, 30], [90, 90, 90]], np.uint8),
            label_frame=np.array([0]),
            labels=labels,
        ),
        geometry=records.Geometry(
            backend="sensor",
            metric=True,
            intrinsics=intrinsics,
            world_from_camera=poses,
            frame_confidence=np.ones(T),
            anchor_frame=np.array([0, T - 1]),
            chunk_start=np.array([0]),
            chunk_stop=np.array([T]),
            chunk_scale=np.ones(1),
            chunk_alignment=np.eye(4)[None],
            chunk_residual=np.zeros(1),
            chunk_num_anchors=np.array([2]),
            depth=depth,
        ),
        tracks=records.Tracks(
            tracker="klt",
            xyz_world=xyz,
            uv=uv,
            visible=valid,
            valid=valid,
            keypoint=np.arange(N),
            entity=np.arange(N) % 3,
            born=np.array([0, 0, 0, 0, 2]),
            chunk=np.zeros(N, int),
        ),
        motion=records.Motion(
            threshold_px=40.0,
            lambda_z=0.1,
            diameter_px=np.array([45.0, 45.0, 0.0, 0.0, 0.0]),
            reference_frame=np.array([0, 0, 0, 0, 2]),
            moving=np.array([1, 1, 0, 0, 0]),
        ),
        events=records.Events(signal=np.zeros(T), smoothed=np.zeros(T), peak=np.zeros(0, int), start=np.array([0]), stop=np.array([T])),
        captions=records.Captions(
            captioner="template",
            episode_text="A block slides.",
            event_start=np.array([0]),
            event_stop=np.array([T]),
            event_ok=np.array([1]),
            event_before=["It lies."],
            event_interaction=["It slides – à droite."],
            event_after=["It lies again."],
            event_text=["A block slides."],
            event_paraphrases=[["The block moves.", "Something slides."]],
            summary_start=np.zeros(0, int),
            summary_stop=np.zeros(0, int),
            summary_level=np.zeros(0, int),
            summary_text=[],
        ),
        truth=records.Truth(
            simulator="formulas",
            environment="three strips",
            camera="corner2",
            seed=0,
            seconds_per_frame=0.1,
            body_at_pixel=np.broadcast_to(np.arange(W) * 3 // W, (T, H, W)).astype(np.int16),
            body_name=["left", "middle", "right"],
            body_rigid_group=np.array([0, 0, 2]),
            body_is_robot=np.array([0, 0, 1]),
            world_from_body=np.tile(np.eye(4), (T, 3, 1, 1)),
        ),
    )


def write_episode(path: Path, episode: records.Episode, *, without: tuple[str, ...] = ()) -> Path:
    """Write the records of an episode but those named."""
    with write_records(Target(path, force=True), EPISODE, episode.clip_id) as writer:
        for group in EPISODE.groups:
            record = getattr(episode, group.name)
            if record is not None and group.name not in without:
                writer.put(record)
        writer.append_step(
            Step("keypoints", ["keypoints", "small.mp4"], "0.1.0", {"budget": 7}, ["small"], "lowlevel", counts={"frames": 0})
        )
    return path


@pytest.fixture
def episode() -> records.Episode:
    return small_episode()


@pytest.fixture
def episode_file(tmp_path: Path) -> Path:
    return write_episode(tmp_path / "small.h5", small_episode())


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real recordings; tests that use it are skipped where it is absent."""
    folder = Path(os.environ.get("TRACEKIT_REAL_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("no real recordings (TRACEKIT_REAL_DATA)")
    return folder
