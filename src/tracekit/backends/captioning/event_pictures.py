"""What a model sees of an event (paper A.5): its start, midpoint and end frame, and where it moves."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from tracekit.backends.protocols import EventRequest
from tracekit.drawing import trace_pixels
from tracekit.errors import BadDataError
from tracekit.records import Frames

LEAST_TRACKS = 4
"""An entity with fewer tracks that move is no region but a few stray points (the release's limit)."""
RADIUS = 0.03
"""Of the discs of the mask, in longer sides of the frame; the release draws 12 px and dilates by 5."""


@dataclass(frozen=True)
class EventPictures:
    """All are (h, w, 3) uint8 RGB of one size."""

    start: np.ndarray
    middle: np.ndarray
    end: np.ndarray
    mask: np.ndarray | None
    """White discs on black: where the tracks of the entity that moves most are in the start frame. None where not wanted."""


def take_pictures(request: EventRequest, longest_side: int, *, with_mask: bool) -> EventPictures:
    """The pictures of an event, no side longer than `longest_side`; small frames are not enlarged.

    Raises BadDataError when there are no frames, or no tracks to draw a mask from.
    """
    frames = request.frames
    if frames is None:
        raise BadDataError("there are no frames to look at", hint="say where the video is with --video")
    moments = (request.start, (request.start + request.stop - 1) // 2, request.stop - 1)
    start, middle, end = (_bounded(_frame(frames, moment), longest_side) for moment in moments)
    mask = _bounded(draw_motion_mask(request), longest_side, cv2.INTER_NEAREST_EXACT) if with_mask else None
    return EventPictures(start, middle, end, mask)


def draw_motion_mask(request: EventRequest) -> np.ndarray:
    """(H, W, 3) uint8: white discs where the tracks of the entity that moves most in the event are at its start, as its first camera sees them.

    An entity moves as far as its moving tracks do on average, in pixels of that camera, times the root of their number: a region counts
    for more than a few fast points. Without such an entity all moving tracks are drawn. Raises BadDataError when the episode has no tracks,
    cameras or motion.
    """
    episode = request.episode
    if episode.tracks is None or episode.geometry is None or episode.motion is None:
        raise BadDataError("the episode has no moving traces to draw a mask from", hint="leave out --motion-mask, or run `tracekit filter`")
    picture = np.zeros((episode.video.height, episode.video.width, 3), np.uint8)
    moving = np.flatnonzero(episode.motion.moving)
    start, end = trace_pixels(episode.tracks, episode.geometry, request.start, [request.start, request.stop - 1], moving)
    moved = np.linalg.norm(end - start, axis=-1)
    known = np.isfinite(moved)
    entities = episode.tracks.entity[moving]
    scores = {
        entity: float(moved[of_it].mean()) * np.sqrt(of_it.sum())
        for entity in np.unique(entities).tolist()
        if (of_it := known & (entities == entity)).sum() >= LEAST_TRACKS
    }
    shown = entities == max(scores, key=lambda entity: scores[entity]) if scores else np.ones(len(moving), bool)
    radius = max(1, round(RADIUS * max(picture.shape)))
    for u, v in start[shown & np.isfinite(start).all(axis=-1)]:
        # Discs that lie far outside would overflow OpenCV's integers, and leave no mark.
        if -radius <= u <= picture.shape[1] + radius and -radius <= v <= picture.shape[0] + radius:
            cv2.circle(picture, (round(u), round(v)), radius, (255, 255, 255), cv2.FILLED)
    return picture


def _frame(frames: Frames, index: int) -> np.ndarray:
    return frames[index : index + 1][0]


def _bounded(picture: np.ndarray, longest_side: int, interpolation: int = cv2.INTER_AREA) -> np.ndarray:
    height, width = picture.shape[:2]
    scale = longest_side / max(height, width)
    if scale >= 1:
        return picture
    return cv2.resize(picture, (max(1, round(width * scale)), max(1, round(height * scale))), interpolation=interpolation)
