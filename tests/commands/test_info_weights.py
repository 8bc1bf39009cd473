"""tracekit info FILE: which weights a step ran with."""

from tracekit.commands.info import show


def test_weights_are_shown_beside_the_backend_that_ran_with_them(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    step = {"command": "keypoints", "version": "1", "time": "now", "seed": 0, "counts": {}, "parameters": {}}
    steps = [{**step, "backend": "dinov2", "weights_sha256": "0123456789abcdef" * 4}, {**step, "backend": "klt", "weights_sha256": ""}]
    steps += [{**step, "backend": "vggt", "weights_sha256": "a" * 64, "code_sha256": "b" * 64}]
    report = {"file": "a.h5", "format": "episode", "format_version": 1, "bytes": 1, "valid": None, "clip_id": "a"}
    show({**report, "groups": {}, "captions": [], "unknown": [], "provenance": steps})
    out = capsys.readouterr().out
    assert "dinov2 (0123456789ab) " in out and "klt " in out and "klt (" not in out and f"vggt ({'a' * 12}, code {'b' * 12}) " in out
