"""What tests of rollouts share: small episodes and a corpus of them, and a network whose every weight matters."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from conftest import small_episode

from tracekit import records
from tracekit.extract.corpus_pictures import PictureParameters, with_pictures
from tracekit.extract.fit_bspline import FitBsplineParameters, corpus
from tracekit.format.file import Target, write_records
from tracekit.format.schema import CORPUS
from tracekit.mu0 import checkpoint
from tracekit.mu0.config import Mu0Config
from tracekit.mu0.model import Mu0
from tracekit.mu0.presets import PRESETS, build
from tracekit.mu0.statistics import CorpusStatistics
from tracekit.report import Report

CONFIG = dataclasses.replace(
    PRESETS["tiny-random"], history=2, history_group=2, horizon=4, control_points=4, control_group=4, local_features="stem"
)
STATISTICS = CorpusStatistics((0.5, 0.25, 0.1), (0.0, 1.5), 0.1, False, True)
NUM_FRAMES, NUM_TRACKS, NUM_MOVING = 12, 9, 7
WIDTH, HEIGHT = 64, 48


def network(config: Mu0Config = CONFIG, seed: int = 0) -> Mu0:
    """A new network starts with gates at 0, through which nothing passes: disturbed, everything has an effect."""
    model = build(config, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.15 * torch.randn(weight.shape, generator=generator)
    return model.eval()


def sliding_episode(clip_id: str = "first", task: str = "slide the block", seed: int = 0) -> records.Episode:
    """Nine tracks, two of which rest and the others each go their own way, before a camera that stands still. Frames are noise."""
    base = small_episode()
    random = np.random.default_rng(seed)
    time = np.arange(NUM_FRAMES)
    xyz = np.stack([np.linspace(-0.5, 0.5, NUM_TRACKS), random.uniform(-0.3, 0.3, NUM_TRACKS), np.full(NUM_TRACKS, 2.0)], axis=1)
    velocity = random.uniform(-0.03, 0.03, (NUM_TRACKS, 3))
    velocity[NUM_MOVING:] = 0
    xyz = xyz + time[:, None, None] * velocity
    everywhere = np.ones((NUM_FRAMES, NUM_TRACKS), np.uint8)
    uv = xyz[..., :2] / xyz[..., 2:] * 60 + [31.5, 23.5]
    assert base.geometry is not None and base.captions is not None and base.events is not None and base.motion is not None
    return records.Episode(
        clip_id=clip_id,
        video=dataclasses.replace(
            base.video,
            sha256=f"{seed:064}",
            num_source_frames=NUM_FRAMES,
            pts=time / 10,
            source_frame=time,
            frames=random.integers(0, 255, (NUM_FRAMES, HEIGHT, WIDTH, 3)).astype(np.uint8),
        ),
        keypoints=dataclasses.replace(base.keypoints, chunk_stop=np.array([NUM_FRAMES])),
        geometry=dataclasses.replace(
            base.geometry,
            world_from_camera=np.tile(np.eye(4), (NUM_FRAMES, 1, 1)),
            frame_confidence=np.ones(NUM_FRAMES),
            chunk_stop=np.array([NUM_FRAMES]),
            depth=np.full((NUM_FRAMES, HEIGHT // 2, WIDTH // 2), 2.0, np.float32),
        ),
        tracks=records.Tracks(
            tracker="klt",
            xyz_world=xyz,
            uv=uv,
            visible=everywhere,
            valid=everywhere,
            keypoint=np.arange(NUM_TRACKS) % 7,
            entity=np.arange(NUM_TRACKS) % 3,
            born=np.zeros(NUM_TRACKS, int),
            chunk=np.zeros(NUM_TRACKS, int),
        ),
        motion=dataclasses.replace(
            base.motion,
            diameter_px=np.zeros(NUM_TRACKS),
            reference_frame=np.zeros(NUM_TRACKS, int),
            moving=(np.arange(NUM_TRACKS) < NUM_MOVING).astype(np.uint8),
        ),
        captions=dataclasses.replace(base.captions, episode_text=task, event_stop=np.array([NUM_FRAMES])),
    )


EPISODES = (sliding_episode(), sliding_episode("second", "open the drawer", 1), sliding_episode("third", "open the drawer", 2))


def write_corpus(path: Path, episodes: Sequence[records.Episode] = EPISODES, *, config: Mu0Config = CONFIG, every: int = 3) -> Path:
    """A corpus of episodes with pictures and depth in it."""
    parameters = FitBsplineParameters(
        history=config.history, horizon=config.horizon, control_points=config.control_points, every=every, min_valid=1
    )
    whole = corpus(episodes, parameters, Report())
    parts = []
    for episode in episodes:
        one = corpus([episode], parameters, Report(), whole.delta_scale, whole.depth_log_range)
        parts += list(with_pictures(one, episode, episode.video.frames, PictureParameters(embed_images=True, embed_depth=True), Report()))
    jpeg, png = np.concatenate([part.image_jpeg for part in parts]), np.concatenate([part.depth_png for part in parts])
    whole = dataclasses.replace(
        whole,
        image_jpeg=jpeg,
        depth_png=png,
        image_offset=np.cumsum([0, *np.concatenate([np.diff(part.image_offset) for part in parts])]),
        depth_offset=np.cumsum([0, *np.concatenate([np.diff(part.depth_offset) for part in parts])]),
    )
    with write_records(Target(path, force=True), CORPUS) as writer:
        writer.put(whole)
    return path


def write_checkpoint(folder: Path, model: Mu0 | None = None) -> Path:
    model = model or network()
    checkpoint.save(folder, model.config, checkpoint.stored_weights(model, embed_frozen=True), STATISTICS)
    return folder
