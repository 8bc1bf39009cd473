"""Frame ids and pixels must equal those of a full decode, whatever the file is and however a frame is reached."""

from __future__ import annotations

import dataclasses
import io
import multiprocessing
import os
import pickle
import struct
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from tracekit import video, video_index
from tracekit.errors import BadDataError, ConfigurationError, MissingInputError
from tracekit.report import Report

WIDTH, HEIGHT, COUNT, RATE = 96, 64, 48, 12
REAL = Path(os.environ.get("TRACEKIT_REAL_DATA", Path(__file__).parents[2] / "shared" / "data"))
AS_THEY_ARE = {"avoid_negative_ts": "disabled"}
X264 = {"preset": "veryfast", "g": "12", "bf": "3"}


def picture(number: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """A moving texture: every frame differs from every other, and coders have something to predict."""
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    red = 127 + 100 * np.sin((x + 3 * number) / 9.0)
    green = 127 + 100 * np.sin((y - 2 * number) / 7.0)
    blue = np.full_like(red, (5 * number) % 256)
    return np.stack([red, green, blue], axis=-1).astype(np.uint8)


def encode(
    path: Path,
    codec: str = "libx264",
    options: dict | None = None,
    *,
    times: list[int] | None = None,
    size: tuple[int, int] = (WIDTH, HEIGHT),
    count: int = COUNT,
    pix_fmt: str = "yuv420p",
    container_options: dict | None = None,
) -> Path:
    """Write `count` pictures; `times` are ticks of 1 / (10 RATE) s."""
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=RATE, options=X264 if options is None else options)
        stream.width, stream.height, stream.pix_fmt = *size, pix_fmt
        stream.codec_context.time_base = Fraction(1, 10 * RATE if times else RATE)
        for number in range(count):
            frame = av.VideoFrame.from_ndarray(picture(number, *size), format="rgb24")
            frame.pts, frame.time_base = times[number] if times else number, stream.codec_context.time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def remux(source: Path, target: Path, *, shift: int = 0, drop_first: int = 0, options: dict | None = None) -> Path:
    with av.open(str(source)) as reader, av.open(str(target), "w", options=options or {}) as writer:
        stream = reader.streams.video[0]
        copy = writer.add_stream_from_template(stream)
        for number, packet in enumerate(reader.demux(stream)):
            if packet.size and number >= drop_first:
                packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                packet.stream = copy
                writer.mux(packet)
    return target


def patch_box(path: Path, name: bytes, offset: int, content: bytes) -> Path:
    """Overwrite bytes of an MP4 box, counted from behind its name."""
    data = bytearray(path.read_bytes())
    assert data.count(name) == 1
    start = data.index(name) + 4 + offset
    data[start : start + len(content)] = content
    path.write_bytes(data)
    return path


def rotated(path: Path, degrees: int) -> Path:
    a, b = {0: (1, 0), 90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees]
    matrix = struct.pack(">9i", a << 16, b << 16, 0, -b << 16, a << 16, 0, 0, 0, 1 << 30)
    return patch_box(encode(path), b"tkhd", 40, matrix)


def with_edit_list(path: Path, num_hidden: int) -> Path:
    """Hide the first frames, as cutting without encoding again does."""
    encode(path)
    data = path.read_bytes()
    media_time = struct.unpack_from(">i", data, data.index(b"elst") + 16)[0]
    with av.open(str(path)) as container:
        ticks_a_frame = int(1 / (RATE * container.streams.video[0].time_base))
    return patch_box(path, b"elst", 12, struct.pack(">i", media_time + num_hidden * ticks_a_frame))


def reference(path: Path) -> tuple[list[np.ndarray], list[int | None]]:
    """Plain PyAV, from the first frame to the last."""
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    return [frame.to_ndarray(format="rgb24") for frame in frames], [frame.pts for frame in frames]


def open_gop(path: Path) -> Path:
    return encode(path, options=X264 | {"x264-params": "open-gop=1:b-pyramid=normal:keyint=12:min-keyint=12"})


def irregular_times(count: int = COUNT) -> list[int]:
    return np.cumsum(np.random.default_rng(3).integers(3, 40, count)).tolist()


MAKERS = {
    "h264.mp4": encode,
    "open_gop.mp4": open_gop,
    "edit_list.mp4": lambda path: with_edit_list(path, 7),
    "edit_list_at_key.mp4": lambda path: with_edit_list(path, 12),
    "variable_rate.mp4": lambda path: encode(path, times=irregular_times()),
    "late_start.mkv": lambda path: encode(path, times=[1000 + 10 * number for number in range(COUNT)]),
    "negative_times.ts": lambda path: remux(encode(path.with_suffix(".mp4")), path, shift=-6000, options=AS_THEY_ARE),
    "times_for_some.mkv": lambda path: remux(encode(path.with_suffix(".mp4")), path, shift=-6000, options=AS_THEY_ARE),
    "fragmented.mp4": lambda path: encode(path, container_options={"movflags": "frag_keyframe+empty_moov"}),
    "h264.mkv": encode,
    "open_gop.ts": lambda path: remux(open_gop(path.with_suffix(".mp4")), path),
    "cut_before_a_key.ts": lambda path: remux(encode(path.with_suffix(".mp4")), path, drop_first=5),
    "raw.h264": encode,
    "hevc.mp4": lambda path: encode(path, "libx265", {"x265-params": "log-level=none:keyint=10:bframes=3:open-gop=1"}),
    "hevc.ts": lambda path: encode(path, "libx265", {"x265-params": "log-level=none:keyint=10:bframes=3"}),
    "vp9.webm": lambda path: encode(path, "libvpx-vp9", {"g": "12", "cpu-used": "8", "deadline": "realtime"}),
    "mpeg4.avi": lambda path: encode(path, "mpeg4", {"g": "12", "bf": "2"}),
    "ten_bit.mp4": lambda path: encode(path, pix_fmt="yuv420p10le"),
    "one_frame.mp4": lambda path: encode(path, count=1),
    "two_frames.mp4": lambda path: encode(path, count=2),
    "portrait.mp4": lambda path: encode(path, size=(48, 64)),
    "odd.mkv": lambda path: encode(path, "ffv1", {}, size=(97, 63), pix_fmt="yuv444p"),
}
if "libsvtav1" in av.codecs_available:
    MAKERS["av1.mp4"] = lambda path: encode(path, "libsvtav1", {"preset": "12", "g": "12", "svtav1-params": "lp=1"})


def assert_equal_to_reference(path: Path, frames: video.ClipFrames, clip) -> None:
    pictures, ticks = reference(path)
    pictures = [shown(image, clip) for image in pictures]
    assert clip.num_source_frames == len(pictures) == len(frames)
    assert np.array_equal(clip.source_frame, np.arange(len(pictures)))
    if "counting" not in clip.decoder:
        with av.open(str(path)) as container:
            assert np.allclose(clip.pts, [float(tick * container.streams.video[0].time_base) for tick in ticks], rtol=0, atol=1e-9)
    assert all(np.array_equal(one, other) for one, other in zip(frames[:], pictures, strict=True))
    reopened = video.open_frames(clip)
    for number in np.random.default_rng(0).integers(0, len(pictures), 30):
        reopened._cache.clear()
        assert np.array_equal(reopened[number], pictures[number]), number
    reopened.close()


def shown(image: np.ndarray, clip) -> np.ndarray:
    turned = np.rot90(image, -clip.rotation // 90)
    if turned.shape[:2] != (clip.height, clip.width):
        turned = cv2.resize(turned, (clip.width, clip.height), interpolation=cv2.INTER_AREA)
    return turned


@pytest.mark.parametrize("name", MAKERS)
def test_ids_times_and_pixels_equal_a_full_decode(name, tmp_path):
    path = MAKERS[name](tmp_path / name)
    clip, frames = video.open_clip(path)
    assert_equal_to_reference(path, frames, clip)
    assert clip.num_missing_frames == 0


def test_inputs_are_what_their_names_say(tmp_path):
    def ticks(name):
        return reference(MAKERS[name](tmp_path / name))[1]

    assert len(ticks("edit_list.mp4")) == COUNT - 7
    assert len(set(np.diff(ticks("variable_rate.mp4")))) > 5
    assert min(ticks("negative_times.ts")) < 0
    assert None in ticks("raw.h264")
    assert 0 < ticks("times_for_some.mkv").count(None) < COUNT
    assert len(ticks("cut_before_a_key.ts")) < COUNT - 5
    with av.open(str(tmp_path / "edit_list.mp4")) as container:
        assert any(packet.is_discard for packet in container.demux(video=0))


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_rotation_tag_is_applied_clockwise(degrees, tmp_path):
    path = rotated(tmp_path / "rotated.mp4", degrees)
    clip, frames = video.open_clip(path)
    assert clip.rotation == degrees
    assert (clip.source_width, clip.source_height) == ((HEIGHT, WIDTH) if degrees % 180 else (WIDTH, HEIGHT))
    assert frames.shape == (COUNT, clip.source_height, clip.source_width, 3)
    turns = {0: lambda image: image, 90: lambda image: image.transpose(1, 0, 2)[:, ::-1], 180: lambda image: image[::-1, ::-1]}
    turns[270] = lambda image: image.transpose(1, 0, 2)[::-1]
    assert np.array_equal(frames[5], turns[degrees](reference(path)[0][5]))
    # OpenCV follows the tag, too, and is not PyAV.
    capture = cv2.VideoCapture(str(path))
    peer = cv2.cvtColor(capture.read()[1], cv2.COLOR_BGR2RGB)
    assert peer.shape == frames[0].shape and np.abs(peer.astype(int) - frames[0]).mean() < 3


def test_only_the_packets_are_read_where_they_are_proven_to_tell(tmp_path, monkeypatch):
    path = encode(tmp_path / "long.mp4", count=200)
    decoded = []
    original = video_index._decode
    monkeypatch.setattr(video_index, "_decode", lambda *args, **kwargs: decoded.append(kwargs) or original(*args, **kwargs))
    clip, _ = video.open_clip(path)
    assert clip.num_source_frames == 200
    assert decoded == [{"stop_after": 16}]


def test_chunks_that_overlap_decode_each_frame_once(tmp_path, monkeypatch):
    from tracekit import video_pyav

    path = encode(tmp_path / "v.mp4", count=120)
    _, frames = video.open_clip(path)
    yielded = []
    original = video_pyav.decoded_frames

    def counted(*args, **kwargs):
        for frame in original(*args, **kwargs):
            yielded.append(frame.pts)
            yield frame

    monkeypatch.setattr(video_pyav, "decoded_frames", counted)
    for start in range(0, 120, 20):
        frames[max(0, start - 1) : start + 20]
    assert len(yielded) == len(set(yielded)) == 120


@pytest.mark.parametrize("name", ["v.mp4", "v.mkv"])
def test_far_jumps_skip_what_lies_between(name, tmp_path, monkeypatch):
    from tracekit import video_pyav

    path = encode(tmp_path / name, count=240)
    _, frames = video.open_clip(path)
    frames[0]
    yielded = []
    original = video_pyav.decoded_frames

    def counted(*args, **kwargs):
        for frame in original(*args, **kwargs):
            yielded.append(frame.pts)
            yield frame

    monkeypatch.setattr(video_pyav, "decoded_frames", counted)
    picked = frames[[200, 100, 3]]
    assert len(yielded) < 40
    pictures = reference(path)[0]
    assert all(np.array_equal(one, pictures[number]) for one, number in zip(picked, (200, 100, 3), strict=True))


@pytest.mark.parametrize("group", ["2", "250"])
def test_seeks_and_long_runs_may_alternate(group, tmp_path):
    path = encode(tmp_path / "v.mp4", options=X264 | {"g": group}, count=300)
    _, frames = video.open_clip(path)
    pictures = reference(path)[0]
    for index in (290, 17, slice(100, 280), 5, 299, slice(20, 90), slice(60, 200)):
        frames._cache.clear()
        assert np.array_equal(frames[index], pictures[index]), index


def test_indexing_is_that_of_an_array(tmp_path):
    _, frames = video.open_clip(encode(tmp_path / "v.mp4", count=20))
    everything = frames[:]
    assert everything.dtype == np.uint8 and everything.shape == frames.shape
    for index in (-1, slice(3, 9), slice(18, 30), slice(5, 5), slice(None, None, 7), [4, 1, 4], np.int64(3)):
        assert np.array_equal(frames[index], everything[index])
    for index in (20, -21):
        with pytest.raises(IndexError):
            frames[index]
    frames[0][:] = 0
    frames[0:2][:] = 0
    assert np.array_equal(frames[0:2], everything[0:2])


def test_the_cache_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(video, "_CACHE_BYTES", 5 * WIDTH * HEIGHT * 3)
    _, frames = video.open_clip(encode(tmp_path / "v.mp4"))
    frames[:]
    assert len(frames._cache) == 5


@pytest.mark.parametrize("fps", [12.0, 8.0, 6.0, 5.0, 3.3, 1.0, 0.01])
@pytest.mark.parametrize("name", ["h264.mp4", "variable_rate.mp4"])
def test_thinning_keeps_the_frames_nearest_to_a_uniform_grid(name, fps, tmp_path):
    path = MAKERS[name](tmp_path / name)
    every, _ = video.open_clip(path)
    if fps > every.fps:
        pytest.skip("more than the video has")
    clip, frames = video.open_clip(path, fps=fps)
    expected = []
    for step in range(10**6):
        time = every.pts[0] + step / fps
        if time >= every.pts[-1] + 0.5 / every.fps - 1e-9:
            break
        distance = np.abs(every.pts - time)
        nearest = int(np.flatnonzero(distance <= distance.min() + 1e-9)[0])
        if nearest not in expected:
            expected.append(nearest)
    assert clip.source_frame.tolist() == expected
    assert np.array_equal(clip.pts, every.pts[expected])
    assert clip.num_source_frames == COUNT
    pictures = reference(path)[0]
    assert all(np.array_equal(one, pictures[number]) for one, number in zip(frames[:], expected, strict=True))
    if len(expected) > 1:
        assert clip.fps == pytest.approx((len(expected) - 1) / (clip.pts[-1] - clip.pts[0]))


def test_asking_for_more_frames_than_there_are_keeps_all_and_says_so(tmp_path):
    report = Report()
    clip, _ = video.open_clip(encode(tmp_path / "v.mp4"), fps=60, report=report)
    assert len(clip.pts) == COUNT and clip.fps == pytest.approx(RATE)
    assert "60" in report.notes[0] and "12" in report.notes[0]


@pytest.mark.parametrize(
    ("size", "max_size", "expected"),
    [((96, 64), 0, (96, 64)), ((96, 64), 48, (48, 32)), ((96, 64), 500, (96, 64)), ((64, 96), 33, (22, 32)), ((97, 63), 0, (96, 62))],
)
def test_processed_grid_is_even_and_never_larger(size, max_size, expected, tmp_path):
    path = encode(tmp_path / "v.mkv", "ffv1", {}, size=size, pix_fmt="yuv444p", count=3)
    clip, frames = video.open_clip(path, max_size=max_size)
    assert (clip.width, clip.height) == expected and (clip.source_width, clip.source_height) == size
    assert np.array_equal(frames[1], shown(reference(path)[0][1], clip))


@pytest.mark.parametrize("name", ["ünï cödé ✓.mp4", "-leading dash.mp4", "concat:a|b.mp4", "http:%2F%2Fx%03d.mp4", "a b\tc.mp4"])
def test_any_file_name_works(name, tmp_path, monkeypatch):
    path = tmp_path / name
    path.write_bytes(encode(tmp_path / "plain.mp4", count=3).read_bytes())
    monkeypatch.chdir(tmp_path)
    clip, frames = video.open_clip(name)
    assert clip.uri == str(path) and frames[:].shape[0] == 3


def test_a_playlist_cannot_make_us_open_another_file(tmp_path):
    encode(tmp_path / "secret.mp4")
    playlist = "#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\nsecret.mp4\n#EXT-X-ENDLIST\n"
    lists = {"list.m3u8": playlist, "list.mp4": "ffconcat version 1.0\nfile secret.mp4\n"}
    for name, content in lists.items():
        (tmp_path / name).write_text(content)
        with pytest.raises(BadDataError):
            video.open_clip(tmp_path / name)


def audio_only(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 16000, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def test_what_is_no_video_is_named(tmp_path, capfd):
    whole = encode(tmp_path / "whole.mp4")
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("not a video at all" * 100)
    (tmp_path / "no_index.mp4").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    (tmp_path / "folder").mkdir()
    audio_only(tmp_path / "song.m4a")
    capfd.readouterr()
    reasons = {"empty.mp4": "0 bytes", "text.mp4": "no kind of video", "no_index.mp4": "moov", "song.m4a": "no video stream"}
    reasons["folder"] = "no image"
    for name, reason in reasons.items():
        with pytest.raises(BadDataError, match=reason) as caught:
            video.open_clip(tmp_path / name)
        assert name in str(caught.value) and caught.value.exit_code == 65
    with pytest.raises(MissingInputError, match=r"gone\.mp4") as missing:
        video.open_clip(tmp_path / "gone.mp4")
    assert missing.value.exit_code == 66
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("fault", [{"fps": 0}, {"fps": float("nan")}, {"max_size": -1}, {"source_fps": -3}, {"decoder": "other"}])
def test_arguments_are_checked_before_the_file_is_touched(fault, tmp_path):
    with pytest.raises(ConfigurationError):
        video.open_clip(tmp_path / "gone.mp4", **fault)


def truncated(source: Path, share: float) -> Path:
    target = source.with_stem("truncated")
    target.write_bytes(source.read_bytes()[: int(source.stat().st_size * share)])
    return target


@pytest.mark.parametrize("name", ["v.mp4", "v.mkv"])
def test_truncated_video_is_refused_or_counted(name, tmp_path, capfd):
    whole = encode(tmp_path / name, container_options={"movflags": "faststart"} if name == "v.mp4" else None)
    path = truncated(whole, 0.6)
    capfd.readouterr()
    with pytest.raises(BadDataError, match=rf"has {COUNT} frames but only \d+ could be decoded") as caught:
        video.open_clip(path)
    assert "--allow-partial" in caught.value.hint
    report = Report()
    clip, frames = video.open_clip(path, allow_partial=True, report=report)
    assert 0 < len(clip.pts) < COUNT and len(clip.pts) + clip.num_missing_frames == COUNT
    assert list(report.counts.values()) == [clip.num_missing_frames]
    pictures, ticks = reference(whole)
    with av.open(str(whole)) as container:
        seconds = [float(tick * container.streams.video[0].time_base) for tick in ticks]
    for image, time in zip(frames[:], clip.pts, strict=True):
        assert np.array_equal(image, pictures[int(np.argmin(np.abs(np.array(seconds) - time)))])
    assert capfd.readouterr() == ("", "")


def test_truncated_mpeg_ts_is_refused_or_counted(tmp_path):
    # A transport stream promises nothing; but its last picture is cut in the middle.
    path = encode(tmp_path / "v.ts", options=X264 | {"crf": "1"})
    with av.open(str(path)) as container:
        starts = sorted(packet.pos for packet in container.demux(video=0) if packet.pos is not None)
    # The encoder's threads change the sizes from run to run: a fixed share of the bytes may end where a picture does.
    path.write_bytes(path.read_bytes()[: (starts[30] + starts[31]) // 2])
    with pytest.raises(BadDataError, match="could be decoded"):
        video.open_clip(path)
    clip, frames = video.open_clip(path, allow_partial=True)
    assert clip.num_missing_frames >= 1 and frames[:].shape[0] == len(clip.pts)


def test_damage_in_the_middle_is_found_when_it_is_reached(tmp_path, capfd):
    whole = encode(tmp_path / "v.mp4", options=X264 | {"crf": "10"}, count=60)
    with av.open(str(whole)) as container:
        packet = list(container.demux(video=0))[30]
    data = bytearray(whole.read_bytes())
    data[packet.pos + 20 : packet.pos + packet.size] = bytes(packet.size - 20)
    path = tmp_path / "damaged.mp4"
    path.write_bytes(data)
    capfd.readouterr()
    with pytest.raises(BadDataError, match=r"has 60 frames but only \d+ could be decoded"):
        video.open_clip(path)[1][:]
    with pytest.raises(BadDataError):
        # Thinning must not hide it: frame ids behind the damage would differ from the reference decode's.
        video.open_clip(path, fps=RATE / 2)[1][:]
    clip, frames = video.open_clip(path, allow_partial=True)
    assert clip.num_missing_frames == 60 - len(clip.pts) > 0
    assert len(frames[:]) == len(clip.pts)
    assert capfd.readouterr() == ("", "")


def write_images(folder: Path, names: list[str], size: tuple[int, int] = (64, 48)) -> list[np.ndarray]:
    folder.mkdir()
    pictures = [picture(number, *size) for number in range(len(names))]
    for name, image in zip(names, pictures, strict=True):
        cv2.imwrite(str(folder / name), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    return pictures


def test_folder_of_images_in_natural_order(tmp_path):
    pictures = write_images(tmp_path / "rgb", [f"frame_{number}.png" for number in range(12)])
    (tmp_path / "rgb" / "notes.txt").write_text("not an image")
    (tmp_path / "rgb" / ".hidden.png").write_bytes(b"")
    clip, frames = video.open_clip(tmp_path / "rgb", source_fps=5)
    assert np.array_equal(frames[:], pictures)
    assert clip.pts.tolist() == [number / 5 for number in range(12)] and clip.fps == pytest.approx(5)
    assert clip.decoder.startswith("images ") and clip.uri == str(tmp_path / "rgb")
    thinned, half = video.open_clip(tmp_path / "rgb", source_fps=5, fps=2.5)
    assert thinned.source_frame.tolist() == [0, 2, 4, 6, 8, 10] and np.array_equal(video.open_frames(thinned)[:], pictures[::2])
    assert np.array_equal(half[2], pictures[4])


def test_images_of_sixteen_bits_and_of_grey(tmp_path):
    ramp = np.linspace(0, 65535, 48 * 64).reshape(48, 64).astype(np.uint16)
    (tmp_path / "d").mkdir()
    cv2.imwrite(str(tmp_path / "d" / "0.png"), ramp)
    cv2.imwrite(str(tmp_path / "d" / "1.png"), (ramp >> 8).astype(np.uint8))
    _, frames = video.open_clip(tmp_path / "d")
    for number in (0, 1):
        assert np.abs(frames[number].astype(int) - (ramp / 257.0)[..., None]).max() <= 1


def test_faults_of_folders_are_named(tmp_path):
    write_images(tmp_path / "a", ["0.png", "1.png"])
    cv2.imwrite(str(tmp_path / "a" / "2.png"), np.zeros((48, 66, 3), np.uint8))
    with pytest.raises(BadDataError, match=r"2\.png is 66 x 48 pixels, but 0\.png is 64 x 48"):
        video.open_clip(tmp_path / "a")
    pictures = write_images(tmp_path / "b", ["0.png", "1.png", "2.png"])
    (tmp_path / "b" / "1.png").write_bytes(b"\x89PNG broken")
    with pytest.raises(BadDataError, match=r"1\.png cannot be decoded"):
        video.open_clip(tmp_path / "b")
    clip, frames = video.open_clip(tmp_path / "b", allow_partial=True)
    assert clip.num_missing_frames == 1 and clip.source_frame.tolist() == [0, 2]
    assert np.array_equal(frames[:], [pictures[0], pictures[2]])


def test_reopening_finds_a_video_that_moved_and_refuses_one_that_changed(tmp_path):
    clip, frames = video.open_clip(encode(tmp_path / "v.mp4"), fps=6, max_size=48)
    everything = frames[:]
    (tmp_path / "elsewhere").mkdir()
    moved = (tmp_path / "v.mp4").rename(tmp_path / "elsewhere" / "v.mp4")
    with pytest.raises(MissingInputError, match=r"--video") as missing:
        video.open_frames(clip, search=[tmp_path / "other"])
    assert str(tmp_path) in str(missing.value) and str(tmp_path / "other") in str(missing.value)
    assert np.array_equal(video.open_frames(clip, search=[tmp_path / "elsewhere"])[:], everything)
    assert np.array_equal(video.open_frames(clip, search=[moved])[3:5], everything[3:5])
    moved.write_bytes(moved.read_bytes() + b"\0")
    with pytest.raises(BadDataError, match="changed"):
        video.open_frames(clip, search=[tmp_path / "elsewhere"])
    embedded = dataclasses.replace(clip, frames=everything)
    assert video.open_frames(embedded) is everything


def test_a_changed_image_folder_is_noticed(tmp_path):
    write_images(tmp_path / "rgb", ["0.png", "1.png"])
    clip, _ = video.open_clip(tmp_path / "rgb")
    video.open_frames(clip)
    (tmp_path / "rgb" / "0.png").rename(tmp_path / "rgb" / "5.png")
    with pytest.raises(BadDataError, match="changed"):
        video.open_frames(clip)


def _last_frame(frames, queue):
    queue.put(frames[len(frames) - 1])


def test_another_process_opens_the_video_for_itself(tmp_path):
    path = encode(tmp_path / "v.mp4")
    _, frames = video.open_clip(path)
    frames[0:5]
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    child = context.Process(target=_last_frame, args=(frames, queue))
    child.start()
    received = queue.get(timeout=60)
    child.join()
    assert np.array_equal(received, frames[COUNT - 1])
    assert np.array_equal(pickle.loads(pickle.dumps(frames))[7:9], frames[7:9])


def test_a_forked_process_opens_the_video_for_itself(tmp_path):
    """In a process that holds nothing but the video: forking one with threads of other libraries is never safe."""
    path = encode(tmp_path / "v.mp4")
    script = (
        "import os, sys\nfrom tracekit import video\n"
        "_, frames = video.open_clip(sys.argv[1])\nexpected = frames[0:5].sum(), frames[40].sum()\nframes[10]\n"
        "child = os.fork()\n"
        "if child == 0: os._exit(0 if (frames[0:5].sum(), frames[40].sum()) == expected else 1)\n"
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))"
    )
    assert subprocess.run([sys.executable, "-c", script, str(path)], timeout=60).returncode == 0


def test_decord_is_guarded_and_agrees_where_it_is_allowed(tmp_path):
    pytest.importorskip("decord")
    clip, frames = video.open_clip(encode(tmp_path / "h264.mp4", container_options={"use_editlist": "0"}), decoder="decord")
    assert clip.decoder.startswith("decord ")
    pictures, _ = reference(tmp_path / "h264.mp4")
    for number in (0, 40, 3, 47, 12):
        assert np.abs(frames[number].astype(int) - pictures[number]).mean() < 1
    refused = {"edit_list.mp4": "edit list", "hevc.mp4": "hevc", "open_gop.ts": "mpegts", "raw.h264": "h264", "negative_times.ts": "mpegts"}
    for name, reason in refused.items():
        with pytest.raises(ConfigurationError, match=reason):
            video.open_clip(MAKERS[name](tmp_path / name), decoder="decord")
    with pytest.raises(ConfigurationError, match="rotation"):
        video.open_clip(rotated(tmp_path / "r.mp4", 90), decoder="decord")


@pytest.mark.parametrize("size", [(64, 48), (65, 49)])
def test_written_video_has_every_frame_and_short_groups(size, tmp_path):
    path = tmp_path / "-out é.mp4"
    number = video.write_video(path, (picture(number, *size) for number in range(31)), 29.97)
    clip, frames = video.open_clip(path)
    assert number == clip.num_source_frames == 31
    assert (clip.width, clip.height) == (size[0] + size[0] % 2, size[1] + size[1] % 2)
    assert clip.fps == pytest.approx(29.97, rel=1e-4) and clip.pts[0] == 0
    for index in (0, 13, 30):
        assert np.abs(frames[index][: size[1], : size[0]].astype(int) - picture(index, *size)).mean() < 6
    with av.open(f"file:{path}") as container:
        assert sum(packet.is_keyframe for packet in container.demux(video=0) if packet.size) == 16


def test_video_is_written_to_streams(tmp_path):
    class Pipe(io.RawIOBase):
        def __init__(self):
            self.content = bytearray()

        def writable(self):
            return True

        def write(self, data):
            self.content += bytes(data)
            return len(data)

    seekable, pipe = io.BytesIO(), Pipe()
    for stream in (seekable, pipe):
        video.write_video(stream, [picture(number) for number in range(5)], 10)
    for name, content in (("a.mp4", seekable.getvalue()), ("b.mp4", pipe.content)):
        (tmp_path / name).write_bytes(content)
        assert video.open_clip(tmp_path / name)[0].num_source_frames == 5
    with pytest.raises(BadDataError, match="no frames"):
        video.write_video(io.BytesIO(), [], 10)


@pytest.mark.skipif(not REAL.is_dir(), reason="real recordings are not here")
@pytest.mark.parametrize(("name", "count", "fps"), [("sheep.mp4", 120, 10.0), ("robot_unitree.mp4", 174, 49.4)])
def test_real_videos_agree_with_opencv(name, count, fps):
    clip, frames = video.open_clip(REAL / name)
    assert clip.num_source_frames == count and clip.fps == pytest.approx(fps, rel=0.02)
    capture = cv2.VideoCapture(str(REAL / name))
    for start in range(0, count, 40):
        for image in frames[start : start + 40]:
            assert np.abs(cv2.cvtColor(capture.read()[1], cv2.COLOR_BGR2RGB).astype(int) - image).mean() < 2
    assert not capture.read()[0]


@pytest.mark.skipif(not REAL.is_dir(), reason="real recordings are not here")
def test_real_folder_of_images():
    _, frames = video.open_clip(REAL / "bridge_drawer" / "rgb", max_size=320)
    assert frames.shape == (35, 240, 320, 3)
    path = video.list_images(REAL / "bridge_drawer" / "rgb")[20]
    expected = cv2.cvtColor(cv2.resize(cv2.imread(str(path)), (320, 240), interpolation=cv2.INTER_AREA), cv2.COLOR_BGR2RGB)
    assert np.array_equal(frames[20], expected)
