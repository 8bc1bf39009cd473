"""Pictures of predicted traces: a frame with the futures of its keypoints over it, and a sheet of samples beside what happened."""

from __future__ import annotations

import math
from collections.abc import Mapping

import cv2
import numpy as np

from tracekit.drawing import PAPER, SHADOW, Colour, Layer, contact_sheet, draw_tails, entity_colour, fitted, line_unit, text_size
from tracekit.extract.reference_traces import to_pixels
from tracekit.records import Predictions

# A panel is drawn at least this wide, so that lines are smooth and letters can be read.
LEAST_WIDTH = 560
# More traces than this hide each other, and the frame.
MOST_TRACES = 24
# Points whose path stays within this, in [-1, 1], do not move.
_SHORTEST_PATH = 0.02
# On a bare picture every point is a thing of its own; then a colour says where a trace started.
_MOST_ENTITIES_BY_COLOUR = 12


class EvenlySpread:
    """Frames of at least `number` samples, evenly spread over a stream whose length shows only at its end."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._apart = 1
        self._kept: dict[int, np.ndarray] = {}

    def offer(self, sample: int, frame: np.ndarray) -> None:
        """The next sample of the stream; fewer than twice `number` frames are kept at any time."""
        if sample % self._apart == 0:
            self._kept[sample] = frame
        if len(self._kept) >= 2 * self._number:
            self._apart *= 2
            self._kept = {kept: frame for kept, frame in self._kept.items() if kept % self._apart == 0}

    def chosen(self) -> dict[int, np.ndarray]:
        """At most `number` frames by the number of their sample, in order."""
        samples = list(self._kept)
        places = np.linspace(0, len(samples) - 1, min(self._number, len(samples))).round().astype(int)
        return {samples[place]: self._kept[samples[place]] for place in places}


def draw_predictions(frame: np.ndarray, predictions: Predictions, sample: int, *, most_traces: int = MOST_TRACES) -> np.ndarray:
    """A frame (H, W, 3) uint8 RGB with all draws of the predicted traces of `sample`: faint at the anchor, a dot, and strong at the end.

    Of more than `most_traces` keypoints, some that are spread over the frame are shown. Frames narrower than a panel are enlarged.
    """
    rows = _rows_to_draw(predictions, sample, most_traces)
    paths = _with_anchor(predictions.anchor[rows], predictions.traces[rows])
    return _draw(frame, paths, predictions.anchor[rows], _colours(predictions, rows))


def draw_truth(frame: np.ndarray, predictions: Predictions, sample: int, *, most_traces: int = MOST_TRACES) -> np.ndarray:
    """The same for what happened, as far as it is known, of the same keypoints."""
    assert predictions.true_traces is not None and predictions.true_valid is not None
    rows = _rows_to_draw(predictions, sample, most_traces)
    known = np.where(predictions.true_valid[rows, :, None] > 0, predictions.true_traces[rows], np.nan)
    paths = _with_anchor(predictions.anchor[rows], known[:, None])
    return _draw(frame, paths, predictions.anchor[rows], _colours(predictions, rows))


def prediction_sheet(predictions: Predictions, frames: Mapping[int, np.ndarray], *, most_traces: int = MOST_TRACES) -> np.ndarray:
    """The samples whose frame (H, W, 3) is in `frames`, by their number, each under its sentence, and beside it what happened where known."""
    panels, titles = [], []
    num_draws = predictions.traces.shape[1]
    for sample, frame in frames.items():
        panels.append(draw_predictions(frame, predictions, sample, most_traces=most_traces))
        titles.append(_title(predictions, sample, num_draws, panels[-1]))
        if predictions.true_traces is not None:
            panels.append(draw_truth(frame, predictions, sample, most_traces=most_traces))
            titles.append("what happened")
    sheet = _one_size(panels)
    if predictions.true_traces is None:
        return contact_sheet(sheet, titles=titles)
    # A prediction and its truth stay side by side, and the sheet is rather wide than high, as screens are.
    pairs_abreast = max(1, round(0.3 + math.sqrt(len(frames) * sheet[0].shape[0] / (2 * sheet[0].shape[1]))))
    return contact_sheet(sheet, columns=2 * pairs_abreast, titles=titles)


def _title(predictions: Predictions, sample: int, num_draws: int, panel: np.ndarray) -> str:
    draws = f"{num_draws} draws" if num_draws > 1 else "1 draw"
    caption = predictions.sample_caption[sample].strip()
    size, width = text_size(panel), panel.shape[1]
    if not caption:
        return f"no sentence ({draws})"
    # Letters of the sentence give way before the number of draws does.
    for length in range(len(caption), 0, -1):
        shown = caption if length == len(caption) else caption[:length].rstrip() + "…"
        title = f"“{shown}” ({draws})"
        if fitted(title, size, width) == title:
            return title
    return draws


def draw_paths(frame: np.ndarray, paths: np.ndarray, *, most_paths: int = MOST_TRACES) -> np.ndarray:
    """A frame (H, W, 3) with those of the paths (N, L, 2 or more) that lead anywhere: u and v in [-1, 1], from where each point is now.

    Of more than `most_paths`, some that are spread over the frame.
    """
    uv = paths[:, :, :2].astype(np.float64)  # however far a path leads, its length is a number
    length = np.linalg.norm(np.ptp(uv, axis=1), axis=1)
    rows = np.flatnonzero(length > _SHORTEST_PATH)
    rows = rows[_spread(uv[rows, 0], length[rows], most_paths)]
    # Left to right, as it is where every keypoint is an entity of its own.
    return _draw(frame, uv[rows, None], uv[rows, 0], _colours_by_place(uv[rows, 0, 0])) if len(rows) else frame.copy()


def _rows_to_draw(predictions: Predictions, sample: int, most: int) -> np.ndarray:
    """At most `most` rows of a sample, spread over the frame."""
    rows = np.flatnonzero(predictions.sample == sample)
    if len(rows) <= most:
        return rows
    uv = predictions.anchor[rows, :2]
    moved = np.linalg.norm(predictions.traces[rows, :, -1, :2] - uv[:, None], axis=-1).mean(axis=1)
    return rows[_spread(uv, moved, most)]


def _spread(uv: np.ndarray, moved: np.ndarray, most: int) -> np.ndarray:
    """At most `most` of the points uv (N, 2), in order: each next one is the farthest from those before."""
    if len(uv) <= most:
        return np.arange(len(uv))
    # The first is the one that is predicted to move most: the picture is about motion.
    chosen = [int(np.argmax(moved))]
    distance = np.linalg.norm(uv - uv[chosen[0]], axis=1)
    while len(chosen) < most:
        chosen.append(int(np.argmax(distance)))
        distance = np.minimum(distance, np.linalg.norm(uv - uv[chosen[-1]], axis=1))
    return np.sort(chosen)


def _with_anchor(anchor: np.ndarray, traces: np.ndarray) -> np.ndarray:
    """(n, S, H + 1, 2) of anchors (n, 3) and traces (n, S, H, 3): u and v."""
    start = np.broadcast_to(anchor[:, None, None, :2], (*traces.shape[:2], 1, 2))
    return np.concatenate([start, traces[..., :2]], axis=2)


def _draw(frame: np.ndarray, paths: np.ndarray, anchor: np.ndarray, colours: list[Colour]) -> np.ndarray:
    """Paths (n, S, L, 2) in [-1, 1] over a frame."""
    scale = max(1, math.ceil(LEAST_WIDTH / frame.shape[1]))
    if scale > 1:
        frame = cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    size = frame.shape[1], frame.shape[0]
    num_keypoints, num_draws = paths.shape[:2]
    unit = line_unit(frame)
    layer = Layer(frame)
    pixels = to_pixels(paths.astype(np.float64), size).reshape(num_keypoints * num_draws, -1, 2).swapaxes(0, 1)
    of_draws = [colour for colour in colours for _ in range(num_draws)]
    # Draws lie close together, and beside each other rather than on each other where they are hair lines.
    draw_tails(layer, pixels, of_draws, "entity", unit * (0.9 if num_draws == 1 else 0.58), faintest=0.35)
    here = to_pixels(anchor[:, :2].astype(np.float64), size)
    layer.dots(here, 3.0 * unit, SHADOW, 0.5)
    layer.dots(here, 2.4 * unit, PAPER)
    layer.dots(here, 1.6 * unit, colours)
    return layer.blended()


def _colours(predictions: Predictions, rows: np.ndarray) -> list[Colour]:
    """By entity; by place, left to right, where every keypoint is an entity of its own."""
    entities = predictions.entity[rows]
    if len(set(entities.tolist())) < len(rows) or len(rows) <= _MOST_ENTITIES_BY_COLOUR:
        return [entity_colour(int(entity)) for entity in entities]
    return _colours_by_place(predictions.anchor[rows, 0])


def _colours_by_place(u: np.ndarray) -> list[Colour]:
    """Of points at u (n,) in [-1, 1]."""
    ramp = cv2.applyColorMap(np.linspace(20, 235, 256).astype(np.uint8)[:, None], cv2.COLORMAP_TURBO)[:, 0, ::-1]
    places = np.clip((u + 1) * 127.5, 0, 255).astype(int)
    return [tuple(int(value) for value in ramp[place]) for place in places]  # type: ignore[misc]


def _one_size(panels: list[np.ndarray]) -> list[np.ndarray]:
    """Panels on white, all as large as the largest."""
    height, width = max(panel.shape[0] for panel in panels), max(panel.shape[1] for panel in panels)
    result = []
    for panel in panels:
        whole = np.full((height, width, 3), PAPER, np.uint8)
        whole[: panel.shape[0], : panel.shape[1]] = panel
        result.append(whole)
    return result
