"""SE(3) alignment of chunks to their anchors (paper Eq. 1): all chunks at once against one call per chunk."""

from __future__ import annotations

import statistics
import time

import numpy as np
from scipy.spatial.transform import Rotation

from tracekit.extract.alignment import align_poses
from tracekit.geometry import se3

NUM_CHUNKS, NUM_ANCHORS, ROUNDS = 256, 8, 9
CENTRE = np.array([0.0, 0.0, 0.0, 1.0])


def scipy_align_vectors(chunk: np.ndarray, world: np.ndarray) -> np.ndarray:
    """What users write: Rotation.align_vectors on the twelve columns of each pose, chunk by chunk."""
    result = np.tile(np.eye(4), (len(chunk), 1, 1))
    for index, (local, target) in enumerate(zip(chunk, world, strict=True)):
        mean, target_mean = local[:, :3, 3].mean(axis=0), target[:, :3, 3].mean(axis=0)
        source = (local[:, :3] - mean[:, None] * CENTRE).transpose(0, 2, 1).reshape(-1, 3)
        goal = (target[:, :3] - target_mean[:, None] * CENTRE).transpose(0, 2, 1).reshape(-1, 3)
        rotation = Rotation.align_vectors(goal, source)[0].as_matrix()
        result[index, :3, :3], result[index, :3, 3] = rotation, target_mean - rotation @ mean
    return result


def numpy_svd(chunk: np.ndarray, world: np.ndarray) -> np.ndarray:
    """The same by hand: one 3 x 3 SVD per chunk."""
    result = np.tile(np.eye(4), (len(chunk), 1, 1))
    for index, (local, target) in enumerate(zip(chunk, world, strict=True)):
        mean, target_mean = local[:, :3, 3].mean(axis=0), target[:, :3, 3].mean(axis=0)
        source = (local[:, :3] - mean[:, None] * CENTRE).transpose(0, 2, 1).reshape(-1, 3)
        goal = (target[:, :3] - target_mean[:, None] * CENTRE).transpose(0, 2, 1).reshape(-1, 3)
        u, _, vt = np.linalg.svd(goal.T @ source)
        u[:, 2] *= np.sign(np.linalg.det(u @ vt))
        result[index, :3, :3] = u @ vt
        result[index, :3, 3] = target_mean - u @ vt @ mean
    return result


def main() -> list[dict]:
    rng = np.random.default_rng(0)
    chunk = se3.from_rotation_translation(
        Rotation.random(NUM_CHUNKS * NUM_ANCHORS, rng=rng).as_matrix().reshape(NUM_CHUNKS, NUM_ANCHORS, 3, 3),
        rng.standard_normal((NUM_CHUNKS, NUM_ANCHORS, 3)),
    )
    jitter = Rotation.from_rotvec(0.05 * rng.standard_normal((NUM_CHUNKS * NUM_ANCHORS, 3))).as_matrix()
    jitter = jitter.reshape(NUM_CHUNKS, NUM_ANCHORS, 3, 3)
    truth = se3.from_rotation_translation(Rotation.random(NUM_CHUNKS, rng=rng).as_matrix(), rng.standard_normal((NUM_CHUNKS, 3)))
    world = truth[:, None] @ chunk @ se3.from_rotation_translation(jitter, 0.05 * rng.standard_normal((NUM_CHUNKS, NUM_ANCHORS, 3)))

    contenders = {"ours": align_poses, "scipy align_vectors": scipy_align_vectors, "numpy SVD": numpy_svd}
    answers = {name: align(chunk, world) for name, align in contenders.items()}
    for answer in answers.values():
        np.testing.assert_allclose(answer, answers["ours"], atol=1e-7)
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(ROUNDS):
        for name, align in contenders.items():
            start = time.perf_counter()
            align(chunk, world)
            seconds[name].append(time.perf_counter() - start)
    per_chunk = {name: 1e6 * statistics.median(taken) / NUM_CHUNKS for name, taken in seconds.items()}
    work = f"Eq. 1, {NUM_CHUNKS} chunks of {NUM_ANCHORS} anchors, per chunk"
    return [
        {
            "work": work,
            "ours": f"{per_chunk['ours']:.1f} µs",
            "peer": f"{peer} {per_chunk[peer]:.1f} µs",
            "ratio": per_chunk[peer] / per_chunk["ours"],
            "goal": goal,
        }
        for peer, goal in (("scipy align_vectors", ">= 10"), ("numpy SVD", ">= 5"))
    ]


if __name__ == "__main__":
    from table import print_table

    print_table(main())
