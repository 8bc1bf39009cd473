"""Where files of episodes go: each into a folder, or all into one file."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from tracekit.errors import CannotCreateError
from tracekit.format.atomic import check_can_create, sweep
from tracekit.format.atomic_folder import scratch_folder
from tracekit.format.demos import merge_demos
from tracekit.format.provenance import Step
from tracekit.rollouts.episode import Episode, EpisodeResult
from tracekit.rollouts.recording import RecordingPlan

_ONE_FILE = (".h5", ".hdf5")


class Outputs:
    """Files of demonstrations and videos, if they are asked for. A path of demonstrations that ends in .h5 or .hdf5 is one file for all."""

    def __init__(self, demos: Path | None, videos: Path | None, *, force: bool) -> None:
        self._demos, self._videos, self._force = demos, videos, force
        self._is_one_file = demos is not None and demos.suffix in _ONE_FILE
        self._parts = None if self._is_one_file else demos
        """The folder with a file for each episode."""
        self._scratch = contextlib.ExitStack()

    def check(self, episodes: Sequence[Episode]) -> None:
        """Before any work: make the folders. Raises CannotCreateError when something is in the way."""
        if self._is_one_file:
            assert self._demos is not None
            check_can_create(self._demos, force=self._force)
            self._parts = self._scratch.enter_context(scratch_folder(self._demos))
        folders = [(None if self._is_one_file else self._demos, ".h5"), (self._videos, ".mp4")]
        for folder, suffix in folders:
            if folder is None:
                continue
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise CannotCreateError(f"cannot create the folder {folder}: {error.strerror}") from None
            for episode in episodes:
                check_can_create(folder / f"{episode.name}{suffix}", force=self._force)

    def recording(self, step: Step) -> RecordingPlan:
        """What the processes of the environments are to write. `step` says how it came about."""
        return RecordingPlan(self._parts, self._videos, step)

    def finish(self, episodes: Sequence[Episode], results: Sequence[EpisodeResult], step: Step) -> None:
        """Put the episodes that were run to their end into one file, if that is asked for.

        Raises CannotCreateError when somebody else has made it in the meantime, StorageError when the disk fails.
        """
        if self._is_one_file and self._demos is not None and self._parts is not None:
            run = [episode for episode, result in zip(episodes, results, strict=True) if not result.error]
            sources = {episode.name: self._parts / f"{episode.name}.h5" for episode in run}
            if sources:
                names = list(dict.fromkeys(episode.env.name for episode in run))
                merge_demos(self._demos, sources, names, step, force=self._force)

    def clean_up(self) -> None:
        """However it ended: no parts and no temporaries are left."""
        self._scratch.close()
        for folder in (self._demos, self._videos):
            if folder is not None and folder.is_dir():
                sweep(folder)
