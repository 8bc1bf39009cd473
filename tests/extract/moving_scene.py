"""A rendered scene whose every point is known: textured boards that move, turn and approach before a wall, and a camera that drifts."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from tracekit.geometry import cameras, se3
from tracekit.records import Geometry, Keypoints

WIDTH, HEIGHT = 320, 240
INTRINSICS = np.array([[300.0, 0.0, 159.5], [0.0, 300.0, 119.5], [0.0, 0.0, 1.0]])
TEXELS_PER_METRE = 220


def turn(angle_x: float, angle_y: float, angle_z: float) -> np.ndarray:
    return cv2.Rodrigues(np.array([angle_x, angle_y, 0.0]))[0] @ cv2.Rodrigues(np.array([0.0, 0.0, angle_z]))[0]


def texture(seed: int, rows: int, columns: int, dark: int = 20, bright: int = 235) -> np.ndarray:
    """Smooth noise with detail at several scales, like nothing else in the scene."""
    rng = np.random.default_rng(seed)
    fine, coarse = (cv2.GaussianBlur(rng.normal(size=(rows, columns)), (0, 0), sigma) for sigma in (2.2, 6.0))
    mixed = fine / fine.std() + coarse / coarse.std()
    return (dark + (bright - dark) * (0.5 + np.clip(mixed, -3, 3) / 6)).astype(np.float32)


@dataclass
class Board:
    """A flat textured rectangle, width x height metres, with a pose at each frame."""

    image: np.ndarray
    world_from_board: np.ndarray


class MovingScene:
    """`boards[0]` is the wall. `frames` (T, H, W, 3), `depth` (T, H, W), `surface` (T, H, W) which board each pixel shows."""

    def __init__(self, num_frames: int, moving_camera: bool = True) -> None:
        self.num_frames = num_frames
        time = np.linspace(0.0, 1.0, num_frames)
        still = np.ones(num_frames)
        self.boards = [
            Board(texture(1, 1100, 1300), self._path(0 * still, 0 * still, 2.2 * still, 0 * still)),
            Board(texture(2, 140, 150, 60, 255), self._path(-0.55 + 1.0 * time, -0.3 + 0.1 * np.sin(5 * time), 1.6 * still, 0.5 * time)),
            Board(texture(3, 110, 110, 0, 190), self._path(0.1 - 0.25 * time, 0.28 - 0.1 * time, 1.4 - 0.35 * time, 0 * still)),
        ]
        sway = 1.0 if moving_camera else 0.0
        self.world_from_camera = self._path(
            sway * 0.12 * np.sin(3 * time), sway * 0.05 * time, sway * 0.15 * time, sway * 0.06 * np.sin(4 * time)
        )
        rendered = [self._render(frame) for frame in range(num_frames)]
        self.frames, self.depth, self.surface = (np.stack(part) for part in zip(*rendered, strict=True))

    @staticmethod
    def _path(x: np.ndarray, y: np.ndarray, z: np.ndarray, angle: np.ndarray) -> np.ndarray:
        rotation = np.stack([turn(0.0, 0.2 * a, a) for a in angle])
        return se3.from_rotation_translation(rotation, np.stack([x, y, z], axis=1))

    def _render(self, frame: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        grey = np.zeros((HEIGHT, WIDTH), np.float32)
        depth = np.zeros((HEIGHT, WIDTH), np.float32)
        surface = np.zeros((HEIGHT, WIDTH), np.int32)
        rays = np.stack([*np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT)), np.ones((HEIGHT, WIDTH))], -1) @ np.linalg.inv(INTRINSICS).T
        for number, board in enumerate(self.boards):
            camera_from_board = se3.inverse(self.world_from_camera[frame]) @ board.world_from_board[frame]
            rows, columns = board.image.shape
            board_from_texel = (
                np.array([[1, 0, -(columns - 1) / 2], [0, 1, -(rows - 1) / 2], [0, 0, TEXELS_PER_METRE]], dtype=np.float64)
                / TEXELS_PER_METRE
            )
            to_image = INTRINSICS @ camera_from_board[:3, [0, 1, 3]] @ board_from_texel
            size = (WIDTH, HEIGHT)
            shown = cv2.warpPerspective(board.image, to_image, size, flags=cv2.INTER_LINEAR)
            inside = cv2.warpPerspective(np.ones_like(board.image), to_image, size, flags=cv2.INTER_LINEAR) > 0.99
            normal, origin = camera_from_board[:3, 2], camera_from_board[:3, 3]
            grey[inside] = shown[inside]
            depth[inside] = ((normal @ origin) / (rays @ normal))[inside]
            surface[inside] = number
        return np.repeat(np.rint(grey).astype(np.uint8)[..., None], 3, axis=2), depth, surface

    def path_of(self, uv: np.ndarray, frame: int) -> np.ndarray:
        """World positions (T, P, 3) of the points seen at `uv` (P, 2) in a frame."""
        pixel = np.rint(uv).astype(int)
        number = self.surface[frame, pixel[:, 1], pixel[:, 0]]
        path = np.empty((self.num_frames, len(uv), 3))
        for point, board in enumerate(number):
            pose = self.boards[board].world_from_board
            board_from_camera = se3.inverse(pose[frame]) @ self.world_from_camera[frame]
            ray = board_from_camera[:3, :3] @ np.linalg.inv(INTRINSICS) @ [*uv[point], 1.0]
            origin = board_from_camera[:3, 3]
            on_board = origin - ray * origin[2] / ray[2]
            path[:, point] = se3.transform_points(pose, on_board[None])[:, 0]
        return path

    def shown(self, path: np.ndarray) -> np.ndarray:
        """Whether each position (T, P, 3) is in the image with nothing in front of it or beside it."""
        result = np.zeros(path.shape[:2], dtype=bool)
        for frame in range(self.num_frames):
            uv, z = cameras.project(path[frame], INTRINSICS, self.world_from_camera[frame])
            result[frame] = ((uv >= 8) & (uv <= [WIDTH - 9, HEIGHT - 9])).all(axis=1)
            column, row = np.rint(np.where(result[frame][:, None], uv, 8)).astype(int).T
            for down in (-2, 0, 2):
                for right in (-2, 0, 2):
                    result[frame] &= np.abs(self.depth[frame, row + down, column + right] - z) < 0.03
        return result

    def geometry(self, with_depth: bool = True) -> Geometry:
        number = self.num_frames
        return Geometry(
            backend="known",
            metric=with_depth,
            intrinsics=INTRINSICS,
            world_from_camera=self.world_from_camera,
            frame_confidence=np.ones(number, np.float32),
            anchor_frame=np.arange(1, dtype=np.int32),
            chunk_start=np.zeros(1, np.int32),
            chunk_stop=np.full(1, number, np.int32),
            chunk_scale=np.ones(1),
            chunk_alignment=np.eye(4)[None],
            chunk_residual=np.zeros(1),
            chunk_num_anchors=np.ones(1, np.int32),
            depth=self.depth if with_depth else None,
        )

    def corners(self, frame: int, number: int) -> np.ndarray:
        """Pixels (P, 2) that are good to track, away from edges of boards, on all boards alike."""
        edge = cv2.morphologyEx(self.surface[frame].astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((21, 21), np.uint8))
        grey = cv2.cvtColor(self.frames[frame], cv2.COLOR_RGB2GRAY)
        mask = np.where(edge == 0, 255, 0).astype(np.uint8)
        mask[:12], mask[-12:], mask[:, :12], mask[:, -12:] = 0, 0, 0, 0
        found = cv2.goodFeaturesToTrack(grey, 1000, 0.01, 9, mask=mask)[:, 0]
        pixel = np.rint(found).astype(int)
        on = self.surface[frame, pixel[:, 1], pixel[:, 0]]
        rank = np.array([np.sum(on[:i] == board) for i, board in enumerate(on)])
        return found[np.argsort(rank, kind="stable")[:number]]


def keypoints(uv: np.ndarray, frame: np.ndarray, num_frames: int, chunk: int, grid: tuple[int, int] = (15, 20)) -> Keypoints:
    """Candidates as the selection stage would hand them over, all of one entity."""
    starts = np.arange(0, num_frames, chunk, dtype=np.int32)
    return Keypoints(
        patch_size=WIDTH / grid[1],
        budget=len(uv),
        features="known",
        uv=np.asarray(uv, np.float32),
        frame=np.asarray(frame, np.int32),
        entity=np.full(len(uv), 7, np.int32),
        chunk=np.asarray(frame, np.int32) // chunk,
        score=np.linspace(1, 0, len(uv), dtype=np.float32),
        chunk_start=starts,
        chunk_stop=np.minimum(starts + chunk, num_frames).astype(np.int32),
        entity_id=np.array([7], np.int32),
        entity_num_patches=np.ones(1, np.int32),
        entity_num_frames=np.ones(1, np.int32),
        entity_rgb=np.zeros((1, 3), np.uint8),
        label_frame=np.zeros(1, np.int32),
        labels=np.full((1, *grid), 7, np.int32),
    )
