import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tracekit.backends.features.dinov2 import DinoV2
from tracekit.backends.protocols import BackendSetup
from tracekit.backends.registry import load
from tracekit.errors import BadDataError, UnavailableError

ARCHITECTURE = "vit_small_patch14_dinov2"
SMALL = {"depth": 2, "embed_dim": 48, "num_heads": 3}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The real class of timm, two blocks deep, with random weights, in the layout of the hub."""
    import timm
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    model = timm.create_model(ARCHITECTURE, pretrained=False, num_classes=0, **SMALL)
    # Random blocks mix places only faintly: larger weights make attention a part of what is tested.
    state = {name: value + 0.05 * torch.randn_like(value) for name, value in model.state_dict().items()}
    path = tmp_path_factory.mktemp("dinov2")
    save_file(state, path / "model.safetensors")
    (path / "config.json").write_text(json.dumps({"architecture": ARCHITECTURE, "model_args": SMALL}))
    return path


@pytest.fixture(scope="module")
def backend(folder):
    return DinoV2(BackendSetup(weights=str(folder)))


@pytest.fixture
def no_cache(tmp_path, monkeypatch):
    """A machine whose hub cache is empty."""
    for name in ("HF_HUB_OFFLINE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.mark.parametrize(
    ("height", "width", "rows", "columns"), [(480, 640, 28, 37), (406, 724, 21, 37), (640, 360, 37, 21), (50, 50, 37, 37)]
)
def test_the_longer_side_has_37_patches(backend, height, width, rows, columns):
    features = backend.describe(np.zeros((2, height, width, 3), np.uint8)).features
    assert features.shape == (2, rows, columns, 48)
    assert features.dtype == np.float32
    assert np.isfinite(features).all()


@pytest.mark.parametrize("shape", [(480, 640), (333, 500)])
def test_a_patch_describes_its_own_place(backend, shape):
    """A bright square changes the features of the patches it covers the most: rows, columns and channels are not mixed up."""
    dark = np.full((1, *shape, 3), 90, np.uint8)
    before = backend.describe(dark).features[0]
    rows, columns = before.shape[:2]
    for row, column in ((0, 0), (0, columns - 2), (rows - 2, 0), (rows - 2, columns - 2), (9, 21)):
        lit = dark.copy()
        top, bottom = round(row * shape[0] / rows), round((row + 2) * shape[0] / rows)
        left, right = round(column * shape[1] / columns), round((column + 2) * shape[1] / columns)
        lit[0, top:bottom, left:right] = 255
        change = np.linalg.norm(backend.describe(lit).features[0] - before, axis=-1)
        most = {tuple(place) for place in np.argwhere(change >= np.sort(change.ravel())[-4]).tolist()}
        assert most == {(row + i, column + j) for i in (0, 1) for j in (0, 1)}


def test_equals_timm_called_by_hand(backend, folder):
    """ImageNet normalisation, all patch tokens of the last block, the final norm: at the size where nothing is resized."""
    import timm
    import torch
    from safetensors.torch import load_file

    frame = np.random.default_rng(0).integers(0, 256, (28 * 14, 37 * 14, 3)).astype(np.uint8)
    model = timm.create_model(ARCHITECTURE, pretrained=False, num_classes=0, dynamic_img_size=True, **SMALL).eval()
    model.load_state_dict(load_file(folder / "model.safetensors"))
    pixels = (torch.from_numpy(frame).float() / 255 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    with torch.inference_mode():
        tokens = model.forward_features(pixels.permute(2, 0, 1)[None])[0, 1:]
    found = backend.describe(frame[None]).features[0]
    np.testing.assert_allclose(found, tokens.reshape(28, 37, 48).numpy(), atol=2e-4)


def test_a_frame_is_described_alike_alone_and_among_others(backend):
    frames = np.random.default_rng(1).integers(0, 256, (3, 60, 80, 3)).astype(np.uint8)
    np.testing.assert_array_equal(backend.describe(frames).features[1:2], backend.describe(frames[1:2]).features)


@pytest.mark.slow
def test_a_bare_file_says_by_its_shapes_what_it_is(tmp_path):
    import timm
    import torch
    from safetensors.torch import save_file

    for architecture, file, save in (
        ("vit_small_patch14_dinov2", tmp_path / "weights.safetensors", save_file),
        ("vit_small_patch14_reg4_dinov2", tmp_path / "weights.pth", torch.save),
    ):
        shapes = timm.create_model(architecture, pretrained=False, num_classes=0, weight_init="skip").state_dict()
        state = {name: torch.rand_like(value) for name, value in shapes.items()}
        save(state, file)
        loaded = DinoV2(BackendSetup(weights=str(file)))
        assert loaded.describe(np.zeros((1, 20, 40, 3), np.uint8)).features.shape == (1, 18, 37, 384)
        for name, value in loaded.model.state_dict().items():
            torch.testing.assert_close(value, state[name], rtol=0, atol=0)


def test_the_digest_is_that_of_the_weights(backend, folder):
    digest = subprocess.run(["sha256sum", folder / "model.safetensors"], capture_output=True, text=True, check=True).stdout.split()[0]
    assert backend.weights_sha256() == digest


def test_without_weights_it_says_how_to_get_them(no_cache, tmp_path, monkeypatch):
    sentence = DinoV2.missing(BackendSetup())
    assert "timm/vit_base_patch14_dinov2.lvd142m" in sentence
    assert "--download" in sentence
    assert "timm/vit_large_patch14_dinov2.lvd142m" in DinoV2.missing(BackendSetup(weights="vit_large_patch14_dinov2.lvd142m"))
    assert DinoV2.missing(BackendSetup(download=True)) is None
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "HF_HUB_OFFLINE" in DinoV2.missing(BackendSetup(download=True))
    assert "there are no weights at" in DinoV2.missing(BackendSetup(weights=str(tmp_path / "absent"), download=True))
    with pytest.raises(UnavailableError, match="cannot run here"):
        DinoV2(BackendSetup())


def test_weights_in_the_cache_of_the_hub_are_found(no_cache, folder, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    repository = no_cache / "models--timm--vit_base_patch14_dinov2.lvd142m"
    snapshot = repository / "snapshots" / "0123abcd"
    (repository / "refs").mkdir(parents=True)
    snapshot.mkdir(parents=True)
    (repository / "refs" / "main").write_text("0123abcd")
    (snapshot / "config.json").symlink_to(folder / "config.json")
    assert DinoV2.missing(BackendSetup()) is not None, "a configuration without weights is not enough"
    (snapshot / "model.safetensors").symlink_to(folder / "model.safetensors")
    assert DinoV2.missing(BackendSetup()) is None
    assert DinoV2(BackendSetup()).model.num_features == 48


def test_finding_out_what_is_missing_is_cheap(no_cache):
    code = (
        "import sys\n"
        "from tracekit.backends.features.dinov2 import DinoV2\n"
        "from tracekit.backends.protocols import BackendSetup\n"
        "assert DinoV2.missing(BackendSetup())\n"
        "assert not {'torch', 'timm', 'huggingface_hub', 'safetensors'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def damaged(folder: Path, tmp_path: Path, kind: str) -> Path:
    weights, config = (folder / "model.safetensors").read_bytes(), (folder / "config.json").read_text()
    (tmp_path / "model.safetensors").write_bytes(weights[: len(weights) // 2] if kind == "truncated" else weights)
    if kind == "other model":
        config = json.dumps({"architecture": ARCHITECTURE, "model_args": SMALL | {"depth": 3}})
    if kind == "unknown":
        config = json.dumps({"architecture": "vit_imaginary_dinov2"})
    (tmp_path / "config.json").write_text("{" if kind == "configuration" else config)
    return tmp_path


@pytest.mark.parametrize("kind", ["truncated", "other model", "unknown", "configuration"])
def test_damaged_or_foreign_weights_are_refused_and_never_replaced_by_random_ones(folder, tmp_path, kind):
    with pytest.raises(BadDataError, match=str(tmp_path)):
        DinoV2(BackendSetup(weights=str(damaged(folder, tmp_path, kind))))


class Payload:
    def __reduce__(self):
        return print, ("code in a pickle ran",)


def test_a_pickle_that_would_run_code_is_refused(tmp_path, capsys):
    import torch

    torch.save({"cls_token": Payload()}, tmp_path / "weights.pth")
    with pytest.raises(BadDataError, match=r"weights\.pth: not a file of weights alone"):
        DinoV2(BackendSetup(weights=str(tmp_path / "weights.pth")))
    assert "code in a pickle ran" not in capsys.readouterr().out


def test_a_device_that_is_not_there_is_named(folder):
    with pytest.raises(UnavailableError, match="warp-drive"):
        DinoV2(BackendSetup(weights=str(folder), device="warp-drive"))


def test_it_is_registered():
    assert load("features", "dinov2") is DinoV2
