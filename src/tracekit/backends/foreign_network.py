"""What all backends have in common whose network is a repository: it runs in a process of its own, with weights from a file."""

from __future__ import annotations

import hashlib
from typing import ClassVar

from tracekit.backends.checkouts import Repository, code_files, find_checkout, missing_checkout
from tracekit.backends.protocols import BackendSetup, Facts
from tracekit.backends.weights import Published, get_weights, missing_weights, sha256_of
from tracekit.backends.worker import Worker
from tracekit.errors import UnavailableError


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
        return missing_checkout(cls.repository, setup) or missing_weights(setup, cls.published)

    def weights_sha256(self) -> str:
        return sha256_of(self.weights)

    def code_sha256(self) -> str:
        """Digest of everything but the weights that decides an answer: the Python that runs the network, the code and the configuration of its
        checkout, and what lies beside the weights."""
        digest = hashlib.sha256(self.checkout.python.encode())
        beside = [self.weights.with_name(name) for name in self.published.beside]
        for file in [*code_files(self.repository, self.checkout), *(path for path in beside if path.is_file())]:
            digest.update(f"\n{file.name} ".encode() + hashlib.sha256(file.read_bytes()).digest())
        return digest.hexdigest()

    def close(self) -> None:
        """End the process, and with it all that it holds."""
        self.worker.close()
