import pytest

from tracekit.extract.chunks import FEW_FRAMES, chunk_bounds


def test_chunks_cover_every_frame_once_in_order_and_never_exceed_their_size():
    for num_frames in range(200):
        for chunk in range(1, 70):
            bounds = chunk_bounds(num_frames, chunk)
            assert [frame for start, stop in bounds for frame in range(start, stop)] == list(range(num_frames))
            assert all(0 < stop - start <= chunk for start, stop in bounds)
            assert all(stop - start == chunk for start, stop in bounds[:-2])


def test_a_clip_that_divides_is_cut_evenly():
    assert chunk_bounds(120, 60) == [(0, 60), (60, 120)]
    assert chunk_bounds(0, 60) == []
    assert chunk_bounds(1, 60) == [(0, 1)]


def test_a_few_frames_at_the_end_do_not_stand_alone():
    assert chunk_bounds(123, 60) == [(0, 60), (60, 92), (92, 123)]
    for num_frames in range(61, 400):
        assert all(stop - start >= FEW_FRAMES for start, stop in chunk_bounds(num_frames, 60))


def test_nonsense_is_refused():
    for num_frames, chunk in ((-1, 60), (10, 0)):
        with pytest.raises(ValueError, match="cannot cut"):
            chunk_bounds(num_frames, chunk)
