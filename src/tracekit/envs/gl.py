"""Off-screen OpenGL for MuJoCo: which way of drawing works on this machine."""

from __future__ import annotations

import glob
import os
import subprocess
import sys

from tracekit.errors import UnavailableError

_TRIAL = """
import mujoco
context = mujoco.GLContext(16, 16)
context.make_current()
from OpenGL import GL
assert GL.glGetString(GL.GL_RENDERER), "the context draws nothing"
"""
_TRIAL_SECONDS = 60


def choose_gl() -> str:
    """Set MUJOCO_GL for this process and its children, before mujoco is imported; returns "egl" or "osmesa", or what the user has set.

    EGL draws on a GPU where there is one; OSMesa is the quicker of the two on a processor. Each is tried in a process of its own,
    because a failed attempt cannot be undone. Raises UnavailableError when neither works.
    """
    if chosen := os.environ.get("MUJOCO_GL"):
        if failure := _failure(chosen):
            raise UnavailableError(f"MUJOCO_GL={chosen} does not work here: {failure}", hint="unset MUJOCO_GL to let tracekit choose")
        return chosen
    has_gpu = bool(glob.glob("/dev/nvidia[0-9]*") + glob.glob("/dev/dri/renderD*"))
    for candidate in ("egl", "osmesa") if has_gpu else ("osmesa", "egl"):
        if not _failure(candidate):
            os.environ["MUJOCO_GL"] = candidate
            return candidate
    raise UnavailableError(
        "MuJoCo cannot draw here: neither EGL nor OSMesa works",
        hint="on Debian or Ubuntu: apt-get install libosmesa6 (draws on the processor), or libegl1 with the driver of your GPU",
    )


def _failure(backend: str) -> str:
    """Why a picture cannot be drawn this way, in one line; "" when it can."""
    environment = {**os.environ, "MUJOCO_GL": backend}
    if backend in ("egl", "osmesa"):
        environment["PYOPENGL_PLATFORM"] = backend
    try:
        done = subprocess.run([sys.executable, "-c", _TRIAL], env=environment, capture_output=True, text=True, timeout=_TRIAL_SECONDS)
    except subprocess.TimeoutExpired:
        return f"no answer within {_TRIAL_SECONDS} s"
    if done.returncode == 0:
        return ""
    lines = done.stderr.strip().splitlines()
    return lines[-1] if lines else f"exit code {done.returncode}"
