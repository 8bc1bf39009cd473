"""Depth that a network gives on a grid of its own, on one that is no finer than the frame's."""

from __future__ import annotations

from typing import Any

from tracekit.geometry.depth_lookup import SAME_SURFACE


def thin_out(depth: Any, height: int, width: int) -> Any:
    """A tensor (b, h, w) of depth, both grids covering the whole frame, with at most `height` rows and `width` columns.

    A frame has no pixels for more, and what is kept of it would only cost memory and disk. A coarser grid stays as it is: depth in between is
    looked up where it is needed (`tracekit.geometry.depth_lookup`). Each new pixel takes the depth at its centre: linear in 1/z between four
    pixels of one surface, so that planes stay exact; at an edge, or beside a gap, that of the nearest pixel, because something in between would
    be a surface that is not there.
    """
    import torch

    rows, columns = min(depth.shape[1], height), min(depth.shape[2], width)
    if (rows, columns) == tuple(depth.shape[1:]):
        return depth
    top, bottom, down, nearest_row = _places(depth.shape[1], rows, depth.device)
    left, right, along, nearest_column = _places(depth.shape[2], columns, depth.device)
    inverse = 1.0 / depth
    above, below = inverse.index_select(1, top), inverse.index_select(1, bottom)
    corners = [line.index_select(2, column) for line in (above, below) for column in (left, right)]
    greatest = torch.maximum(torch.maximum(corners[0], corners[1]), torch.maximum(corners[2], corners[3]))
    least = torch.minimum(torch.minimum(corners[0], corners[1]), torch.minimum(corners[2], corners[3]))
    one_surface = greatest.isfinite() & (greatest - least <= SAME_SURFACE * greatest)
    upper, lower = (first + along * (second - first) for first, second in (corners[:2], corners[2:]))
    between = 1.0 / (upper + down[:, None] * (lower - upper))
    return torch.where(one_surface, between, depth.index_select(1, nearest_row).index_select(2, nearest_column))


def _places(num_pixels: int, num_places: int, device: Any) -> tuple[Any, Any, Any, Any]:
    """Where the centres of `num_places` pixels lie among `num_pixels` along the same side: the pixels before and after each, how far it is
    from the one to the other, and the nearest one."""
    import torch

    # Worked out on the CPU: not every device has float64.
    place = (torch.arange(num_places, dtype=torch.float64) + 0.5) * (num_pixels / num_places) - 0.5
    place = place.clamp(0, num_pixels - 1)
    before, nearest = place.floor().long(), (place + 0.5).floor().long().clamp(max=num_pixels - 1)
    after = (before + 1).clamp(max=num_pixels - 1)
    return before.to(device), after.to(device), (place - before).float().to(device), nearest.to(device)
