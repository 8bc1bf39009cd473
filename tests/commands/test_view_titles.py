"""Titles above the frames of a sheet."""

import numpy as np
from tracekit.commands.view import moments


def test_times_have_the_digits_that_tell_frames_apart():
    assert moments([0.0, 0.6, 1.2]) == ["0.0 s", "0.6 s", "1.2 s"]
    assert moments([0.0, 0.1, 0.2]) == ["0.0 s", "0.1 s", "0.2 s"]
    assert moments([0.0, 0.05]) == ["0.00 s", "0.05 s"]
    assert moments([0.0]) == ["0.0 s"] and moments([]) == []
    for rate in (7, 10, 24, 30, 60, 120, 240):
        titles = moments((np.arange(20) / rate).tolist())
        assert len(set(titles)) == 20
