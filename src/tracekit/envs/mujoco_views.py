"""What a camera in a MuJoCo scene sees: the picture, the depth of every pixel and the body it shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

FLIP = np.diag([1.0, -1.0, -1.0])
"""MuJoCo's cameras look along -z with y up; ours along z with y down."""
FINER = 2
"""A picture is drawn this many times as wide and high, and averaged: on a processor that is quicker than OpenGL's own multisampling."""
SHADOW_PIXELS = 3
"""Of the map of shadows, for a pixel of the picture along its longer side; rounded up to a power of two."""
MOST_GEOMS = 10_000
_DEFAULT_COLOUR = (0.5, 0.5, 0.5, 1.0)
"""MuJoCo's colour of a shape without one: its material's holds then, and not otherwise."""


@dataclass(frozen=True)
class Camera:
    """A pinhole camera with square pixels whose axis goes through the middle of the image."""

    world_from_camera: np.ndarray
    """(4, 4), OpenCV axes."""
    fov_y: float
    """Vertical field of view, degrees."""

    def intrinsics(self, width: int, height: int) -> np.ndarray:
        """K (3, 3) for pictures of this size."""
        focal = height / 2 / np.tan(np.radians(self.fov_y) / 2)
        return np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1.0]])


class Screen:
    """Draws a scene off-screen in one size. Markers, glass and reflections, which no depth sensor would measure, are left out."""

    def __init__(self, model: Any, data: Any, width: int, height: int) -> None:
        import mujoco

        hide_markers(model)
        model.vis.global_.offwidth, model.vis.global_.offheight = FINER * width, FINER * height
        model.vis.quality.shadowsize = 1 << (SHADOW_PIXELS * max(width, height) - 1).bit_length()
        model.vis.quality.offsamples = 0  # a mixture of two surfaces has neither's depth
        self._mujoco, self._model, self._data = mujoco, model, data
        self._gl = mujoco.GLContext(FINER * width, FINER * height)
        self._gl.make_current()
        self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_50.value)
        self._context.readDepthMap = mujoco.mjtDepthMap.mjDEPTH_ZEROFAR
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, self._context)
        self._scene = mujoco.MjvScene(model, MOST_GEOMS)
        self._options = mujoco.MjvOption()
        self._options.sitegroup[:] = 0
        self._size = (width, height)
        self._any_camera = next(i for i in range(model.ncam) if model.cam_bodyid[i] == 0)
        far, near = model.vis.map.zfar * model.stat.extent, model.vis.map.znear * model.stat.extent
        self._inverse_far, self._inverse_range = 1 / far, 1 / near - 1 / far

    def close(self) -> None:
        self._gl.make_current()
        self._context.free()
        self._gl.free()

    def __enter__(self) -> Screen:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def picture(self, camera: Camera | str) -> np.ndarray:
        """(H, W, 3) uint8 RGB of the scene as it is now. A name is a camera of the model."""
        rgb, _ = self._draw(camera, FINER, number_colours=False)
        return cv2.resize(rgb, self._size, interpolation=cv2.INTER_AREA)

    def surfaces(self, camera: Camera) -> tuple[np.ndarray, np.ndarray]:
        """Depth (H, W) float32 in metres along the axis, 0 where there is nothing; and the body (H, W) int16 at each pixel, -1 for nothing."""
        rgb, stored = self._draw(camera, 1, number_colours=True)
        number = rgb @ np.array([1, 1 << 8, 1 << 16])  # a shape's number in the scene, plus 1; 0 is nothing
        body = self._body_of_number()[number]
        # What OpenGL keeps is linear in 1/z: 1 at the near plane, 0 at the far one.
        depth = 1 / (self._inverse_far + self._inverse_range * stored.astype(np.float64))
        return np.where(body >= 0, depth, 0).astype(np.float32), body

    def _draw(self, camera: Camera | str, scale: int, *, number_colours: bool) -> tuple[np.ndarray, np.ndarray]:
        """RGB (h, w, 3) uint8 and depth (h, w) float32 as OpenGL keeps it, at `scale` times the size."""
        view = self._mujoco.MjvCamera()
        view.type, view.fixedcamid = self._mujoco.mjtCamera.mjCAMERA_FIXED, self._placed(camera)
        everything = self._mujoco.mjtCatBit.mjCAT_ALL.value
        self._mujoco.mjv_updateScene(self._model, self._data, self._options, None, view, everything, self._scene)
        flags, names = self._scene.flags, self._mujoco.mjtRndFlag
        flags[names.mjRND_REFLECTION] = flags[names.mjRND_CULL_FACE] = 0  # open meshes have an inside: rays end there
        flags[names.mjRND_SEGMENT] = flags[names.mjRND_IDCOLOR] = number_colours
        width, height = scale * self._size[0], scale * self._size[1]
        rgb, depth = np.empty((height, width, 3), np.uint8), np.empty((height, width), np.float32)
        window = self._mujoco.MjrRect(0, 0, width, height)
        self._gl.make_current()
        self._mujoco.mjr_render(window, self._scene, self._context)
        self._mujoco.mjr_readPixels(rgb, depth, window, self._context)
        return rgb[::-1], depth[::-1]  # OpenGL's first row is the lowest

    def _placed(self, camera: Camera | str) -> int:
        """The number of the model's camera that looks as asked for."""
        if isinstance(camera, str):
            return int(self._model.camera(camera).id)
        # MuJoCo's free camera cannot roll; one of the model's that is fixed to the world is lent to any pose instead.
        index, pose = self._any_camera, camera.world_from_camera
        self._data.cam_xpos[index], self._data.cam_xmat[index] = pose[:3, 3], (pose[:3, :3] @ FLIP).ravel()
        self._model.cam_fovy[index] = camera.fov_y
        return index

    def _body_of_number(self) -> np.ndarray:
        result = np.full(self._scene.ngeom + 1, -1, np.int16)
        for shape in self._scene.geoms[: self._scene.ngeom]:
            if shape.segid >= 0 and shape.objtype == self._mujoco.mjtObj.mjOBJ_GEOM:
                result[shape.segid + 1] = self._model.geom_bodyid[shape.objid]
        return result


def hide_markers(model: Any) -> None:
    """Make handles of the controller and glass invisible: they have no surface that a depth sensor would measure."""
    has_material = (model.geom_matid >= 0) & (model.geom_rgba == np.array(_DEFAULT_COLOUR, np.float32)).all(axis=1)
    alpha = model.geom_rgba[:, 3].copy()
    alpha[has_material] = model.mat_rgba[model.geom_matid[has_material], 3]
    hidden = (alpha < 1) | (model.body_mocapid[model.geom_bodyid] >= 0)
    model.geom_matid[hidden] = -1
    model.geom_rgba[hidden, 3] = 0
