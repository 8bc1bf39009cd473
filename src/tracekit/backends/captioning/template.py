"""A captioner without a network: it puts what the traces say into sentences from a template.

It names entities by colour, size and place, and says where they went, how far, together with what and close to what. It knows
no objects and no purposes; a file that it captioned says so (`captions/captioner` is "template").
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tracekit.backends.protocols import BackendSetup, EventCaption, EventRequest, Facts
from tracekit.errors import BadDataError
from tracekit.geometry import cameras, se3
from tracekit.records import Episode, Geometry, Keypoints, Motion, Tracks

LEAST_MOVE = 0.02
"""An entity moves in an event when most of its moving points get farther than this from their start, in image widths."""
LEAST_MOTION = 0.002
"""Points that stay within this of their start stand still, as far as tracking can tell (about a pixel), in image widths."""
LEAST_SHARE = 0.1
"""An entity of which fewer of the tracks move is taken to stand still: a few points of its rim move with something else."""
MOST_ENTITIES = 3
"""An event tells of the entities that move most."""
CONTACT_METRES = 0.03
CONTACT_WIDTHS = 0.03
"""Two entities come close when points of both are within this distance: in metres, or seen in the image if there is no metre."""

HUES = (
    (15, "red"), (42, "orange"), (68, "yellow"), (165, "green"), (195, "turquoise"),
    (258, "blue"), (295, "purple"), (345, "pink"), (math.inf, "red"),
)  # fmt: skip
"""Names of hues in degrees, each up to its limit."""


class Template:
    """Captions from tracks, entities and cameras alone. The same episode always gets the same words."""

    name: ClassVar[str] = "template"
    facts: ClassVar[Facts] = Facts("sentences made from the traces", code="tracekit", code_licence="Apache-2.0")
    looks_at_frames: ClassVar[bool] = False
    """The video need not be decoded, nor even be there any more."""

    def __init__(self, setup: BackendSetup) -> None:
        pass

    @classmethod
    def missing(cls, setup: BackendSetup) -> str | None:
        return None

    def weights_sha256(self) -> str:
        return ""

    def describe(self, request: EventRequest) -> EventCaption:
        """Directions are those of the camera of the event's first frame. Needs no frames and takes no notice of the task.

        Raises BadDataError when the episode has no keypoints, cameras, tracks or motion.
        """
        scene = _scene(request.episode)
        movers = _movers(scene, request.start, request.stop)
        if not movers:
            return _without_movers(_farthest(scene, request.start, request.stop))
        groups = _groups(movers)
        encounter = _encounter(scene, movers, request.start, request.stop)
        # What is tracked for a part of the event only need not have moved at the same time.
        word = "and" if any(mover.brief for mover in movers) else "while"
        plain = _clauses([f"{_subject(movers, group)} {_moves(group)}" for group in groups], word) + encounter
        return EventCaption(
            before=_sentence("; ".join(f"{_article(m.look)} {m.look} {_beginning(scene, m)}" for m in movers)),
            interaction=_sentence(plain),
            after=_sentence("; ".join(f"{_named(movers, m, 'that began ')} {_fate(m)}" for m in movers)),
            text=_sentence(_clauses([f"{_subject(movers, group, place=True)} {_moves(group)}" for group in groups], word) + encounter),
            paraphrases=(
                _sentence(_clauses([f"{_subject(movers, group)} {_moves(group, verb='shift')}" for group in groups], word) + encounter),
                _sentence(_clauses([f"move {_subject(movers, group)} {_course(group)}" for group in groups], "and")),
                _sentence("; ".join(f"{_subject(movers, g)} {_be(g)} seen going {_course(g)}, {_starting(g)}" for g in groups)),
                _sentence(f"there is motion: {plain}"),
            ),
        )

    def merge(self, texts: Sequence[str]) -> str:
        """All texts in order in one sentence; a run of equal ones is told once, and a long story keeps its ends."""
        steps = [text for index, text in enumerate(texts) if index == 0 or text != texts[index - 1]]
        clauses = [_clause(step) for step in steps]
        if len(clauses) == 1:
            return _sentence(clauses[0])
        if len(clauses) > 4:
            clauses = [*clauses[:2], f"{len(clauses) - 3} more steps follow", clauses[-1]]
        words = ["first", *["then"] * (len(clauses) - 2), "finally" if len(clauses) > 2 else "then"]
        return _sentence("; ".join(f"{word}, {clause}" for word, clause in zip(words, clauses, strict=True)))


@dataclass(frozen=True)
class _Scene:
    """What the template reads of an episode."""

    keypoints: Keypoints
    geometry: Geometry
    tracks: Tracks
    motion: Motion
    size: tuple[int, int]
    """(W, H)"""


def _scene(episode: Episode) -> _Scene:
    missing = [name for name in ("keypoints", "geometry", "tracks", "motion") if getattr(episode, name) is None]
    if missing:
        raise BadDataError(
            f"the template captioner has no {', no '.join(missing)} to read from",
            hint="run `tracekit keypoints`, `reconstruct`, `track` and `filter` first",
        )
    assert episode.keypoints and episode.geometry and episode.tracks and episode.motion
    size = (episode.video.width, episode.video.height)
    return _Scene(episode.keypoints, episode.geometry, episode.tracks, episode.motion, size)


@dataclass(frozen=True)
class _Mover:
    """How one entity moves in an event, seen from the camera of the event's first frame."""

    entity: int
    look: str
    """Size and colour: "small dark grey region"."""
    place_before: str
    place_after: str
    direction: np.ndarray
    """(3,) right, down and forward, in image widths: a metre forward counts as it would sideways."""
    distance: str
    returns: bool
    """It ends near where it began, having been farther away."""
    reach: float
    """Farthest from the start, in image widths."""
    depth: float
    tracks: np.ndarray
    """Indices of its moving tracks."""
    brief: bool
    """Each of them is known for less than half of the event: before, after and the way are those of the part in which it is tracked."""


def _movers(scene: _Scene, start: int, stop: int) -> list[_Mover]:
    """The entities that move most between the frames `start` and `stop`, most first; those that are tracked only briefly last."""
    moving = np.flatnonzero(scene.motion.moving)
    entities = scene.tracks.entity[moving]
    found = [
        _mover(scene, entity, moving[entities == entity], start, stop)
        for entity in np.unique(entities).tolist()
        if (entities == entity).sum() >= LEAST_SHARE * (scene.tracks.entity == entity).sum()
    ]
    movers = sorted((mover for mover in found if mover is not None), key=lambda mover: (mover.brief, -mover.reach, mover.entity))
    return movers[:MOST_ENTITIES]


def _mover(scene: _Scene, entity: int, tracks: np.ndarray, start: int, stop: int) -> _Mover | None:
    """By its tracks that last; else by short ones, whose first and last known position say nothing of the rest of the event."""
    times_known = _known(scene, tracks, start, stop).sum(axis=0)
    lasting = times_known >= max(2, (stop - start) // 2)
    mover = _moved(scene, entity, tracks[lasting], start, stop, brief=False)
    if mover is not None:
        return mover
    brief = (times_known >= 2) & ~lasting
    of_entity = _known(scene, np.flatnonzero(scene.tracks.entity == entity), start, stop).sum(axis=0) >= 2
    if brief.sum() <= lasting.sum() or brief.sum() < LEAST_SHARE * of_entity.sum():
        return None
    return _moved(scene, entity, tracks[brief], start, stop, brief=True)


def _known(scene: _Scene, tracks: np.ndarray, start: int, stop: int) -> np.ndarray:
    """(stop - start, len(tracks)) bool: where their positions are known."""
    return scene.tracks.valid[start:stop, tracks].astype(bool) & np.isfinite(scene.tracks.xyz_world[start:stop, tracks]).all(axis=-1)


def _moved(scene: _Scene, entity: int, tracks: np.ndarray, start: int, stop: int, *, brief: bool) -> _Mover | None:
    """How these tracks of an entity, known twice each at least, move in an event; None when most of them stay near their start."""
    if not len(tracks):
        return None
    known = _known(scene, tracks, start, stop)
    pose = scene.geometry.world_from_camera[start]
    camera = se3.transform_points(se3.inverse(pose), scene.tracks.xyz_world[start:stop, tracks].astype(np.float64))
    columns = np.arange(len(tracks))
    first, last = known.argmax(axis=0), len(known) - 1 - known[::-1].argmax(axis=0)
    origin, end = camera[first, columns], camera[last, columns]
    depth = float(np.median(origin[:, 2]))
    if depth <= 0:
        return None
    widths_per_unit = scene.geometry.intrinsics[0, 0] / (depth * scene.size[0])
    away = np.where(known, np.linalg.norm(camera - origin, axis=-1), 0.0).max(axis=0)
    reach = float(np.median(away)) * widths_per_unit
    if reach < LEAST_MOVE:
        return None
    step = np.median(end - origin, axis=0)
    length = float(np.linalg.norm(step))
    returns = length * widths_per_unit < max(LEAST_MOVE, 0.25 * reach)
    travelled = reach / widths_per_unit if returns else length
    return _Mover(
        entity=entity,
        look=_look(scene.keypoints, entity),
        place_before=_place(_pixel(scene, origin), scene.size),
        place_after=_place(_pixel(scene, end), scene.size),
        direction=step * widths_per_unit,
        distance=_length(travelled) if scene.geometry.metric else _share(travelled * widths_per_unit),
        returns=returns,
        reach=reach,
        depth=depth,
        tracks=tracks,
        brief=brief,
    )


def _farthest(scene: _Scene, start: int, stop: int) -> float:
    """How far any one of the moving tracks gets from its first known position in an event, in image widths; 0.0 when none is known twice."""
    tracks = np.flatnonzero(scene.motion.moving)
    known = _known(scene, tracks, start, stop)
    tracks, known = tracks[known.sum(axis=0) >= 2], known[:, known.sum(axis=0) >= 2]
    if not len(tracks):
        return 0.0
    xyz = scene.tracks.xyz_world[start:stop, tracks].astype(np.float64)
    first = known.argmax(axis=0)
    origin = xyz[first, np.arange(len(tracks))]
    # Seen by the camera that saw it first: by that of the event's first frame it may lie behind.
    cameras_at_first = se3.inverse(scene.geometry.world_from_camera[start:stop][first])
    depth = np.maximum(se3.transform_points(cameras_at_first, origin[:, None])[:, 0, 2], 1e-6)
    away = np.where(known, np.linalg.norm(xyz - origin, axis=-1), 0.0).max(axis=0)
    return float((away / depth).max() * scene.geometry.intrinsics[0, 0] / scene.size[0])


def _without_movers(farthest: float) -> EventCaption:
    """Of an event in which no entity moves as one, while no single track gets farther than `farthest`, in image widths."""
    if farthest >= LEAST_MOVE:
        said = "Some of the tracked points move."
        before, after = "Some of the tracked points are about to move.", "Some of the tracked points have moved."
        others = "Single tracked points move.", "There is some motion of tracked points.", "Some tracked points change their place."
    elif farthest >= LEAST_MOTION:
        said = "Nothing that is tracked moves far."
        before, after = "Nothing that is tracked is about to move far.", "Everything that is tracked is about where it was."
        others = (
            "No tracked region moves far.",
            "There is hardly any motion among what is tracked.",
            "Everything tracked stays near its place.",
        )
    else:
        said = "Nothing that is tracked moves."
        before, after = "Nothing that is tracked is about to move.", "Everything that is tracked is where it was."
        others = "No tracked region moves.", "There is no motion among what is tracked.", "Everything tracked stays in its place."
    return EventCaption(before=before, interaction=said, after=after, text=said, paraphrases=others)


def _pixel(scene: _Scene, points_camera: np.ndarray) -> np.ndarray:
    """The middle (2,) of the points' images; NaN when all are behind the camera."""
    uv, _ = cameras.project(points_camera, scene.geometry.intrinsics, np.eye(4))
    seen = uv[np.isfinite(uv).all(axis=-1)]
    return np.median(seen, axis=0) if len(seen) else np.full(2, np.nan)


def _look(keypoints: Keypoints, entity: int) -> str:
    row = np.flatnonzero(keypoints.entity_id == entity)
    if len(row) == 0:
        return "region"
    index = int(row[0])
    patches_per_frame = math.prod(keypoints.labels.shape[1:])
    share = keypoints.entity_num_patches[index] / max(1, keypoints.entity_num_frames[index] * patches_per_frame)
    size = "small " if share < 0.03 else "large " if share > 0.25 else ""
    return f"{size}{colour_name(keypoints.entity_rgb[index])} region"


def colour_name(rgb: Sequence[int] | np.ndarray) -> str:
    """The everyday name of an sRGB colour (3,) in 0 to 255: "dark grey", "light blue", "brown"."""
    red, green, blue = (float(value) / 255 for value in rgb)
    high, low = max(red, green, blue), min(red, green, blue)
    chroma, lightness = high - low, (high + low) / 2
    if chroma < 0.09 or (chroma < 0.15 and not 0.2 < lightness < 0.85):
        greys = ((0.12, "black"), (0.36, "dark grey"), (0.62, "grey"), (0.86, "light grey"), (math.inf, "white"))
        return next(name for limit, name in greys if lightness < limit)
    if high == red:
        hue = (60 * (green - blue) / chroma) % 360
    elif high == green:
        hue = 60 * (blue - red) / chroma + 120
    else:
        hue = 60 * (red - green) / chroma + 240
    if 12 <= hue < 48 and lightness < 0.5 and (chroma < 0.5 or lightness < 0.35):
        return "dark brown" if lightness < 0.22 else "brown"
    if 15 <= hue < 60 and chroma < 0.4 and lightness >= 0.5:
        return "beige"
    name = next(name for limit, name in HUES if hue < limit)
    return f"dark {name}" if lightness < 0.25 else f"light {name}" if lightness > 0.75 else name


def _place(uv: np.ndarray, size: tuple[int, int]) -> str:
    """Where in the image a pixel is, on a grid of three by three."""
    if not np.isfinite(uv).all():
        return "behind the camera"
    across, down = (float(uv[axis]) + 0.5 for axis in (0, 1))
    across, down = across / size[0], down / size[1]
    sides = [word for word, out in (("left", across < 0), ("right", across > 1), ("top", down < 0), ("bottom", down > 1)) if out]
    if sides:
        return f"outside the image, beyond its {sides[0]} edge"
    column, row = min(2, int(across * 3)), min(2, int(down * 3))
    if row == 1:
        return ("on the left", "in the middle", "on the right")[column]
    vertical = "top" if row == 0 else "bottom"
    return (f"at the {vertical} left", f"at the {vertical}", f"at the {vertical} right")[column]


def _length(metres: float) -> str:
    if metres < 0.01:
        return "less than 1 cm"
    return f"about {metres * 100:.0f} cm" if metres < 0.995 else f"about {metres:.1f} m"


def _share(widths: float) -> str:
    return f"about {max(1, round(widths * 100))}% of the image width"


def _heading(direction: np.ndarray) -> str:
    """The parts of a direction that matter: "up and to the right", "away from the camera"."""
    strongest = np.abs(direction).max()
    right, down, forward = (value if abs(value) >= 0.45 * strongest else 0.0 for value in direction)
    words = []
    if down:
        words.append("down" if down > 0 else "up")
    if right:
        words.append("to the right" if right > 0 else "to the left")
    if forward:
        words.append("away from the camera" if forward > 0 else "towards the camera")
    return _listed(words)


def _course(group: Sequence[_Mover]) -> str:
    """Where to and how far: of a group that moves together, the one that moves most."""
    lead = group[0]
    return f"to and fro, up to {lead.distance} away" if lead.returns else f"{_heading(lead.direction)} by {lead.distance}"


def _moves(group: Sequence[_Mover], verb: str = "move") -> str:
    together = " together" if len(group) > 1 else ""
    part = " while it is tracked" if group[0].brief else ""
    return f"{verb}{'' if len(group) > 1 else 's'}{together} {_course(group)}{part}"


def _be(group: Sequence[_Mover]) -> str:
    return "are" if len(group) > 1 else "is"


def _starting(group: Sequence[_Mover]) -> str:
    """Where it began, fit to follow a comma."""
    return f"from its place {group[0].place_before}" if len(group) == 1 else "together"


def _beginning(scene: _Scene, mover: _Mover) -> str:
    return f"is {mover.place_before}{_distance(scene, mover)}{' when it is first tracked' if mover.brief else ''}"


def _fate(mover: _Mover) -> str:
    part = " when it is last tracked" if mover.brief else ""
    if mover.returns:
        return f"is back where it was, {mover.place_before}{part}"
    if mover.place_after == mover.place_before:
        return f"is still {mover.place_after}, but {mover.distance} farther {_after_heading(mover.direction)}{part}"
    return f"is {mover.place_after}{part}"


def _after_heading(direction: np.ndarray) -> str:
    return _heading(direction).replace("towards the camera", "forward").replace("away from the camera", "back")


def _distance(scene: _Scene, mover: _Mover) -> str:
    if not scene.geometry.metric:
        return ""
    return f", {_length(mover.depth)} from the camera"


def _groups(movers: Sequence[_Mover]) -> list[list[_Mover]]:
    """Movers that go the same way and about as far, in the order of who moves most."""
    groups: list[list[_Mover]] = []
    for mover in movers:
        for group in groups:
            if _alike(group[0], mover):
                group.append(mover)
                break
        else:
            groups.append([mover])
    return groups


def _alike(a: _Mover, b: _Mover) -> bool:
    if a.returns or b.returns or a.brief or b.brief:
        return False
    lengths = [float(np.linalg.norm(mover.direction)) for mover in (a, b)]
    cosine = float(a.direction @ b.direction) / (lengths[0] * lengths[1])
    return cosine > 0.9 and min(lengths) > 0.6 * max(lengths)


def _encounter(scene: _Scene, movers: Sequence[_Mover], start: int, stop: int) -> str:
    """ ", and the red region comes close to the blue one": the pair of movers that get nearest, if they were apart at first."""
    best: tuple[float, str] | None = None
    for index, a in enumerate(movers):
        for b in movers[index + 1 :]:
            gaps = _gaps(scene, a, b, start, stop)
            if len(gaps) < 2:
                continue
            limit = CONTACT_METRES if scene.geometry.metric else CONTACT_WIDTHS * scene.size[0] * a.depth / scene.geometry.intrinsics[0, 0]
            nearest = float(gaps.min())
            if nearest < limit and gaps[0] > 2 * limit and (best is None or nearest < best[0]):
                best = nearest, f", and {_named(movers, a)} comes close to {_named(movers, b)}"
    return best[1] if best else ""


def _gaps(scene: _Scene, a: _Mover, b: _Mover, start: int, stop: int) -> np.ndarray:
    """Least distance between points of both in some frames of the event, in order; frames where either is unknown are left out."""
    gaps = []
    for frame in np.unique(np.linspace(start, stop - 1, min(stop - start, 32)).round().astype(int)):
        ours, theirs = (
            scene.tracks.xyz_world[frame, m.tracks][scene.tracks.valid[frame, m.tracks].astype(bool)].astype(np.float64) for m in (a, b)
        )
        if len(ours) and len(theirs):
            gaps.append(float(np.linalg.norm(ours[:, None] - theirs[None], axis=-1).min()))
    return np.array(gaps)


def _named(movers: Sequence[_Mover], mover: _Mover, link: str = "") -> str:
    """ "the grey region", told apart by where it began, or failing that by its number, where others look the same."""
    same = [other for other in movers if other.look == mover.look]
    if len(same) == 1:
        return f"the {mover.look}"
    if sum(other.place_before == mover.place_before for other in same) == 1:
        return f"the {mover.look} {link}{mover.place_before}"
    return f"the {('first', 'second', 'third')[same.index(mover)]} {mover.look}"


def _article(noun: str) -> str:
    return "an" if noun[0] in "aeiou" else "a"


def _subject(movers: Sequence[_Mover], group: Sequence[_Mover], place: bool = False) -> str:
    names = [_named(movers, mover) for mover in group]
    if place:
        names = [name if mover.place_before in name else f"{name} {mover.place_before}" for name, mover in zip(names, group, strict=True)]
    return _listed(names)


def _listed(parts: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _clauses(parts: Sequence[str], word: str = "while") -> str:
    """Whole clauses, which may have an "and" of their own: "a", "a, while b", "a, b, and c"."""
    if len(parts) < 3:
        return f", {word} ".join(parts)
    return f"{', '.join(parts[:-1])}, and {parts[-1]}"


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _clause(sentence: str) -> str:
    """The sentence inside another one. Only a first word of ours is known to have no capital of its own."""
    text = sentence.strip().rstrip(".")
    first, _, rest = text.partition(" ")
    return f"{first.lower()} {rest}".strip() if first in {"The", "Nothing", "Some", "There", "Everything", "First,"} else text
