"""Render the sample clip that comes with tracekit: a robot opens a drawer and puts a block into it.

    python tools/make_demo_clip.py [FOLDER]

writes drawer.mp4 and drawer.sensor.h5 (depth and cameras, exact) into FOLDER, src/tracekit/samples by default. Everything is
drawn by this script: boxes and cylinders, ray-cast with numpy, under textures made from seeded noise. The same numpy and
OpenCV give the same pictures, whatever the number of processes; a few minutes on two cores.

World: metres, x to the right, y away from the camera, z up, z = 0 on the table. Colours are sRGB in [0, 1] until they are
textures, linear light from there on.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import multiprocessing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

import tracekit
from tracekit import video
from tracekit.format.file import Target, write_records
from tracekit.format.provenance import Step
from tracekit.format.schema import EPISODE
from tracekit.geometry import cameras, se3
from tracekit.records import CameraSensor, DepthSensor

SEED = 7
NUM_FRAMES, FPS = 80, 15
WIDTH, HEIGHT = 480, 360
DEPTH_WIDTH, DEPTH_HEIGHT = 160, 120
INTRINSICS = np.array([[525.0, 0.0, 239.5], [0.0, 525.0, 179.5], [0.0, 0.0, 1.0]])
SUPERSAMPLING = 2
CRF, GOP = 23, 15
"""A keyframe a second: half the bytes of the short groups that `write_video` makes by default."""

# --- Textures: (h, w, 3) float32 images, which cover one face each ----------------------------------------------------------

TEXELS_PER_METRE = 1000
"""About two of them a pixel on the things in the middle of the table."""
Colour = tuple[float, float, float]
Material = Callable[[np.random.Generator, float, float], np.ndarray]
"""(generator, width in metres, height in metres) -> texture of a face of that size."""

CREAM, OAK, PINE, WALNUT = (0.90, 0.85, 0.72), (0.74, 0.56, 0.36), (0.86, 0.73, 0.52), (0.42, 0.28, 0.18)
TEAL, RED, ORANGE, NAVY, GREEN = (0.16, 0.42, 0.45), (0.80, 0.14, 0.12), (0.95, 0.50, 0.10), (0.13, 0.20, 0.42), (0.20, 0.52, 0.28)
SIGNAL, BLUE, YELLOW = (0.93, 0.36, 0.06), (0.10, 0.25, 0.72), (0.96, 0.78, 0.16)
WHITE, LIGHT_GREY, GREY, BLACK = (0.93, 0.93, 0.90), (0.72, 0.74, 0.76), (0.40, 0.42, 0.45), (0.09, 0.09, 0.10)


def noise(rng: np.random.Generator, width: float, height: float, grain: tuple[float, float], octaves: int = 3) -> np.ndarray:
    """Smooth noise of about unit variance (h, w); its largest blobs are `grain` metres wide and high, each octave halves them.

    What is finer than 2.5 mm is left out: it would flicker where a pixel sees more than that.
    """
    shape = texels(width, height)
    total = np.zeros(shape, np.float32)
    for octave in range(octaves):
        cell = [max(0.0025, side / 2**octave) for side in grain]
        coarse = rng.standard_normal((math.ceil(height / cell[1]) + 3, math.ceil(width / cell[0]) + 3)).astype(np.float32)
        step = [cell[0] * TEXELS_PER_METRE, cell[1] * TEXELS_PER_METRE]
        columns = np.broadcast_to(1 + np.arange(shape[1], dtype=np.float32) / step[0], shape)
        rows = np.broadcast_to(1 + np.arange(shape[0], dtype=np.float32)[:, None] / step[1], shape)
        layer = cv2.remap(coarse, np.ascontiguousarray(columns), np.ascontiguousarray(rows), cv2.INTER_CUBIC)
        total += layer.astype(np.float32) / 1.5**octave
    return total / total.std()


def texels(width: float, height: float) -> tuple[int, int]:
    """(rows, columns) of the texture of a face."""
    return max(4, round(height * TEXELS_PER_METRE)), max(4, round(width * TEXELS_PER_METRE))


def flat(width: float, height: float, colour: Colour) -> np.ndarray:
    return np.broadcast_to(np.array(colour, np.float32), (*texels(width, height), 3)).copy()


def wood(colour: Colour, contrast: float = 0.13) -> Material:
    """Grain along the longer side, bent around a few knots."""

    def draw(rng: np.random.Generator, width: float, height: float) -> np.ndarray:
        if height > width:
            return draw(rng, height, width).swapaxes(0, 1)
        fibres = noise(rng, width, height, (0.12, 0.012))
        clouds = noise(rng, width, height, (0.25, 0.06))
        bend = noise(rng, width, height, (0.20, 0.05), octaves=2)
        rows = np.arange(fibres.shape[0], dtype=np.float32)[:, None] / TEXELS_PER_METRE
        rings = np.sin(2 * np.pi * rows / 0.022 + 2.2 * bend)
        streaks = noise(rng, width, height, (0.03, 0.004), octaves=1)
        tone = 1 + contrast * (0.55 * fibres + 0.45 * clouds + 0.55 * rings - 0.9 * (streaks > 1.7))
        warmth = 1 + 0.04 * clouds[..., None] * np.array([0.5, -0.2, -1.0], np.float32)
        return np.array(colour, np.float32) * tone[..., None] * warmth

    return draw


def planks(colour: Colour, breadth: float) -> Material:
    """Boards of wood side by side, each of its own tone."""
    board = wood(colour)

    def draw(rng: np.random.Generator, width: float, height: float) -> np.ndarray:
        picture = flat(width, height, colour)
        rows = round(breadth * TEXELS_PER_METRE)
        for top in range(0, picture.shape[0], rows):
            piece = board(rng, width, breadth) * rng.uniform(0.82, 1.12)
            piece[:3] *= 0.45
            picture[top : top + rows] = piece[: len(picture) - top]
        return picture

    return draw


def paint(colour: Colour, wear: float = 0.10, chips: float = 0.02, screws: bool = False) -> Material:
    """Painted metal or wood: blotchy, with chips, and a screw in each corner of a large face."""

    def draw(rng: np.random.Generator, width: float, height: float) -> np.ndarray:
        picture = flat(width, height, colour)
        blotches = noise(rng, width, height, (0.03, 0.03))
        scratches = noise(rng, width, height, (0.05, 0.005), octaves=2)
        picture *= (1 + wear * (0.6 * blotches + 0.6 * scratches))[..., None]
        spots = noise(rng, width, height, (0.008, 0.008), octaves=2)
        chipped = np.clip((spots - np.quantile(spots, 1 - chips)) * 3, 0, 1)[..., None]
        bare = np.array(LIGHT_GREY if sum(colour) < 1.6 else GREY, np.float32)
        picture += chipped * (bare - picture)
        if screws:
            inset = min(0.011, 0.25 * min(width, height))
            for x in (inset, width - inset):
                for y in (inset, height - inset):
                    screw(picture, x, y, 0.45 * inset, rng.uniform(0, np.pi))
        return picture

    return draw


def cloth(ground: Colour, stripes: tuple[Colour, ...], pitch: float) -> Material:
    """A tartan whose bands are wide enough to be seen one by one, with creases."""

    def draw(rng: np.random.Generator, width: float, height: float) -> np.ndarray:
        rows, columns = texels(width, height)

        def bands(length: int) -> np.ndarray:
            threads = np.empty((length, 3))
            start = 0
            while start < length:
                colour = stripes[rng.integers(len(stripes))] if rng.random() < 0.55 else ground
                stop = start + round(rng.uniform(0.35, 1.4) * pitch * TEXELS_PER_METRE)
                threads[start:stop], start = colour, stop
            return threads

        weave = cv2.GaussianBlur(0.5 * bands(columns)[None] + 0.5 * bands(rows)[:, None], (0, 0), 1.0)
        return weave * (1 + 0.06 * noise(rng, width, height, (0.01, 0.01)) + 0.05 * noise(rng, width, height, (0.09, 0.05)))[..., None]

    return draw


def plaster(colour: Colour) -> Material:
    def draw(rng: np.random.Generator, width: float, height: float) -> np.ndarray:
        tone = 1 + 0.055 * noise(rng, width, height, (0.05, 0.04), octaves=4) + 0.04 * noise(rng, width, height, (0.4, 0.3), octaves=2)
        pits = noise(rng, width, height, (0.02, 0.016), octaves=2)
        return np.array(colour, np.float32) * (tone - 0.16 * np.clip(pits - 1.5, 0, 1))[..., None]

    return draw


def printed(ground: Colour, draw_print: Callable[[np.ndarray], None], wear: float = 0.05) -> Material:
    """`draw_print` on a coloured ground, slightly worn. It draws on 8 bits at 4 times the size, so that edges come out smooth."""

    def draw(rng: np.random.Generator, width: float, height: float) -> np.ndarray:
        rows, columns = texels(width, height)
        large = np.full((rows * 4, columns * 4, 3), ink(ground), np.uint8)
        draw_print(large)
        picture = cv2.resize(large, (columns, rows), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
        return picture * (1 + wear * noise(rng, width, height, (0.02, 0.02)))[..., None]

    return draw


def screw(picture: np.ndarray, x: float, y: float, radius: float, angle: float) -> None:
    """Draw the slotted head of a screw at (x, y) metres from the top left, with soft edges."""
    rows, columns = np.indices(picture.shape[:2], np.float32) + 0.5
    across, down, radius = columns - x * TEXELS_PER_METRE, rows - y * TEXELS_PER_METRE, radius * TEXELS_PER_METRE
    distance = np.hypot(across, down)
    for extent, colour in ((1.3 * radius - distance, BLACK), (radius - distance, LIGHT_GREY)):
        picture += np.clip(extent + 0.5, 0, 1)[..., None] * (np.array(colour, np.float32) - picture)
    slot = np.minimum(0.16 * radius - np.abs(math.sin(angle) * across - math.cos(angle) * down), 0.8 * radius - distance)
    picture += np.clip(slot + 0.5, 0, 1)[..., None] * (np.array(BLACK, np.float32) - picture)


def ink(colour: Colour) -> tuple[int, int, int]:
    """The colour as OpenCV takes it to draw smoothly, which it does on 8 bits only."""
    red, green, blue = (round(255 * channel) for channel in colour)
    return red, green, blue


def lettering(picture: np.ndarray, text: str, x: float, y: float, height: float, colour: Colour, weight: float = 0.16) -> None:
    """Write `text` with its centre at (x, y), all in fractions of the picture, letters `height` of its height."""
    scale = height * picture.shape[0] / 21.0
    thickness = max(1, round(weight * height * picture.shape[0]))
    (wide, high), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_DUPLEX, scale, thickness)
    corner = (round(x * picture.shape[1] - wide / 2), round(y * picture.shape[0] + high / 2))
    cv2.putText(picture, text, corner, cv2.FONT_HERSHEY_DUPLEX, scale, ink(colour), thickness, cv2.LINE_AA)


def rectangle(picture: np.ndarray, left: float, top: float, right: float, bottom: float, colour: Colour) -> None:
    """Fill a rectangle given in fractions of the picture."""
    rows, columns = picture.shape[:2]
    picture[round(top * rows) : round(bottom * rows), round(left * columns) : round(right * columns)] = ink(colour)


def disc(picture: np.ndarray, x: float, y: float, radius: float, colour: Colour) -> None:
    """Fill a disc; `radius` is a fraction of the picture's smaller side."""
    centre = (round(x * picture.shape[1]), round(y * picture.shape[0]))
    cv2.circle(picture, centre, round(radius * min(picture.shape[:2])), ink(colour), -1, cv2.LINE_AA)


def block_face(letter: str, colour: Colour) -> Material:
    """A toy block: a letter in a frame."""

    def draw_print(picture: np.ndarray) -> None:
        rectangle(picture, 0.09, 0.09, 0.91, 0.91, YELLOW)
        rectangle(picture, 0.16, 0.16, 0.84, 0.84, colour)
        lettering(picture, letter, 0.5, 0.5, 0.46, CREAM, 0.2)

    return printed(colour, draw_print, wear=0.08)


def tea_box(picture: np.ndarray) -> None:
    rectangle(picture, 0.0, 0.0, 1.0, 0.16, NAVY)
    lettering(picture, "GREEN", 0.5, 0.085, 0.055, CREAM)
    rectangle(picture, 0.08, 0.24, 0.92, 0.66, GREEN)
    disc(picture, 0.5, 0.45, 0.26, CREAM)
    lettering(picture, "TEA", 0.5, 0.45, 0.11, RED, 0.2)
    for x in (0.18, 0.34, 0.5, 0.66, 0.82):
        disc(picture, x, 0.75, 0.055, ORANGE if round(x * 100) % 4 else NAVY)
    rectangle(picture, 0.0, 0.84, 1.0, 0.90, RED)
    lettering(picture, "20 BAGS", 0.5, 0.955, 0.04, NAVY)


def tea_box_side(picture: np.ndarray) -> None:
    rectangle(picture, 0.0, 0.0, 1.0, 0.16, NAVY)
    for line, length in enumerate((0.85, 0.6, 0.78, 0.5, 0.7, 0.82)):
        rectangle(picture, 0.12, 0.24 + 0.09 * line, length, 0.275 + 0.09 * line, GREY if line % 2 else NAVY)
    rectangle(picture, 0.0, 0.84, 1.0, 0.90, RED)


def landscape(picture: np.ndarray) -> None:
    """The print on the wall: a lake, hills, and a sun."""
    rows, columns = picture.shape[:2]
    rectangle(picture, 0.05, 0.07, 0.95, 0.93, (0.93, 0.78, 0.55))
    disc(picture, 0.68, 0.36, 0.15, (0.93, 0.36, 0.18))
    x = np.linspace(0.05, 0.95, 60)
    for height, slope, colour in ((0.42, 2.1, (0.48, 0.55, 0.66)), (0.56, 3.4, (0.26, 0.42, 0.48)), (0.70, 1.4, (0.12, 0.27, 0.30))):
        ridge = height + 0.07 * np.sin(slope * 4 * x + 9 * height) + 0.03 * np.sin(slope * 11 * x)
        outline = np.concatenate([np.stack([x, ridge], 1), [[0.95, 0.93], [0.05, 0.93]]]) * [columns, rows]
        cv2.fillPoly(picture, [outline.round().astype(np.int32)], ink(colour), cv2.LINE_AA)
    for line in range(4):
        rectangle(picture, 0.14 + 0.11 * line, 0.80 + 0.03 * line, 0.45 + 0.12 * line, 0.81 + 0.03 * line, (0.93, 0.78, 0.55))


def gripper_label(picture: np.ndarray) -> None:
    rectangle(picture, 0.0, 0.0, 1.0, 0.13, BLACK)
    rectangle(picture, 0.17, 0.25, 0.83, 0.66, WHITE)
    lettering(picture, "R-02", 0.5, 0.455, 0.26, BLACK, 0.14)
    rectangle(picture, 0.17, 0.76, 0.42, 0.90, BLACK)
    rectangle(picture, 0.46, 0.76, 0.56, 0.90, WHITE)
    rectangle(picture, 0.62, 0.80, 0.83, 0.86, WHITE)
    for x in (0.08, 0.92):
        for y in (0.24, 0.86):
            disc(picture, x, y, 0.065, BLACK)
            disc(picture, x, y, 0.035, LIGHT_GREY)


def link_marks(picture: np.ndarray) -> None:
    """Lettering and plates, no two of them alike: what repeats itself misleads a tracker."""
    rectangle(picture, 0.0, 0.93, 1.0, 0.97, BLACK)
    rectangle(picture, 0.16, 0.80, 0.84, 0.89, WHITE)
    lettering(picture, "ARM 7", 0.5, 0.845, 0.024, BLACK, 0.14)
    rectangle(picture, 0.12, 0.69, 0.40, 0.77, BLACK)
    lettering(picture, "KG", 0.66, 0.735, 0.040, WHITE, 0.18)
    disc(picture, 0.30, 0.62, 0.14, WHITE)
    disc(picture, 0.30, 0.62, 0.07, BLACK)
    rectangle(picture, 0.58, 0.58, 0.88, 0.65, GREY)
    lettering(picture, "B4", 0.62, 0.51, 0.050, BLACK, 0.18)
    rectangle(picture, 0.10, 0.42, 0.30, 0.55, WHITE)
    rectangle(picture, 0.45, 0.40, 0.85, 0.44, BLACK)
    disc(picture, 0.70, 0.34, 0.16, GREY)
    lettering(picture, "X", 0.28, 0.35, 0.055, WHITE, 0.18)
    rectangle(picture, 0.15, 0.22, 0.75, 0.27, WHITE)
    lettering(picture, "LIFT", 0.5, 0.15, 0.045, BLACK, 0.16)


def finger_marks(picture: np.ndarray) -> None:
    rectangle(picture, 0.0, 0.06, 1.0, 0.14, ORANGE)
    disc(picture, 0.35, 0.26, 0.24, WHITE)
    rectangle(picture, 0.45, 0.38, 0.95, 0.46, ORANGE)
    rectangle(picture, 0.08, 0.38, 0.30, 0.60, WHITE)
    disc(picture, 0.66, 0.64, 0.22, ORANGE)
    rectangle(picture, 0.0, 0.80, 1.0, 1.0, (0.14, 0.14, 0.15))
    rectangle(picture, 0.25, 0.85, 0.75, 0.89, LIGHT_GREY)


def mug_print(picture: np.ndarray) -> None:
    """Goes once around the mug."""
    rectangle(picture, 0.0, 0.0, 1.0, 0.08, NAVY)
    rectangle(picture, 0.0, 0.86, 1.0, 0.94, NAVY)
    for index, x in enumerate(np.arange(0.04, 1.0, 0.0832)):
        disc(picture, x, 0.30 + 0.30 * (index % 2), 0.12, (RED, GREEN, ORANGE)[index % 3])
        disc(picture, x, 0.30 + 0.30 * (index % 2), 0.05, CREAM)
        disc(picture, x, 0.66 - 0.38 * (index % 2), 0.05, NAVY)


def mug_top(picture: np.ndarray) -> None:
    """Rim and coffee, seen from above."""
    disc(picture, 0.5, 0.5, 0.43, (0.55, 0.53, 0.50))
    disc(picture, 0.5, 0.5, 0.40, (0.22, 0.12, 0.07))
    disc(picture, 0.42, 0.55, 0.10, (0.36, 0.22, 0.13))


# --- Solids ------------------------------------------------------------------------------------------------------------------

# Of each face of a box: the axis it is normal to and on which side, the axis that goes right in its picture and whether
# backwards, and the axis that goes up; seen from outside, nothing is mirrored.
FACES = {
    "-x": (0, -1, 1, -1, 2), "+x": (0, 1, 1, 1, 2),
    "-y": (1, -1, 0, 1, 2), "+y": (1, 1, 0, -1, 2),
    "-z": (2, -1, 0, -1, 1), "+z": (2, 1, 0, 1, 1),
}  # fmt: skip


@dataclass(frozen=True)
class Solid:
    """A box, or an upright cylinder in one, fixed to a body that may move."""

    body: str
    half: np.ndarray
    """(3,) half the lengths of the sides; of a cylinder the radius twice and half the height."""
    body_from_solid: np.ndarray
    textures: dict[str, np.ndarray]
    """Of each face; "side" goes around a cylinder from its -x direction."""
    round: bool = False
    casts_shadow: bool = True


def pose(position: tuple[float, float, float] | np.ndarray, yaw: float = 0.0) -> np.ndarray:
    """A motion that turns by `yaw` degrees about z and moves to `position`."""
    cosine, sine = math.cos(math.radians(yaw)), math.sin(math.radians(yaw))
    rotation = np.array([[cosine, -sine, 0.0], [sine, cosine, 0.0], [0.0, 0.0, 1.0]])
    return se3.from_rotation_translation(rotation, np.asarray(position, dtype=np.float64))


class Workshop:
    """Makes solids; keeps the generator from which their textures come."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self.solids: list[Solid] = []

    def box(
        self,
        body: str,
        size: tuple[float, float, float],
        centre: tuple[float, float, float],
        material: Material,
        *,
        yaw: float = 0.0,
        faces: dict[str, Material] | None = None,
        casts_shadow: bool = True,
    ) -> None:
        textures = {}
        for name, (_, _, right, _, up) in FACES.items():
            textures[name] = self._texture((faces or {}).get(name, material), size[right], size[up])
        self.solids.append(Solid(body, np.array(size) / 2, pose(centre, yaw), textures, casts_shadow=casts_shadow))

    def cylinder(
        self, body: str, radius: float, height: float, centre: tuple[float, float, float], side: Material, top: Material, yaw: float = 0.0
    ) -> None:
        textures = {
            "side": self._texture(side, 2 * math.pi * radius, height),
            "+z": self._texture(top, 2 * radius, 2 * radius),
            "-z": self._texture(top, 2 * radius, 2 * radius),
        }
        self.solids.append(Solid(body, np.array([radius, radius, height / 2]), pose(centre, yaw), textures, round=True))

    def _texture(self, material: Material, width: float, height: float) -> np.ndarray:
        picture = cv2.GaussianBlur(np.clip(material(self._rng, width, height), 0.0, 1.0), (0, 0), 0.7)
        return np.ascontiguousarray(picture**2.2, dtype=np.float32)


# --- The scene ---------------------------------------------------------------------------------------------------------------

CABINET = pose((-0.20, 0.12, 0.0), 48.0)
"""Its drawers open along its -y."""
CABINET_SIZE = (0.28, 0.24, 0.19)
TRAVEL = 0.15
HANDLE = (0.0, -0.162, 0.140)
"""Middle of the upper drawer's handle, in the cabinet, while the drawer is shut."""
BLOCK_SIDE = 0.056
BLOCK_START = pose((0.225, -0.070, 0.004 + BLOCK_SIDE / 2), -16.0)
FINGER_LENGTH = 0.100


def build_scene() -> list[Solid]:
    """Everything there is; bodies that move are posed by `Moment`."""
    make = Workshop(SEED)
    make.box("room", (2.6, 2.2, 0.04), (0.0, 0.0, -0.02), planks(OAK, 0.14), casts_shadow=False)
    make.box("room", (3.0, 0.04, 1.4), (0.0, 0.66, 0.5), plaster((0.62, 0.68, 0.66)), casts_shadow=False)
    make.box("room", (0.44, 0.016, 0.30), (0.20, 0.634, 0.29), wood(WALNUT), faces={"-y": printed(CREAM, landscape)})
    make.box(
        "room", (0.34, 0.27, 0.004), (0.235, -0.07, 0.002), cloth(CREAM, (RED, (0.52, 0.16, 0.20), (0.60, 0.62, 0.63)), 0.022), yaw=-8.0
    )
    sides = printed(CREAM, tea_box_side)
    front = printed(CREAM, tea_box)
    make.box("room", (0.095, 0.06, 0.165), (0.15, 0.34, 0.0825), paint(NAVY), yaw=-22.0, faces={"-y": front, "-x": sides, "+x": sides})
    make.box("room", (0.20, 0.14, 0.028), (0.40, 0.34, 0.014), paint(RED), yaw=24.0, faces={"-y": printed(CREAM, book_edge)})
    make.box("room", (0.18, 0.13, 0.022), (0.39, 0.345, 0.039), paint(GREEN), yaw=8.0, faces={"-y": printed(CREAM, book_edge)})
    make.cylinder("room", 0.040, 0.095, (0.365, 0.125, 0.0475), printed(WHITE, mug_print), printed(WHITE, mug_top), yaw=10.0)
    for size, centre in (
        ((0.030, 0.012, 0.012), (0.412, 0.105, 0.075)),
        ((0.030, 0.012, 0.012), (0.412, 0.105, 0.025)),
        ((0.012, 0.012, 0.062), (0.428, 0.0985, 0.050)),
    ):
        make.box("room", size, centre, paint(WHITE), yaw=-22.0)
    add_cabinet(make)
    add_drawer(make, "lower", "cabinet", 0.048)
    add_drawer(make, "upper", "drawer", HANDLE[2])
    add_gripper(make)
    letters = zip(FACES, "ECADFB", (NAVY, BLUE, BLUE, NAVY, BLUE, BLUE), strict=True)
    make.box("block", (BLOCK_SIDE,) * 3, (0.0, 0.0, 0.0), wood(PINE), faces={face: block_face(ch, colour) for face, ch, colour in letters})
    return make.solids


def book_edge(picture: np.ndarray) -> None:
    for line in np.arange(0.12, 0.9, 0.2):
        rectangle(picture, 0.0, line, 1.0, line + 0.07, (0.66, 0.60, 0.48))


def add_cabinet(make: Workshop) -> None:
    """An open case of panels with a board between its two drawers."""
    width, depth, height = CABINET_SIZE
    panel, outside = 0.012, paint(TEAL, wear=0.16, chips=0.025, screws=True)
    for x in (-1, 1):
        make.box("cabinet", (panel, depth, height), (x * (width - panel) / 2, 0.0, height / 2), outside)
    make.box("cabinet", (width, panel, height), (0.0, (depth - panel) / 2, height / 2), outside)
    make.box("cabinet", (width + 0.016, depth + 0.012, panel), (0.0, 0.002, height + panel / 2), wood(WALNUT, 0.2))
    for z in (panel / 2, height / 2):
        make.box("cabinet", (width - 2 * panel, depth - panel, panel), (0.0, -panel / 2, z), paint(TEAL, wear=0.16))


def add_drawer(make: Workshop, label: str, body: str, handle_height: float) -> None:
    """Front, tray and handle, placed as when shut."""
    width, depth, height = CABINET_SIZE[0] - 0.030, CABINET_SIZE[1] - 0.030, 0.078
    front_y, board = -CABINET_SIZE[1] / 2, 0.010

    def draw_front(picture: np.ndarray) -> None:
        rectangle(picture, 0.37, 0.70, 0.63, 0.90, BLACK)
        rectangle(picture, 0.38, 0.72, 0.62, 0.88, CREAM)
        lettering(picture, label.upper(), 0.5, 0.80, 0.09, BLACK, 0.12)

    wooden = wood(PINE, 0.18)

    def front(rng: np.random.Generator, across: float, up: float) -> np.ndarray:
        grain = wooden(rng, across, up) / np.array(PINE, np.float32)
        picture = printed(PINE, draw_front, wear=0.0)(rng, across, up) * grain
        for x in (0.014, across - 0.014):
            for y in (0.014, up - 0.014):
                screw(picture, x, y, 0.005, rng.uniform(0, np.pi))
        return picture

    make.box(body, (width, board, height), (0.0, front_y + board / 2, handle_height), wooden, faces={"-y": front})
    floor = handle_height - height / 2 + 0.008
    for x in (-1, 1):
        side = (x * (width - board - 0.006) / 2, front_y + depth / 2, handle_height - 0.009)
        make.box(body, (board, depth, height - 0.026), side, wooden)
    make.box(body, (width - 0.006, board, height - 0.026), (0.0, front_y + depth, handle_height - 0.009), wooden)
    make.box(body, (width - 0.006, depth, 0.006), (0.0, front_y + depth / 2, floor), wood((0.80, 0.66, 0.46), 0.22))
    metal = paint((0.30, 0.31, 0.34), wear=0.18, chips=0.08)
    make.box(body, (0.110, 0.011, 0.013), (0.0, HANDLE[1], handle_height), metal)
    for x in (-1, 1):
        make.box(body, (0.011, front_y - HANDLE[1], 0.011), (x * 0.048, (front_y + HANDLE[1]) / 2, handle_height), metal)


def add_gripper(make: Workshop) -> None:
    """Its origin is between the fingertips; the fingers open along x. The link's origin is the wrist, along its z."""
    shell, dark = paint(SIGNAL, wear=0.08, chips=0.02, screws=True), paint(GREY, wear=0.15, chips=0.06)
    label = printed(SIGNAL, gripper_label)
    palm = FINGER_LENGTH - 0.012
    make.box("gripper", (0.136, 0.046, 0.018), (0.0, 0.0, palm + 0.009), dark)
    make.box("gripper", (0.124, 0.070, 0.068), (0.0, 0.0, palm + 0.052), shell, faces={"-y": label, "+y": label})
    make.cylinder("gripper", 0.030, 0.030, (0.0, 0.0, palm + 0.100), dark, dark)
    marks = printed((0.30, 0.31, 0.33), finger_marks, wear=0.10)
    for side, name in ((-1, "left finger"), (1, "right finger")):
        make.box(name, (0.013, 0.030, FINGER_LENGTH), (side * 0.0065, 0.0, FINGER_LENGTH / 2 - 0.012), marks)
        make.box(name, (0.020, 0.036, 0.026), (side * 0.010, 0.0, FINGER_LENGTH - 0.024), dark)
    link = printed(SIGNAL, link_marks, wear=0.06)
    make.box("link", (0.072, 0.064, 0.50), (0.0, 0.0, 0.235), shell, faces=dict.fromkeys(("-x", "+x", "-y", "+y"), link))


WRIST_HEIGHT = FINGER_LENGTH + 0.116
"""From the fingertips to the axis of the link."""

# --- The story ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Key:
    """Where the robot has come to a stop at a frame."""

    frame: int
    tip: np.ndarray
    """(3,) between the fingertips, world."""
    yaw: float
    """Direction in which the fingers open, degrees."""
    gap: float
    """From the middle to each finger, metres."""
    drawer: float
    """How far the drawer is open, metres."""
    lift: float = 0.0
    """How far the way there rises above the straight line, metres."""


@dataclass(frozen=True)
class Moment:
    """The robot at a time."""

    tip: np.ndarray
    yaw: float
    gap: float
    drawer: float


GRASP, RELEASE = 53, 70
"""Frames between which the block is in the hand."""


def story() -> list[Key]:
    """Key poses; the robot moves between two of them that differ and waits between two that do not."""
    pull_yaw = 48.0 - 90.0
    handle = se3.transform_points(CABINET, np.array([HANDLE]))[0] - [0.0, 0.0, 0.004]
    opened = se3.transform_points(CABINET, np.array([[HANDLE[0], HANDLE[1] - TRAVEL, HANDLE[2]]]))[0] - [0.0, 0.0, 0.004]
    block = BLOCK_START[:3, 3] - [0.0, 0.0, 0.010]
    floor = HANDLE[2] - 0.039 + 0.011
    inside = se3.transform_points(CABINET, np.array([[0.020, -0.192, floor + BLOCK_SIDE / 2 - 0.010]]))[0]
    begin, end = np.array([0.100, 0.020, 0.225]), inside + np.array([0.020, 0.010, 0.085])
    wide, around_bar, on_bar, on_block = 0.044, 0.019, 0.0058, BLOCK_SIDE / 2
    turn = -16.0
    return [
        Key(0, begin, -25.0, around_bar, 0.0),
        Key(1, begin, -25.0, around_bar, 0.0),
        Key(13, handle, pull_yaw, around_bar, 0.0, lift=0.03),
        Key(14, handle, pull_yaw, around_bar, 0.0),
        Key(16, handle, pull_yaw, on_bar, 0.0),
        Key(18, handle, pull_yaw, on_bar, 0.0),
        Key(28, opened, pull_yaw, on_bar, TRAVEL),
        Key(30, opened, pull_yaw, on_bar, TRAVEL),
        Key(32, opened, pull_yaw, around_bar, TRAVEL),
        Key(35, opened, pull_yaw, around_bar, TRAVEL),
        Key(49, block, turn, wide, TRAVEL, lift=0.09),
        Key(51, block, turn, wide, TRAVEL),
        Key(GRASP, block, turn, on_block, TRAVEL),
        Key(55, block, turn, on_block, TRAVEL),
        Key(69, inside, pull_yaw, on_block, TRAVEL, lift=0.13),
        Key(RELEASE, inside, pull_yaw, on_block, TRAVEL),
        Key(72, inside, pull_yaw, wide, TRAVEL),
        Key(73, inside, pull_yaw, wide, TRAVEL),
        Key(79, end, -38.0, wide, TRAVEL),
    ]


def minimum_jerk(s: float) -> float:
    """From 0 to 1 with no speed and no acceleration at either end (Flash and Hogan, 1985)."""
    return s**3 * (10 - 15 * s + 6 * s**2)


def moment(keys: list[Key], frame: float) -> Moment:
    after = next(index for index, key in enumerate(keys) if key.frame >= frame)
    one, other = keys[max(0, after - 1)], keys[after]
    s = (frame - one.frame) / (other.frame - one.frame) if other.frame > one.frame else 1.0
    way = minimum_jerk(s)

    def between(a: float, b: float) -> float:
        return a + way * (b - a)

    tip = one.tip + way * (other.tip - one.tip) + np.array([0.0, 0.0, other.lift * 16 * s**2 * (1 - s) ** 2])
    return Moment(tip, between(one.yaw, other.yaw), between(one.gap, other.gap), between(one.drawer, other.drawer))


def body_poses(keys: list[Key], frame: int) -> dict[str, np.ndarray]:
    """world_from_body of every body."""
    now = moment(keys, frame)
    gripper = pose(now.tip, now.yaw)
    grasped, released = (moment(keys, held) for held in (GRASP, RELEASE))
    block_in_hand = se3.inverse(pose(grasped.tip, grasped.yaw)) @ BLOCK_START
    held_by = now if GRASP <= frame <= RELEASE else released
    return {
        "room": np.eye(4),
        "cabinet": CABINET,
        "drawer": CABINET @ pose((0.0, -now.drawer, 0.0)),
        "gripper": gripper,
        "left finger": gripper @ pose((-now.gap, 0.0, 0.0)),
        "right finger": gripper @ pose((now.gap, 0.0, 0.0)),
        "link": link_pose(gripper @ pose((0.0, 0.0, WRIST_HEIGHT))),
        "block": BLOCK_START if frame < GRASP else pose(held_by.tip, held_by.yaw) @ block_in_hand,
    }


def link_pose(wrist: np.ndarray) -> np.ndarray:
    """The link leans from the wrist to where the rest of the arm must be, above and behind the picture."""
    up = np.array([0.16, 0.52, 1.05]) - wrist[:3, 3]
    up /= np.linalg.norm(up)
    right = np.cross(np.array([0.0, 1.0, 0.0]), up)
    right /= np.linalg.norm(right)
    return se3.from_rotation_translation(np.stack([right, np.cross(up, right), up], axis=1), wrist[:3, 3])


def camera_pose(frame: float) -> np.ndarray:
    """world_from_camera: someone holds the camera, shifting their weight and breathing."""
    t = frame / FPS
    position = np.array(
        [
            0.060 + 0.050 * math.sin(0.95 * t - 1.3) + 0.004 * math.sin(3.9 * t),
            -0.790 + 0.022 * math.sin(1.2 * t + 0.4),
            0.560 + 0.018 * math.sin(1.5 * t + 2.0) + 0.003 * math.sin(4.6 * t + 1.0),
        ]
    )
    target = np.array([0.035 + 0.012 * math.sin(1.1 * t + 0.5), 0.0, 0.128 + 0.007 * math.sin(1.7 * t + 0.2)])
    roll = math.radians(1.1 * math.sin(1.3 * t + 1.0))
    forward = (target - position) / np.linalg.norm(target - position)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    down = np.cross(forward, right)
    across, along = math.cos(roll) * right + math.sin(roll) * down, math.cos(roll) * down - math.sin(roll) * right
    return se3.from_rotation_translation(np.stack([across, along, forward], axis=1), position)


# --- Ray casting -------------------------------------------------------------------------------------------------------------
# Points and directions are (3, n) float32. The direction of a camera's ray has z = 1 in the camera, so that distance along the
# ray is depth.

LAMP = np.array([-0.55, -0.75, 1.45])
LAMP_RADIUS = 0.11
NUM_LAMP_POINTS = 8
LAMP_LIGHT, SKY_LIGHT, BOUNCE_LIGHT = 1.15, 0.62, 0.34


@dataclass(frozen=True)
class Placed:
    """A solid at its place in a frame."""

    solid: Solid
    world_from_solid: np.ndarray

    def into(self, points: np.ndarray) -> np.ndarray:
        """World points (3, n) in the solid's own axes."""
        inverse = se3.inverse(self.world_from_solid).astype(np.float32)
        return inverse[:3, :3] @ points + inverse[:3, 3:]

    def turn(self, directions: np.ndarray) -> np.ndarray:
        return self.world_from_solid[:3, :3].T.astype(np.float32) @ directions

    def span(self, origins: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where rays enter and leave the solid, as multiples of the direction; entering after leaving is a miss."""
        start, along = self.into(origins), self.turn(directions)
        along = np.where(np.abs(along) < 1e-9, np.float32(1e-9), along)
        half = self.solid.half.astype(np.float32)[:, None]
        one, other = (-half - start) / along, (half - start) / along
        near, far = np.minimum(one, other), np.maximum(one, other)
        if not self.solid.round:
            return near.max(axis=0), far.min(axis=0)
        a = along[0] ** 2 + along[1] ** 2
        b = start[0] * along[0] + start[1] * along[1]
        discriminant = b**2 - a * (start[0] ** 2 + start[1] ** 2 - half[0] ** 2)
        root = np.sqrt(np.maximum(discriminant, 0))
        enters, leaves = np.maximum(near[2], (-b - root) / a), np.minimum(far[2], (-b + root) / a)
        return np.where(discriminant > 0, enters, np.float32(np.inf)), leaves


def camera_rays(intrinsics: np.ndarray, size: tuple[int, int], world_from_camera: np.ndarray) -> np.ndarray:
    """Directions (3, height * width) through the centres of all pixels."""
    u, v = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    camera = np.linalg.inv(intrinsics) @ np.stack([u.ravel(), v.ravel(), np.ones(u.size)])
    return (world_from_camera[:3, :3] @ camera).astype(np.float32)


def first_hits(
    scene: list[Placed], rays: np.ndarray, intrinsics: np.ndarray, size: tuple[int, int], world_from_camera: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Depth (n,) of what each ray meets first, and which solid that is."""
    depth = np.full(size[::-1], np.inf, np.float32)
    which = np.full(size[::-1], -1, np.int16)
    origin = world_from_camera[:3, 3:].astype(np.float32)
    grid = rays.reshape(3, *size[::-1])
    for index, placed in enumerate(scene):
        rows, columns = window_of(placed, intrinsics, size, world_from_camera)
        part = grid[:, rows, columns]
        if part.size == 0:
            continue
        enters, leaves = (span.reshape(part.shape[1:]) for span in placed.span(origin, part.reshape(3, -1)))
        nearer = (enters < leaves) & (enters > 0) & (enters < depth[rows, columns])
        depth[rows, columns][nearer] = enters[nearer]
        which[rows, columns][nearer] = index
    return depth.ravel(), which.ravel()


def window_of(placed: Placed, intrinsics: np.ndarray, size: tuple[int, int], world_from_camera: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns of the image outside which the solid cannot be seen."""
    signs = np.stack(np.meshgrid([-1, 1], [-1, 1], [-1, 1]), axis=-1).reshape(-1, 3)
    corners = se3.transform_points(placed.world_from_solid, signs * placed.solid.half)
    uv, z = cameras.project(corners, intrinsics, world_from_camera)
    if (z < 0.02).any():
        return slice(0, size[1]), slice(0, size[0])
    low = np.clip(np.floor(uv.min(axis=0)), 0, size).astype(int)
    high = np.clip(np.ceil(uv.max(axis=0)) + 1, 0, size).astype(int)
    return slice(low[1], high[1]), slice(low[0], high[0])


def surface(placed: Placed, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Colour and normal, both (3, n), of the points of a solid's surface, given in the world."""
    solid = placed.solid
    local = placed.into(points) / solid.half.astype(np.float32)[:, None]
    colours, normals = np.empty_like(local), np.zeros_like(local)
    if solid.round:
        on_side = np.hypot(local[0], local[1]) > np.abs(local[2])
        angle = np.arctan2(local[1], local[0]) / np.float32(np.pi)
        colours[:, on_side] = lookup(solid.textures["side"], angle[on_side], local[2, on_side])
        normals[:2, on_side] = local[:2, on_side]
        axis = np.where(on_side, -1, 2)
    else:
        axis = np.abs(local).argmax(axis=0)
    for name, (normal, side, right, forwards, up) in FACES.items():
        here = (axis == normal) & (local[normal] * side > 0)
        if here.any():
            colours[:, here] = lookup(solid.textures[name], forwards * local[right, here], local[up, here])
            normals[normal, here] = side
    return colours, placed.world_from_solid[:3, :3].astype(np.float32) @ normals


def lookup(texture: np.ndarray, right: np.ndarray, up: np.ndarray) -> np.ndarray:
    """Colours (3, n) at places from -1 to 1 on a texture."""
    row_length = 1024  # OpenCV's images cannot be as long as a list of pixels
    rows = -(-len(right) // row_length)
    places = np.zeros((2, rows * row_length), np.float32)
    places[0, : len(right)] = (right + 1) / 2 * texture.shape[1] - 0.5
    places[1, : len(right)] = (1 - up) / 2 * texture.shape[0] - 0.5
    maps = places.reshape(2, rows, row_length)
    found = cv2.remap(texture, maps[0], maps[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return found.reshape(-1, 3)[: len(right)].T


def lamp_points() -> np.ndarray:
    """(NUM_LAMP_POINTS, 3) spread evenly over the lamp's disc."""
    index = np.arange(NUM_LAMP_POINTS)
    radius, angle = LAMP_RADIUS * np.sqrt((index + 0.5) / NUM_LAMP_POINTS), index * math.pi * (3 - math.sqrt(5))
    return LAMP + np.stack([radius * np.cos(angle), radius * np.sin(angle), np.zeros(NUM_LAMP_POINTS)], axis=1)


def in_shadow(casters: list[Placed], points: np.ndarray, lamp: np.ndarray) -> np.ndarray:
    """(n,) whether something stands between the points and a point of the lamp."""
    towards = lamp.astype(np.float32)[:, None] - points
    distance = np.linalg.norm(towards, axis=0)
    dark = np.zeros(points.shape[1], bool)
    for placed in casters:
        offset = lamp - placed.world_from_solid[:3, 3]
        reach, radius = float(np.linalg.norm(offset)), float(np.linalg.norm(placed.solid.half))
        # Only points inside the cone from the lamp around the solid can lie in its shadow.
        least = math.sqrt(max(0.0, 1 - (radius / reach) ** 2))
        maybe = np.flatnonzero(((offset / reach).astype(np.float32) @ towards > least * distance) & ~dark)
        if len(maybe):
            enters, leaves = placed.span(points[:, maybe], towards[:, maybe])
            dark[maybe] = (enters < leaves) & (leaves > 1e-4) & (enters < 1)
    return dark


def render(scene: list[Placed], world_from_camera: np.ndarray) -> np.ndarray:
    """The picture (HEIGHT, WIDTH, 3) uint8 that a camera takes."""
    size = (WIDTH * SUPERSAMPLING, HEIGHT * SUPERSAMPLING)
    intrinsics = cameras.scale_intrinsics(INTRINSICS, (WIDTH, HEIGHT), size)
    rays = camera_rays(intrinsics, size, world_from_camera)
    depth, which = first_hits(scene, rays, intrinsics, size, world_from_camera)
    points = world_from_camera[:3, 3:].astype(np.float32) + rays * depth
    colours, normals = np.zeros_like(points), np.zeros_like(points)
    for index in np.unique(which):
        here = np.flatnonzero(which == index)
        colours[:, here], normals[:, here] = surface(scene[index], points[:, here])

    casters = [placed for placed in scene if placed.solid.casts_shadow]
    lifted = points + 4e-4 * normals  # off the surface, so that no solid shades itself by a rounding error
    lamp_light = np.zeros(points.shape[1], np.float32)
    # Every sample of a pixel asks other points of the lamp, and together they ask all of them.
    row, column = np.divmod(np.arange(points.shape[1]), size[0])
    place_in_pixel = (row % SUPERSAMPLING) * SUPERSAMPLING + column % SUPERSAMPLING
    per_sample = NUM_LAMP_POINTS // SUPERSAMPLING**2
    for number, lamp in enumerate(lamp_points()):
        here = np.flatnonzero(place_in_pixel == number // per_sample)
        towards = lamp.astype(np.float32)[:, None] - lifted[:, here]
        slant = np.maximum(0, (normals[:, here] * towards).sum(axis=0) / np.linalg.norm(towards, axis=0))
        lit = np.flatnonzero(slant > 0)
        slant[lit[in_shadow(casters, lifted[:, here[lit]], lamp)]] = 0
        lamp_light[here] += slant / per_sample
    sky_light = 0.5 + 0.5 * normals[2]
    bounce = np.maximum(0, np.array([0.75, -0.62, 0.22], np.float32) @ normals)  # from a bright room on the right
    light = (
        LAMP_LIGHT * lamp_light * np.array([1.0, 0.95, 0.86], np.float32)[:, None]
        + SKY_LIGHT * sky_light * np.array([0.88, 0.95, 1.0], np.float32)[:, None]
        + BOUNCE_LIGHT * bounce
    )
    linear = (colours * light).reshape(3, HEIGHT, SUPERSAMPLING, WIDTH, SUPERSAMPLING).mean(axis=(2, 4))
    exposed = 1 - np.exp(-1.25 * linear)  # rolls off towards white instead of clipping
    return np.round(255 * np.clip(exposed, 0, 1) ** (1 / 2.2)).astype(np.uint8).transpose(1, 2, 0)


def render_depth(scene: list[Placed], world_from_camera: np.ndarray) -> np.ndarray:
    """Depth (DEPTH_HEIGHT, DEPTH_WIDTH) float32, metres."""
    size = (DEPTH_WIDTH, DEPTH_HEIGHT)
    intrinsics = cameras.scale_intrinsics(INTRINSICS, (WIDTH, HEIGHT), size)
    rays = camera_rays(intrinsics, size, world_from_camera)
    depth, _ = first_hits(scene, rays, intrinsics, size, world_from_camera)
    return np.where(np.isfinite(depth), depth, 0).reshape(DEPTH_HEIGHT, DEPTH_WIDTH)


# --- The clip ----------------------------------------------------------------------------------------------------------------

_solids: list[Solid] = []
"""The scene of this process."""


def open_studio() -> None:
    cv2.setNumThreads(1)
    _solids[:] = build_scene()


def take(frame: int) -> tuple[np.ndarray, np.ndarray]:
    """Picture and depth of a frame."""
    poses = body_poses(story(), frame)
    scene = [Placed(solid, poses[solid.body] @ solid.body_from_solid) for solid in _solids]
    camera = camera_pose(frame)
    return render(scene, camera), render_depth(scene, camera)


def write_clip(folder: Path, num_processes: int) -> None:
    movie, sensor = folder / "drawer.mp4", folder / "drawer.sensor.h5"
    depths = np.empty((NUM_FRAMES, DEPTH_HEIGHT, DEPTH_WIDTH), np.float32)
    with multiprocessing.Pool(num_processes, initializer=open_studio) as pool:

        def pictures() -> Iterator[np.ndarray]:
            for frame, (picture, depth) in enumerate(pool.imap(take, range(NUM_FRAMES))):
                depths[frame] = depth
                print(f"\rframe {frame + 1} of {NUM_FRAMES}", end="", flush=True)
                yield picture

        video.write_video(movie, pictures(), FPS, crf=CRF, gop=GOP)
    print()
    clip, _ = video.open_clip(movie)
    clip = dataclasses.replace(clip, uri=movie.name, task="open the upper drawer and put the block into it")
    cameras_of_frames = np.stack([camera_pose(frame) for frame in range(NUM_FRAMES)])
    with write_records(Target(sensor, force=True), EPISODE, movie.stem) as writer:
        writer.put(clip)
        writer.put(DepthSensor(depths))
        writer.put(CameraSensor(INTRINSICS, cameras_of_frames))
        writer.append_step(Step("tools/make_demo_clip.py", [], tracekit.__version__, {"seed": SEED, "crf": CRF}, [clip.sha256], seed=SEED))
    for path in (movie, sensor):
        print(f"{path}  {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Render the sample clip that comes with tracekit.")
    samples = Path(__file__).parents[1] / "src" / "tracekit" / "samples"
    parser.add_argument("folder", nargs="?", type=Path, default=samples, help="where the two files go (default: %(default)s)")
    parser.add_argument("--processes", type=int, default=2, help="processes that render at once (default: %(default)s)")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    write_clip(arguments.folder, arguments.processes)
