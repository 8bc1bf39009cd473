"""Pictures of predictions: ink is where the traces are, in the colour of their entity, and nowhere else."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from tracekit.drawing import entity_colour
from tracekit.records import Predictions
from tracekit.trace_pictures import EvenlySpread, draw_paths, draw_predictions, draw_truth, prediction_sheet

WIDTH, HEIGHT = 640, 480
GREY = np.full((HEIGHT, WIDTH, 3), 128, np.uint8)


def straight(num_keypoints: int = 2, num_draws: int = 1, num_samples: int = 1) -> Predictions:
    """Keypoints below each other that move from u = -0.5 to 0.5; in truth they move half as far, and are known for half of the steps."""
    number = num_keypoints * num_samples
    v = np.tile(np.linspace(-0.5, 0.5, num_keypoints), num_samples)
    anchor = np.stack([np.full(number, -0.5), v, np.ones(number)], axis=1).astype(np.float32)
    step = np.zeros((number, num_draws, 8, 3), np.float32)
    step[..., 0] = np.arange(1, 9) / 8
    valid = np.ones((number, 8), np.uint8)
    valid[:, 4:] = 0
    return Predictions(
        sample_clip=["clip"] * num_samples,
        sample_frame=np.arange(num_samples),
        sample_caption=["open the drawer"] * num_samples,
        sample=np.repeat(np.arange(num_samples), num_keypoints),
        entity=np.tile(np.arange(num_keypoints), num_samples),
        moving=np.ones(number),
        anchor=anchor,
        traces=anchor[:, None, None] + step,
        true_traces=np.where(valid[..., None] > 0, anchor[:, None] + step[:, 0] / 2, 1e9).astype(np.float32),
        true_valid=valid,
    )


def inked(picture: np.ndarray) -> np.ndarray:
    return (picture != 128).any(axis=2)


def test_a_trace_runs_from_its_anchor_to_its_end_in_its_colour() -> None:
    picture = draw_predictions(GREY, straight(), 0)
    ink = inked(picture)
    for keypoint, row in enumerate((HEIGHT // 4, 3 * HEIGHT // 4)):
        columns = np.flatnonzero(ink[row - 1 : row + 1].any(axis=0))
        assert abs(columns.min() - WIDTH / 4) < 6 and abs(columns.max() - 3 * WIDTH / 4) < 4
        assert len(columns) == columns.max() - columns.min() + 1, "without a gap"
        near_end = picture[row - 1 : row + 1, 3 * WIDTH // 4 - 20 : 3 * WIDTH // 4 - 5].reshape(-1, 3).astype(int)
        assert np.abs(near_end - entity_colour(keypoint)).sum(axis=1).min() < 12
    rows = np.flatnonzero(ink.any(axis=1))
    assert (np.minimum(abs(rows - HEIGHT / 4), abs(rows - 3 * HEIGHT / 4)) < 6).all()


def test_the_truth_ends_where_it_is_no_longer_known() -> None:
    ink = inked(draw_truth(GREY, straight(), 0))
    columns = np.flatnonzero(ink.any(axis=0))
    assert abs(columns.max() - (WIDTH / 4 + WIDTH / 8)) < 4


def test_all_draws_are_drawn() -> None:
    predictions = straight(1, 2)
    predictions.traces[:, 1, :, 1] += np.linspace(0, 0.5, 8)
    rows = np.flatnonzero(inked(draw_predictions(GREY, predictions, 0))[:, 3 * WIDTH // 4 - 8 : 3 * WIDTH // 4].any(axis=1))
    assert rows.min() < HEIGHT / 4 + 5 and rows.max() > HEIGHT / 2 - 10


def test_only_the_samples_own_traces() -> None:
    predictions = straight(2, 1, 2)
    predictions.traces[2:, ..., 1] = 0.9
    assert not inked(draw_predictions(GREY, predictions, 0))[int(0.8 * HEIGHT) :].any()


def test_of_many_keypoints_some_are_shown_that_lie_apart() -> None:
    predictions = straight(60)
    starts = inked(draw_predictions(GREY, predictions, 0, most_traces=4))[:, WIDTH // 4 - 2 : WIDTH // 4 + 2].any(axis=1)
    beginnings = np.flatnonzero(np.diff(starts.astype(int), prepend=0) == 1)
    assert len(beginnings) == 4 and np.diff(beginnings).min() > 60


def test_small_frames_are_enlarged_and_a_sheet_has_pairs() -> None:
    predictions = straight(2, 1, 3)
    frames = {sample: np.full((120, 160, 3), 128, np.uint8) for sample in (0, 2)}
    panel = draw_predictions(frames[0], predictions, 0)
    assert panel.shape == (480, 640, 3)
    sheet = prediction_sheet(predictions, frames)
    assert sheet.shape[1] > 2 * 640 and sheet.shape[0] > 2 * 480 and sheet.shape[0] < 3 * 480
    without = prediction_sheet(dataclasses.replace(predictions, true_traces=None, true_valid=None), {0: frames[0]})
    assert 480 < without.shape[0] < 560 and 640 < without.shape[1] < 680


def test_frames_of_different_sizes_share_a_sheet() -> None:
    frames = {0: GREY, 1: np.full((600, 600, 3), 128, np.uint8)}
    assert prediction_sheet(straight(2, 1, 2), frames).dtype == np.uint8


def test_far_and_endless_traces_do_no_harm() -> None:
    predictions = straight(3)
    predictions.traces[0] = 1e30
    predictions.traces[1, :, 3:] = -1e5
    assert np.array_equal(draw_predictions(GREY, predictions, 0)[: HEIGHT // 8], GREY[: HEIGHT // 8])


def test_paths_that_lead_nowhere_are_not_drawn() -> None:
    paths = np.zeros((2, 5, 3))
    paths[:, :, 0] = [[-0.5] * 5, np.linspace(0.1, 0.6, 5)]
    drawn = draw_paths(GREY, paths)
    still, moving = (np.abs(part.astype(int) - GREY[0, 0]).max() for part in np.array_split(drawn, 2, axis=1))
    assert still == 0 and moving > 50
    assert np.array_equal(draw_paths(GREY, paths[:1]), GREY) and drawn.shape == GREY.shape


@pytest.mark.parametrize(("number", "length"), [(6, 100), (6, 7), (6, 3), (1, 50), (3, 0)])
def test_frames_are_spread_evenly_over_a_stream_of_any_length(number: int, length: int) -> None:
    kept = EvenlySpread(number)
    most = 0
    for sample in range(length):
        kept.offer(sample, np.full((1, 1, 3), sample))
        most = max(most, len(kept._kept))
    chosen = kept.chosen()
    assert len(chosen) == min(number, length) and most < 2 * number
    assert all(frame[0, 0, 0] == sample for sample, frame in chosen.items())
    if length > 2 * number > 2:
        gaps = np.diff(list(chosen))
        assert gaps.max() <= 2 * gaps.min() + 1 and list(chosen)[-1] >= 0.75 * length
