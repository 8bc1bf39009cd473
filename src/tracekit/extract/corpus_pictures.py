"""The pictures and depth of a corpus' reference frames, embedded so that training opens no video."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tracekit.extract.corpus_blocks import blocks_of
from tracekit.extract.merge_corpora import offsets
from tracekit.format.file import in_millimetres
from tracekit.parameters import parameter
from tracekit.pictures import depth_to_square, encode_depth, encode_jpeg, to_square
from tracekit.records import Corpus, Episode, Frames
from tracekit.report import Report


@dataclass(frozen=True)
class PictureParameters:
    """What of the reference frames goes into the corpus; without any of it, a corpus names video and frame."""

    embed_images: bool = parameter(False, "Put the picture of every reference frame into the corpus, as JPEG.")
    jpeg_quality: int = parameter(90, "Quality of the JPEGs.", minimum=1, maximum=100)
    embed_depth: bool = parameter(False, "Put the depth of every reference frame into the corpus, where there is any.")
    image_size: int = parameter(0, "Stretch embedded pictures and depth to a square of this side in pixels; 0 keeps their size.", minimum=0)


def with_pictures(
    samples: Corpus, episode: Episode, frames: Frames | None, parameters: PictureParameters, report: Report
) -> Iterator[Corpus]:
    """The samples of one episode, block by block, with what `parameters` ask for. `frames` are those of the clip, if pictures are wanted."""
    depth = episode.depth
    for block in blocks_of(samples):
        if parameters.embed_images:
            assert frames is not None
            pictures = [_jpeg(frames, int(frame), parameters) for frame in block.sample_frame]
            block = replace(block, image_offset=offsets([len(picture) for picture in pictures]), image_jpeg=np.concatenate(pictures))
        if parameters.embed_depth:
            nothing = np.zeros(0, np.uint8)
            images = [nothing if depth is None else _png(depth, int(frame), parameters, report) for frame in block.sample_frame]
            block = replace(block, depth_offset=offsets([len(image) for image in images]), depth_png=np.concatenate(images))
            report.count("samples without depth", sum(len(image) == 0 for image in images))
        yield block


def without_samples(samples: Corpus, parameters: PictureParameters) -> Corpus:
    """The same corpus as a head: the fields of embedded pictures are there, and empty."""
    none, nothing = offsets([]), np.zeros(0, np.uint8)
    images: dict[str, Any] = {"image_offset": none, "image_jpeg": nothing} if parameters.embed_images else {}
    depth: dict[str, Any] = {"depth_offset": none, "depth_png": nothing} if parameters.embed_depth else {}
    return replace(samples, **images, **depth)


def _jpeg(frames: Frames, frame: int, parameters: PictureParameters) -> np.ndarray:
    picture = np.asarray(frames[frame])
    return encode_jpeg(to_square(picture, parameters.image_size) if parameters.image_size else picture, parameters.jpeg_quality)


def _png(depth: Frames, frame: int, parameters: PictureParameters, report: Report) -> np.ndarray:
    millimetres, num_too_far = in_millimetres(np.asarray(depth[frame]))
    report.count("depth pixels too far to be kept (beyond 65.5 m)", num_too_far)
    if not millimetres.any():  # a frame of which nothing is known
        return np.zeros(0, np.uint8)
    return encode_depth(depth_to_square(millimetres, parameters.image_size) if parameters.image_size else millimetres)
