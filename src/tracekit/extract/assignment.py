"""The best bipartite matching of small tables. Importing scipy.optimize for its own costs more CPU than all the rest of a short clip."""

from __future__ import annotations

import numpy as np


def best_assignment(score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the one-to-one matching with the largest total of `score` (R, C) float; min(R, C) pairs, rows ascending.

    Equals scipy.optimize.linear_sum_assignment(score, maximize=True) in its total. Shortest augmenting paths (Jonker and
    Volgenant 1987; in the formulation of Crouse 2016), O(min(R, C)^2 max(R, C)).
    Raises ValueError for a score that is not finite.
    """
    if not np.isfinite(score).all():
        raise ValueError("scores must be finite")
    if score.shape[0] > score.shape[1]:
        columns, rows = best_assignment(score.T)
        order = np.argsort(rows)
        return rows[order], columns[order]
    cost = -np.asarray(score, dtype=np.float64)
    num_rows, num_columns = cost.shape
    row_price, column_price = np.zeros(num_rows), np.zeros(num_columns)
    row_of = np.full(num_columns, -1)
    column_of = np.full(num_rows, -1)
    for start in range(num_rows):
        _augment(start, cost, row_price, column_price, row_of, column_of)
    return np.arange(num_rows), column_of


def _augment(
    start: int, cost: np.ndarray, row_price: np.ndarray, column_price: np.ndarray, row_of: np.ndarray, column_of: np.ndarray
) -> None:
    """Match row `start`: Dijkstra over reduced costs to the nearest free column, then swap along the path and update the prices."""
    distance = np.full(len(row_of), np.inf)
    via_row = np.full(len(row_of), -1)
    is_done = np.zeros(len(row_of), dtype=bool)
    visited_rows = []
    row, reached = start, 0.0
    while True:
        visited_rows.append(row)
        through = reached + cost[row] - row_price[row] - column_price
        closer = ~is_done & (through < distance)
        distance[closer], via_row[closer] = through[closer], row
        column = int(np.argmin(np.where(is_done, np.inf, distance)))
        reached = distance[column]
        is_done[column] = True
        if row_of[column] < 0:
            break
        row = row_of[column]
    row_price[start] += reached
    for visited in visited_rows[1:]:
        row_price[visited] += reached - distance[column_of[visited]]
    column_price[is_done] -= reached - distance[is_done]
    while True:
        row = via_row[column]
        row_of[column] = row
        column, column_of[row] = column_of[row], column
        if row == start:
            return
