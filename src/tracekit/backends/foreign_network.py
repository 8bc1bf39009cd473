"""What all backends have in common whose network is a repository: it runs in a process of its own, with weights from a file."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from tracekit.backends.checkouts import Repository, code_files, find_checkout, missing_checkout, missing_from_python
from tracekit.backends.protocols import BackendSetup, Facts
from tracekit.backends.weights import Published, find_weights, get_weights, missing_weights, sha256_of
from tracekit.backends.worker import Worker
from tracekit.errors import BadDataError, UnavailableError


class ForeignNetwork:
    """Every call answers for itself (`stateless`): the process holds weights and nothing of the clip that decides an answer."""

    name: ClassVar[str]
    facts: ClassVar[Facts]
    stateless: ClassVar[bool] = True
    repository: ClassVar[Repository]
    published: ClassVar[Published]
    network: ClassVar[str]
    """The file of `foreign/` that runs it."""

    def __init__(self, setup: BackendSetup) -> None:
        if reason := self.missing(setup):
            raise UnavailableError(f"backend {self.name} cannot run here: {reason}")
        self.weights = get_weights(setup, self.published)
        checkout = find_checkout(self.repository, setup)
        assert checkout is not None  # nothing is missing
        self.checkout = checkout
        options = {"weights": str(self.weights), "device": setup.device, "seed": setup.seed}
        self.worker = Worker(self.name, self.network, checkout, options, patience=setup.patience)

    @classmethod
    def missing(cls, setup: BackendSetup) -> str | None:
        checkout = find_checkout(cls.repository, setup)
        if checkout is None:
            return missing_checkout(cls.repository, setup)
        weights = find_weights(setup, cls.published)
        reads = ("safetensors",) if str(weights or cls.published.files[0]).endswith(".safetensors") else ()
        # Before the weights: gigabytes are not fetched for what cannot run.
        return missing_from_python(checkout, (*cls.repository.needs, *reads)) or missing_weights(setup, cls.published)

    def weights_sha256(self) -> str:
        return sha256_of(self.weights)

    def code_sha256(self) -> str:
        """Digest of everything but the weights that decides an answer: the Python that runs the network, the code and the configuration of its
        checkout, and what lies beside the weights. Raises UnavailableError for a file that cannot be read."""
        digest = hashlib.sha256(self.checkout.python.encode())
        beside = {name: self.weights.with_name(name) for name in self.published.beside}
        path = self.checkout.folder
        try:
            files = code_files(self.repository, self.checkout) | {name: file for name, file in beside.items() if file.is_file()}
            for name, path in files.items():
                digest.update(f"\n{name} ".encode("utf-8", "surrogateescape") + hashlib.sha256(path.read_bytes()).digest())
        except OSError as error:
            raise UnavailableError(f"{self.name}: {error.filename or path} cannot be read: {error.strerror}") from error
        return digest.hexdigest()

    def part_of(self, answer: Mapping[str, np.ndarray], part: str, shape: tuple[int, ...]) -> np.ndarray:
        """One array of the network's answer. Raises BadDataError unless it is there and has this shape."""
        found = answer.get(part)
        if found is None or found.shape != shape:
            told = f"no {part}" if found is None else f"{part} of the shape {found.shape}"
            raise BadDataError(
                f"{self.name} answered {told}, should be {shape}", hint=f"another version of its repository? {self.repository.url} is meant"
            )
        return found

    def close(self) -> None:
        """End the process, and with it all that it holds."""
        self.worker.close()
