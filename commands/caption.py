"""tracekit caption: say what happens in each event."""

from __future__ import annotations

import dataclasses

from tracekit.extract.caption import PRESETS, CaptionParameters, caption, passed_over
from tracekit.stage import Stage, Work


def run(work: Work) -> None:
    if not work.parameters.task and (task := work.clip.task):
        work.parameters = dataclasses.replace(work.parameters, task=task)
    from tracekit.backends.captioning.chat_server import check_url

    check_url(work.parameters.api_url)  # whatever the captioner: it is recorded, and must hold no password
    captioner = work.backend()
    if captioner.name == "api":
        work.report.note(f"pictures of the events go to {work.parameters.api_url}")
    for owner, flags in passed_over(captioner.name, work.parameters).items():
        work.report.note(f"not used: {', '.join(flags)} (for --captioner {owner}; this is {captioner.name})")
    frames = work.frames() if captioner.looks_at_frames else None
    work.put(caption(work.read_all(), frames, captioner, work.parameters, report=work.report))


command = Stage(
    name="caption",
    about="Say what happens in each event, and sum events up (paper 2.3, A.5).",
    run=run,
    parameters=CaptionParameters,
    presets=PRESETS,
    reads=("video", "keypoints", "geometry", "tracks", "motion", "events"),
    writes=("captions",),
    example="tracekit caption events.h5 -o episode.h5",
    backend_kind="captioning",
    backend_flag="--captioner",
    looks_at_frames=True,
)
