"""The values that library functions pass to each other, and the one declaration of the file format.

Every record is a frozen dataclass whose fields carry what a reader must know: dtype, symbolic shape, unit, frame and
meaning. `tracekit.format` turns a record into an HDF5 group of the same name and back, validates files against these
declarations and generates docs/format.md from them; nothing about the format is written down twice.

Conventions that hold everywhere:

- Cameras use OpenCV axes: x right, y down, z forward. `world_from_camera` maps camera coordinates to world coordinates.
- Pixels are those of the *processed grid* (H x W, see `Clip`); the centre of the top-left pixel is (0, 0).
- Where a mask says that an entry does not hold, the entry is NaN (floats): an unmasked mean fails loudly.
- Symbols in shapes: T frames, H x W processed grid, h x w depth grid, gh x gw patch grid, K keypoint candidates, N tracks,
  M entities, G bodies of a simulation, R representative frames, A anchor frames, C chunks, B dense passes of the reconstruction, P peaks, E events,
  S summaries. The same letter has one value in a file.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np


@dataclass(frozen=True)
class Spec:
    """What one field of a record is in a file.

    `dtype` is a numpy type code, "str", or "depth": float32 in memory, in the file 16-bit millimetres or a 16-bit or 32-bit float.
    `shape` None marks an attribute.
    """

    dtype: str
    shape: tuple[str | int, ...] | None
    unit: str
    frame: str
    meaning: str
    required: bool
    values: str = ""
    """Extra rule on the values: "mask" (0 or 1), "pose" (rigid motions), "finite", "range X" (an index into axis X) or "" (none)."""
    path: str = ""
    """Where the dataset lies inside its group; "" means under the field's own name."""

    @property
    def is_frames(self) -> bool:
        """One picture a frame: read slice by slice, never as a whole."""
        return self.shape is not None and len(self.shape) >= 3 and self.shape[0] == "T" and self.shape[1] in ("h", "H")


def array(
    dtype: str, shape: str, meaning: str, *, unit: str = "", frame: str = "", values: str = "", required: bool = True, path: str = ""
) -> Any:
    """Declare a dataset. `shape` is "T N 3": letters are symbols, numbers are fixed. Optional ones default to None."""
    axes = tuple(int(axis) if axis.isdigit() else axis for axis in shape.split())
    return _declare(Spec(dtype, axes, unit, frame, meaning, required, values, path))


def attribute(dtype: str, meaning: str, *, unit: str = "", required: bool = True) -> Any:
    """Declare a scalar stored as an attribute of the group."""
    return _declare(Spec(dtype, None, unit, "", meaning, required))


def _declare(spec: Spec) -> Any:
    if spec.required:
        return field(metadata={"spec": spec})
    return field(default=None, metadata={"spec": spec})


class Frames(Protocol):
    """Something that is sliced along its first axis and need not be in memory: frames of a video, depth in a file.

    A numpy array is one. `frames[start:stop]` returns an array of the slice; read long clips chunk by chunk.
    """

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any) -> np.ndarray: ...


@dataclass(frozen=True)
class Clip:
    """Which frames of which video this file is about, and the pixel grid on which everything is measured."""

    uri: str = attribute("str", "path of the video, or of the folder of images, as an absolute path")
    sha256: str = attribute("str", "digest of the video file, or of the folder's file names and contents, in order")
    fps: float = attribute("f8", "mean rate of the frames kept", unit="1/s")
    width: int = attribute("i4", "W of the processed grid", unit="px")
    height: int = attribute("i4", "H of the processed grid", unit="px")
    source_width: int = attribute("i4", "width of the video after its rotation is applied", unit="px")
    source_height: int = attribute("i4", "height of the video after its rotation is applied", unit="px")
    rotation: int = attribute("i4", "clockwise rotation that was applied for display: 0, 90, 180 or 270", unit="degree")
    decoder: str = attribute("str", "what decoded the frames: pyav, decord or images, with its version")
    num_source_frames: int = attribute("i4", "frames in the whole source, before subsampling")
    num_missing_frames: int = attribute("i4", "frames that the container promises and that could not be decoded (see --allow-partial)")
    pts: np.ndarray = array("f8", "T", "presentation time of each frame", unit="s", values="finite")
    source_frame: np.ndarray = array("i4", "T", "index of each frame in the source, in order of presentation")
    task: str | None = attribute("str", "what is done in the clip, when somebody has said so", required=False)
    frames: Frames | None = array("u1", "T H W 3", "the frames themselves, RGB (with --embed-frames)", required=False)


@dataclass(frozen=True)
class DepthSensor:
    """Depth that was measured, not estimated: what `tracekit import` or `--sensor` brought in."""

    depth: Frames = array("depth", "T h w", "measured depth along the optical axis; 0 where there was no return", unit="m", frame="camera")


@dataclass(frozen=True)
class CameraSensor:
    """Calibration and, when known, poses that came with the recording."""

    intrinsics: np.ndarray = array("f8", "3 3", "pinhole matrix K on the processed grid", unit="px", values="finite")
    world_from_camera: np.ndarray | None = array(
        "f8", "T 4 4", "pose of the camera at each frame", unit="m", frame="world from camera", values="pose", required=False
    )


@dataclass(frozen=True)
class Keypoints:
    """Candidate points on every entity (paper 2.1, A.1), and the entities: clusters of patch features with one identity each."""

    patch_size: float = attribute("f8", "side of a patch of the feature grid", unit="px")
    budget: int = attribute("i4", "keypoints per chunk that were asked for")
    features: str = attribute("str", "features backend that described the patches")
    uv: np.ndarray = array("f4", "K 2", "where each candidate was selected", unit="px", frame="image at `frame`", values="finite")
    frame: np.ndarray = array("i4", "K", "frame at which each candidate was selected", values="range T")
    entity: np.ndarray = array("i4", "K", "entity of each candidate: a value of entity_id")
    chunk: np.ndarray = array("i4", "K", "chunk that each candidate was selected for")
    score: np.ndarray = array(
        "f4", "K", "how well the point can be told from its neighbourhood (smaller eigenvalue of the structure tensor)"
    )
    chunk_start: np.ndarray = array("i4", "C", "first frame of each chunk")
    chunk_stop: np.ndarray = array("i4", "C", "one past the last frame of each chunk")
    entity_id: np.ndarray = array("i4", "M", "identity of each entity; stable over the whole clip")
    entity_num_patches: np.ndarray = array("i4", "M", "patches covered, summed over the representative frames")
    entity_num_frames: np.ndarray = array("i4", "M", "representative frames in which the entity is visible")
    entity_rgb: np.ndarray = array("u1", "M 3", "mean colour of the entity, RGB")
    label_frame: np.ndarray = array("i4", "R", "representative frames, ascending", values="range T")
    labels: np.ndarray = array(
        "i4", "R gh gw", "entity of each patch of each representative frame; patch (i, j) covers the cell (i, j) of a gh x gw grid"
    )


@dataclass(frozen=True)
class Geometry:
    """Cameras and depth of every frame in one global frame (paper 2.2, A.3)."""

    backend: str = attribute("str", "reconstruction backend")
    metric: bool = attribute("u1", "1 when lengths are metres; 0 when they are relative, or when no depth is claimed")
    intrinsics: np.ndarray = array("f8", "3 3", "the shared pinhole matrix K_global on the processed grid", unit="px", values="finite")
    world_from_camera: np.ndarray = array(
        "f8", "T 4 4", "pose of the camera at each frame, E in Eq. 1", unit="m", frame="world from camera", values="pose"
    )
    frame_confidence: np.ndarray = array("f4", "T", "how well each frame's camera is known, 0 to 1")
    anchor_frame: np.ndarray = array("i4", "A", "frames of the global sparse pass", values="range T")
    chunk_start: np.ndarray = array("i4", "B", "first frame of each dense pass")
    chunk_stop: np.ndarray = array("i4", "B", "one past the last frame of each dense pass")
    chunk_scale: np.ndarray = array("f8", "B", "factor that brought the chunk's depth to the global scale")
    chunk_alignment: np.ndarray = array(
        "f8", "B 4 4", "A of Eq. 1: global frame from the chunk's own frame", frame="world from chunk", values="pose"
    )
    chunk_residual: np.ndarray = array("f8", "B", "root mean square distance of the aligned camera centres from the anchors'", unit="m")
    chunk_num_anchors: np.ndarray = array("i4", "B", "anchors that the alignment kept")
    depth: Frames | None = array(
        "depth",
        "T h w",
        "depth along the optical axis, 0 where unknown; absent where none is claimed (all points lie on z = 1), and in truth files (see depth_sensor)",
        unit="m",
        frame="camera",
        required=False,
    )


@dataclass(frozen=True)
class Tracks:
    """The 3-D path of every tracked point, in the world frame, with an identity that never changes (paper A.4)."""

    tracker: str = attribute("str", "tracking backend")
    xyz_world: np.ndarray = array(
        "f4", "T N 3", "position of each point; NaN where not valid", unit="m (relative where geometry says metric = 0)", frame="world"
    )
    uv: np.ndarray = array("f4", "T N 2", "its projection; NaN where not valid, off-screen values kept", unit="px", frame="image")
    visible: np.ndarray = array("u1", "T N", "1 where the point is seen in the frame", values="mask")
    valid: np.ndarray = array("u1", "T N", "1 where the position is known, seen or not", values="mask")
    keypoint: np.ndarray = array("i4", "N", "the candidate that each track started from", values="range K")
    entity: np.ndarray = array("i4", "N", "entity of each track: a value of keypoints/entity_id")
    born: np.ndarray = array("i4", "N", "frame at which the track was started", values="range T")
    chunk: np.ndarray = array("i4", "N", "chunk in which the track was started", values="range C")


@dataclass(frozen=True)
class Motion:
    """Which tracks move (paper A.2)."""

    threshold_px: float = attribute("f8", "diameter above which a track moves", unit="px")
    lambda_z: float = attribute("f8", "weight of depth against pixels")
    diameter_px: np.ndarray = array(
        "f4", "N", "largest distance between two visible positions, seen from the reference camera; NaN if never visible", unit="px"
    )
    reference_frame: np.ndarray = array("i4", "N", "frame whose camera is the reference of each track", values="range T")
    moving: np.ndarray = array("u1", "N", "1 when the diameter exceeds the threshold", values="mask")


@dataclass(frozen=True)
class Events:
    """The clip cut where the motion is lowest between two peaks (paper 2.3, A.5)."""

    signal: np.ndarray = array(
        "f4",
        "T",
        "mean acceleration of the moving tracks; NaN where no track moves",
        unit="m/s^2 (relative where geometry says metric = 0)",
        frame="world",
    )
    smoothed: np.ndarray = array(
        "f4", "T", "the signal after Savitzky-Golay smoothing", unit="m/s^2 (relative where geometry says metric = 0)", frame="world"
    )
    peak: np.ndarray = array("i4", "P", "frames of the peaks", values="range T")
    start: np.ndarray = array("i4", "E", "first frame of each event")
    stop: np.ndarray = array("i4", "E", "one past the last frame of each event")


@dataclass(frozen=True)
class Captions:
    """What happens, in words: one caption an event, and summaries over runs of events (paper A.5)."""

    captioner: str = attribute("str", "captioning backend")
    episode_text: str = attribute("str", "the whole clip in one sentence")
    event_start: np.ndarray = array("i4", "E", "first frame of each event")
    event_stop: np.ndarray = array("i4", "E", "one past the last frame of each event")
    event_ok: np.ndarray = array("u1", "E", "1 when the captioner gave a usable answer; the texts are empty otherwise", values="mask")
    event_before: list[str] = array("str", "E", "state of the objects at the start")
    event_interaction: list[str] = array("str", "E", "what happens")
    event_after: list[str] = array("str", "E", "what has changed at the end")
    event_text: list[str] = array("str", "E", "the event in one sentence")
    event_paraphrases: list[list[str]] = array("str", "E paraphrases", "other ways to say it, for training")
    summary_start: np.ndarray = array("i4", "S", "first frame of each summary")
    summary_stop: np.ndarray = array("i4", "S", "one past the last frame of each summary")
    summary_level: np.ndarray = array("i4", "S", "how many events the summary covers")
    summary_text: list[str] = array("str", "S", "the summary in one sentence")


@dataclass(frozen=True)
class Truth:
    """What a simulator knows of its clip: what every pixel shows, and where every body is.

    A body is rigid; bodies that never move against each other (a finger and its pad, the table and the room) share a rigid group.
    With these, the true path of the surface at any pixel follows (`tracekit.ground_truth`).
    """

    simulator: str = attribute("str", "what was simulated with, and its versions")
    environment: str = attribute("str", "the environment, for example metaworld/drawer-open-v3")
    camera: str = attribute("str", "how the camera moved: the name that `simulate --camera` takes")
    seed: int = attribute("i8", "seed of this episode")
    seconds_per_frame: float = attribute("f8", "simulated time between two frames (the video may play slower)", unit="s")
    body_at_pixel: Frames = array("i2", "T H W", "body that each pixel shows; -1 where there is none")
    body_name: list[str] = array("str", "G", "name of each body")
    body_rigid_group: np.ndarray = array("i4", "G", "rigid group of each body, the number of its first body", values="range G")
    body_is_robot: np.ndarray = array("u1", "G", "1 for the parts of the robot", values="mask")
    world_from_body: np.ndarray = array(
        "f8", "T G 4 4", "pose of each body at each frame", unit="m", frame="world from body", values="pose"
    )


@dataclass(frozen=True)
class Episode:
    """Everything that is known of one clip; a stage adds its record. Absent records are None."""

    clip_id: str
    video: Clip
    depth_sensor: DepthSensor | None = None
    camera_sensor: CameraSensor | None = None
    keypoints: Keypoints | None = None
    geometry: Geometry | None = None
    tracks: Tracks | None = None
    motion: Motion | None = None
    events: Events | None = None
    captions: Captions | None = None
    truth: Truth | None = None

    @property
    def depth(self) -> Frames | None:
        """Depth (T, h, w) of the geometry or, where that holds none (as in truth files), what was measured; None where there is neither."""
        if self.geometry is not None and self.geometry.depth is not None:
            return self.geometry.depth
        return self.depth_sensor.depth if self.depth_sensor is not None else None


@dataclass(frozen=True)
class Corpus:
    """Training rows of many episodes (paper 2.4, B.2): a sample is a (clip, reference frame), a row one keypoint of a sample.

    Symbols here: R rows, S samples, L clips, Q captions, h history steps, F future steps (H in the paper), D control points.
    Rows of sample s are offset[s] to offset[s + 1]. u, v are in [-1, 1] of the reference frame (-1 and 1 are the outer edges of
    the image), z in metres; everything is seen from the camera of the reference frame. Entries that are not valid are 0.
    """

    stride_seconds: float = attribute(
        "f8", "time between two steps of history and future; 0 when retargeted, where steps are lengths of path", unit="s"
    )
    retargeted: bool = attribute("u1", "1 when the paths were resampled to constant speed (paper 2.2)")
    metric: bool = attribute("u1", "1 when z is metres in every episode")
    basis: str = attribute("str", "knots of the cubic B-spline: bezier or uniform")
    ridge: float = attribute("f8", "lambda_bsp of Eq. 4")
    clip_limit: float = attribute("f8", "bound on |control_points| after the fit")
    delta_scale: np.ndarray = array(
        "f8", "3", "s_delta of Eq. 3: 95th percentile of |future - current| per axis", unit="(1, 1, m)", path="scales/delta"
    )
    depth_log_range: np.ndarray = array(
        "f8", "2", "1st and 99th percentile of log depth at the anchors", unit="log m", path="scales/depth_log_range"
    )
    clip_name: list[str] = array("str", "L", "clip_id of each episode", path="clips/id")
    clip_uri: list[str] = array("str", "L", "video of each episode", path="clips/uri")
    clip_sha256: list[str] = array("str", "L", "digest of each video", path="clips/sha256")
    sample_clip: np.ndarray = array("i4", "S", "episode of each sample", values="range L", path="samples/clip")
    sample_frame: np.ndarray = array("i4", "S", "reference frame of each sample, in the episode's own count", path="samples/frame")
    sample_source_frame: np.ndarray = array("i4", "S", "the same frame in the count of the source video", path="samples/source_frame")
    sample_offset: np.ndarray = array("i8", "S+1", "first row of each sample, and the number of rows at the end", path="samples/offset")
    current: np.ndarray = array(
        "f4", "R 3", "anchor: (u, v, z) at the reference frame", unit="(1, 1, m)", frame="reference camera", path="rows/current"
    )
    history: np.ndarray = array(
        "f4", "R h 3", "earlier positions minus the anchor, oldest first", unit="(1, 1, m)", frame="reference camera", path="rows/history"
    )
    future: np.ndarray = array(
        "f4", "R F 3", "later positions minus the anchor", unit="(1, 1, m)", frame="reference camera", path="rows/future"
    )
    valid_history: np.ndarray = array("u1", "R h", "1 where history is known", values="mask", path="rows/valid_history")
    valid_future: np.ndarray = array("u1", "R F", "1 where the future is known", values="mask", path="rows/valid_future")
    control_points: np.ndarray = array(
        "f4", "R D 3", "P* of Eq. 4, fitted to future / delta_scale", unit="delta_scale", path="rows/control_points"
    )
    valid_keypoint: np.ndarray = array(
        "u1", "R", "1 when at least D future steps are valid: the row counts in the flow loss", values="mask", path="rows/valid_keypoint"
    )
    entity: np.ndarray = array("i4", "R", "entity of each row, within its clip", path="rows/entity")
    track: np.ndarray = array("i4", "R", "track of each row, within its clip", path="rows/track")
    moving: np.ndarray = array("u1", "R", "1 when the track moves", values="mask", path="rows/moving")
    caption_text: list[str] = array("str", "Q", "captions, summaries and paraphrases", path="captions/text")
    caption_level: np.ndarray = array("i4", "Q", "events that the text covers: 0 for the whole clip", path="captions/level")
    sample_caption_offset: np.ndarray = array("i8", "S+1", "first entry of each sample in sample_caption", path="captions/offset")
    sample_caption: np.ndarray = array(
        "i4", "links", "captions that cover each sample's reference frame", values="range Q", path="captions/link"
    )
    image_offset: np.ndarray | None = array(
        "i8",
        "S+1",
        "first byte of each sample's picture in image_jpeg (with --embed-images; without, pictures are read from the videos)",
        required=False,
        path="images/offset",
    )
    image_jpeg: np.ndarray | None = array("u1", "image_bytes", "JPEG of each reference frame, RGB", required=False, path="images/jpeg")
    depth_offset: np.ndarray | None = array(
        "i8", "S+1", "first byte of each sample's depth in depth_png; no bytes where none is known", required=False, path="depth/offset"
    )
    depth_png: np.ndarray | None = array(
        "u1", "depth_bytes", "16-bit PNG of each reference frame's depth, 0 where unknown", unit="mm", required=False, path="depth/png"
    )


@dataclass(frozen=True)
class Predictions:
    """Predicted traces of keypoints, and the true ones when they are known: all that `evaluate` needs, whoever predicted (paper D.1).

    Symbols here: M samples (a frame and a sentence), R rows (keypoints) over all samples, S draws of the predictor for each row,
    F future steps, h history steps. Positions are absolute: u, v in [-1, 1] of the frame, z metres, all seen from its camera.
    """

    sample_clip: list[str] = array("str", "M", "clip of each sample", path="samples/clip")
    sample_frame: np.ndarray = array("i4", "M", "frame of each sample, in the clip's own count", path="samples/frame")
    sample_caption: list[str] = array("str", "M", "sentence that the predictor was given", path="samples/caption")
    sample: np.ndarray = array("i4", "R", "sample of each row", values="range M", path="rows/sample")
    entity: np.ndarray = array("i4", "R", "entity of each row, within its clip", path="rows/entity")
    moving: np.ndarray = array("u1", "R", "1 when the track moves: only these are scored", values="mask", path="rows/moving")
    anchor: np.ndarray = array("f4", "R 3", "(u, v, z) at the frame", unit="(1, 1, m)", frame="reference camera", path="rows/anchor")
    traces: np.ndarray = array(
        "f4", "R S F 3", "steps 1 to F after the anchor", unit="(1, 1, m)", frame="reference camera", path="prediction/traces"
    )
    validity: np.ndarray | None = array(
        "f4", "R F", "probability that each step exists, as the predictor says", required=False, path="prediction/validity"
    )
    true_traces: np.ndarray | None = array(
        "f4",
        "R F 3",
        "what happened; ignored where not valid",
        unit="(1, 1, m)",
        frame="reference camera",
        required=False,
        path="truth/traces",
    )
    true_valid: np.ndarray | None = array("u1", "R F", "1 where what happened is known", values="mask", required=False, path="truth/valid")
    history: np.ndarray | None = array(
        "f4",
        "R h 3",
        "steps before the anchor, oldest first: what the constant-velocity baseline continues; ignored where not valid",
        unit="(1, 1, m)",
        frame="reference camera",
        required=False,
        path="history/traces",
    )
    history_valid: np.ndarray | None = array("u1", "R h", "1 where history is known", values="mask", required=False, path="history/valid")


@dataclass(frozen=True)
class TraceValues:
    """What `evaluate` measured, trace by trace.

    Symbols here: R scored traces, Q predictors (of the file, and the baselines), K numbers of draws, T horizons. Values are those of the
    best of the first `top` draws, NaN where there is none: the truth is not known, or the prediction holds fewer draws or steps.
    """

    space: str = attribute("str", "coordinates in which distances were taken: uv, uvz or z")
    predictor: list[str] = array("str", "Q", "predictors")
    horizon: np.ndarray = array("i4", "T", "steps that were scored")
    top: np.ndarray = array("i4", "K", "draws of which the best counts")
    row: np.ndarray = array("i4", "R", "row of each trace in the predictions file", path="rows/row")
    clip: list[str] = array("str", "R", "clip of each trace", path="rows/clip")
    sample: np.ndarray = array("i4", "R", "sample of each trace in the predictions file", path="rows/sample")
    num_valid: np.ndarray = array("i4", "R T", "steps within the horizon whose truth is known", path="rows/num_valid")
    ade: np.ndarray | None = array("f4", "R Q K T", "average displacement error", required=False, path="values/ade")
    fde: np.ndarray | None = array("f4", "R Q K T", "final displacement error", required=False, path="values/fde")
    dtw: np.ndarray | None = array("f4", "R Q K T", "dynamic time warping, as asked for", required=False, path="values/dtw")
    dtw_path_mean: np.ndarray | None = array(
        "f4", "R Q K T", "DTW over the length of its path, where `dtw` is over the valid steps", required=False, path="values/dtw_path_mean"
    )
    dtw_valid_steps: np.ndarray | None = array(
        "f4",
        "R Q K T",
        "DTW over the valid steps, where `dtw` is over the length of its path",
        required=False,
        path="values/dtw_valid_steps",
    )
    frechet: np.ndarray | None = array("f4", "R Q K T", "discrete Fréchet distance", required=False, path="values/frechet")
