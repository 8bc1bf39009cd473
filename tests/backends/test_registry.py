"""What a backend does not take is never passed over in silence."""

import pytest

from tracekit.backends import registry
from tracekit.backends.protocols import BackendSetup
from tracekit.errors import UnavailableError, UsageError
from tracekit.report import Report

WITHOUT_WEIGHTS = [
    ("features", "lowlevel"),
    ("reconstruction", "sensor"),
    ("reconstruction", "planar"),
    ("tracking", "klt"),
    ("captioning", "api"),
    ("captioning", "template"),
]


@pytest.mark.parametrize("kind, name", WITHOUT_WEIGHTS)
def test_weights_for_a_backend_that_has_none_are_refused(kind, name):
    with pytest.raises(UsageError, match=f"{name} has no weights: it takes no --weights"):
        registry.create(kind, name, BackendSetup(weights="some.pth"), Report())


@pytest.mark.parametrize("kind, name", [*WITHOUT_WEIGHTS, ("features", "dinov2"), ("reconstruction", "depth-anything")])
def test_a_checkout_for_a_backend_that_runs_none_is_refused(kind, name, tmp_path):
    with pytest.raises(UsageError, match=f"{name} runs no repository: it takes no --repo"):
        registry.create(kind, name, BackendSetup(repo=str(tmp_path)), Report())


def test_auto_passes_over_backends_that_would_ignore_what_was_given(tmp_path):
    with pytest.raises(UnavailableError) as refusal:
        registry.create("tracking", "auto", BackendSetup(repo=str(tmp_path)), Report())
    assert "klt: runs no repository" in refusal.value.hint and f"{tmp_path} is no checkout" in refusal.value.hint
