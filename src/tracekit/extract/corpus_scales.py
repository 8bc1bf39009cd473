"""The two scales of a corpus: how far keypoints move, and how deep scenes are (paper B.2)."""

from __future__ import annotations

import numpy as np

from tracekit.extract.streaming_quantiles import StreamingQuantiles
from tracekit.records import Corpus
from tracekit.report import Report

DELTA_QUANTILE = 0.95
DEPTH_QUANTILES = (0.01, 0.99)

# A scale is never below this: half a pixel of an image a thousand pixels wide, a millimetre in depth. An axis on which nothing
# moves (depth, where none is claimed) would otherwise have its round-off blown up to the size of a motion.
SMALLEST_DELTA_SCALE = 1e-3


class CorpusScales:
    """The scales of a corpus from its rows, episode by episode, in bounded memory and independent of their order.

    See StreamingQuantiles for how: exact for the first four million numbers an axis, right to 0.05 % beyond, nothing sampled.
    """

    def __init__(self) -> None:
        self._delta = [StreamingQuantiles() for _ in range(3)]
        self._depth = StreamingQuantiles()

    def add(self, samples: Corpus) -> None:
        """Take the rows of `samples`, fitted or not, into account."""
        known = samples.valid_future.astype(bool)
        for axis, quantiles in enumerate(self._delta):
            quantiles.add(np.abs(samples.future[..., axis][known]))
        self._depth.add(samples.current[:, 2])

    def result(self, report: Report) -> tuple[np.ndarray, np.ndarray]:
        """delta_scale (3,), the 95th percentile of |future - anchor| over valid steps, at least SMALLEST_DELTA_SCALE, and
        depth_log_range (2,), the 1st and 99th percentile of log depth at the anchors, widened to a factor of two of depth.

        Without rows they are (1, 1, 1) and (0, log 2), and a note says so.
        """
        if self._depth.size == 0:
            report.note("There are no rows, so no scales were measured: they are set to 1.")
        delta = np.array([quantiles.quantile(DELTA_QUANTILE) for quantiles in self._delta])
        delta = np.where(np.isnan(delta), 1.0, delta)
        report.count("axes without motion, whose delta scale is the smallest allowed", int(np.count_nonzero(delta < SMALLEST_DELTA_SCALE)))
        if self._depth.size == 0:
            return delta, np.array([0.0, np.log(2.0)])
        near, far = np.log([self._depth.quantile(fraction) for fraction in DEPTH_QUANTILES])
        # Depth is drawn on a colour scale over this range, which therefore has to have a length.
        missing = max(0.0, np.log(2.0) - (far - near))
        return np.maximum(delta, SMALLEST_DELTA_SCALE), np.array([near - missing / 2, far + missing / 2])
