"""Vision transformers of timm: the real classes with few small blocks and random weights, in folders as on the hub."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tracekit.backends.batches import Batches
from tracekit.backends.features import vit_features
from tracekit.backends.features.dinov2 import DinoV2
from tracekit.backends.features.dinov3 import DinoV3
from tracekit.backends.features.timm_features import TimmFeatures
from tracekit.backends.protocols import BackendSetup
from tracekit.backends.registry import load
from tracekit.errors import BadDataError, StorageError, UnavailableError

SMALL = {"depth": 2, "embed_dim": 48, "num_heads": 3}
# By backend: architecture, shape, patch side, grid of a 480 x 640 picture, tokens before the patches.
NETWORKS = {
    "dinov2 with registers": (DinoV2, "vit_large_patch14_reg4_dinov2", SMALL, 14, (28, 37), 5),
    "dinov3": (DinoV3, "vit_small_patch16_dinov3", SMALL, 16, (24, 32), 5),
    "dinov3 plus": (DinoV3, "vit_huge_plus_patch16_dinov3", SMALL, 16, (24, 32), 5),
    "supervised": (TimmFeatures, "vit_base_patch32_224", SMALL, 32, (12, 16), 1),
    "deit": (TimmFeatures, "deit_tiny_distilled_patch16_224", SMALL, 16, (24, 32), 2),
    "siglip": (TimmFeatures, "vit_base_patch16_siglip_224", SMALL, 16, (24, 32), 0),
    "eva": (TimmFeatures, "eva02_tiny_patch14_224", SMALL, 14, (28, 37), 1),
}
MEAN, STD = [0.3, 0.45, 0.6], [0.2, 0.25, 0.4]


def small_network(architecture, shape, **more):
    import timm
    import torch

    torch.manual_seed(0)
    model = timm.create_model(architecture, pretrained=False, dynamic_img_size=True, **shape, **more)
    with torch.no_grad():
        for value in model.parameters():  # random blocks mix places only faintly: larger weights make attention a part of what is tested
            value += 0.05 * torch.randn_like(value)
    return model.eval()


def write(folder: Path, model, architecture, shape, **config) -> str:
    from safetensors.torch import save_file

    folder.mkdir(exist_ok=True)
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, folder / "model.safetensors")
    said = {"architecture": architecture, "model_args": shape, **config}
    (folder / "config.json").write_text(json.dumps(said))
    return str(folder)


@pytest.fixture(scope="module", params=NETWORKS)
def network(request, tmp_path_factory):
    backend, architecture, shape, side, grid, num_prefix = NETWORKS[request.param]
    model = small_network(architecture, shape, num_classes=7)  # with a classifier, as most weights of the hub
    folder = write(tmp_path_factory.mktemp("vit"), model, architecture, shape, pretrained_cfg={"mean": MEAN, "std": STD})
    return backend(BackendSetup(weights=folder)), model, side, grid, num_prefix


def test_it_equals_timm_called_by_hand(network):
    """Normalised as the configuration says, the last block's patch tokens after the last norm, without what comes before the patches."""
    import torch

    backend, model, side, (rows, columns), num_prefix = network
    assert model.num_prefix_tokens == num_prefix
    frame = np.random.default_rng(0).integers(0, 256, (rows * side, columns * side, 3)).astype(np.uint8)
    pixels = (torch.from_numpy(frame).float() / 255 - torch.tensor(MEAN)) / torch.tensor(STD)
    with torch.inference_mode():
        tokens = model.forward_features(pixels.permute(2, 0, 1)[None])
    assert tokens.shape[1] == num_prefix + rows * columns
    found = backend.describe(frame[None]).features
    assert found.shape == (1, rows, columns, 48) and found.dtype == np.float32
    np.testing.assert_allclose(found[0], tokens[0, num_prefix:].reshape(rows, columns, 48).numpy(), atol=3e-4)


def test_a_frame_is_described_alike_alone_and_among_others(network):
    backend = network[0]
    frames = np.random.default_rng(1).integers(0, 256, (3, 60, 80, 3)).astype(np.uint8)
    np.testing.assert_array_equal(backend.describe(frames).features[1:2], backend.describe(frames[1:2]).features)


@pytest.mark.parametrize("size", [(48, 64), (640, 360), (2160, 3840)])
def test_frames_of_any_size_and_none(network, size):
    backend, _, side, _, _ = network
    features = backend.describe(np.random.default_rng(2).integers(0, 256, (1, *size, 3)).astype(np.uint8)).features
    across = round(518 / side)
    expected = [max(1, round(518 * length / max(size) / side)) for length in size]
    assert max(features.shape[1:3]) == across and list(features.shape[1:3]) == expected
    assert np.isfinite(features).all()
    assert backend.describe(np.zeros((0, *size, 3), np.uint8)).features.shape == (0, *features.shape[1:])


def test_a_patch_describes_its_own_place(network):
    """A bright square changes the features of the patches it covers the most: rows, columns and prefix tokens are not mixed up."""
    backend = network[0]
    dark = np.full((1, 240, 400, 3), 90, np.uint8)
    before = backend.describe(dark).features[0]
    rows, columns = before.shape[:2]
    for row, column in ((0, 0), (0, columns - 2), (rows - 2, 0), (3, columns // 2)):
        lit = dark.copy()
        lit[
            0, round(row * 240 / rows) : round((row + 2) * 240 / rows), round(column * 400 / columns) : round((column + 2) * 400 / columns)
        ] = 255
        change = np.linalg.norm(backend.describe(lit).features[0] - before, axis=-1)
        most = {tuple(place) for place in np.argwhere(change >= np.sort(change.ravel())[-4]).tolist()}
        assert most == {(row + i, column + j) for i in (0, 1) for j in (0, 1)}


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_the_batch_is_halved_until_it_fits_and_the_result_is_the_same(network, limit, monkeypatch):
    """The network runs out of memory above `limit` frames, as a small GPU would."""
    import torch

    backend, _, _, _, _ = network
    frames = np.random.default_rng(3).integers(0, 256, (9, 32, 48, 3)).astype(np.uint8)
    expected = backend.describe(frames).features
    whole, seen = backend.model.forward_intermediates, []

    def small_device(pictures, **options):
        seen.append(len(pictures))
        if len(pictures) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(pictures, **options)

    monkeypatch.setattr(backend.model, "forward_intermediates", small_device)
    batches = Batches(backend.device, 8)
    batches.size = 8  # as on a GPU
    monkeypatch.setattr(backend, "batches", batches)
    np.testing.assert_allclose(backend.describe(frames).features, expected, atol=1e-4)
    fits = {1: 1, 2: 2, 3: 2}[limit]
    assert batches.size == fits, "what did not fit is not tried again"
    assert [count for count in seen if count > limit] == [8, 4, 2][: {1: 3, 2: 2, 3: 2}[limit]]
    assert sum(count for count in seen if count <= limit) == 9


def test_one_frame_that_does_not_fit_is_an_error_that_says_so(network, monkeypatch):
    import torch

    backend = network[0]

    def no_memory(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(backend.model, "forward_intermediates", no_memory)
    with pytest.raises(StorageError, match=rf"features backend {backend.name}: out of memory on cpu for one frame"):
        backend.describe(np.zeros((2, 32, 48, 3), np.uint8))


def test_in_bfloat16_features_stay_what_they_are(network, monkeypatch):
    """What a GPU multiplies in bfloat16, done on the CPU."""
    import torch

    @contextlib.contextmanager
    def as_on_a_gpu(device):
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            yield

    backend = network[0]
    frame = np.random.default_rng(4).integers(0, 256, (1, 120, 160, 3)).astype(np.uint8)
    exact = backend.describe(frame).features
    monkeypatch.setattr(vit_features, "inference", as_on_a_gpu)
    rough = backend.describe(frame).features
    cosine = (exact * rough).sum(-1) / np.linalg.norm(exact, axis=-1) / np.linalg.norm(rough, axis=-1)
    assert rough.dtype == np.float32 and not np.array_equal(exact, rough)
    assert cosine.min() > 0.998


def test_the_networks_own_mean_and_deviation_hold_where_the_folder_says_nothing(tmp_path):
    shape, architecture = SMALL, "vit_base_patch16_siglip_224"
    folder = write(tmp_path / "silent", small_network(architecture, shape, num_classes=0), architecture, shape)
    assert tuple(TimmFeatures(BackendSetup(weights=folder)).model.pretrained_cfg["mean"]) == (0.5, 0.5, 0.5)
    old = write(tmp_path / "old", small_network(architecture, shape, num_classes=0), architecture, shape, mean=MEAN, std=STD)
    assert TimmFeatures(BackendSetup(weights=old)).model.pretrained_cfg["std"] == STD


def test_weights_of_dinov3s_own_repository_are_read(tmp_path, capsys):
    """Other names, biases of zero that timm leaves out, and buffers. timm's conversion prints: stdout must stay clean."""
    import torch

    shape = {"depth": 2}
    model = small_network("vit_small_patch16_dinov3", shape, num_classes=0)
    renamed = {}
    for name, value in model.state_dict().items():
        name = name.replace("reg_token", "storage_tokens").replace("gamma_1", "ls1.gamma").replace("gamma_2", "ls2.gamma")
        renamed[name] = value
    for block in range(2):
        renamed[f"blocks.{block}.attn.qkv.bias"] = torch.zeros(3 * 384)
        renamed[f"blocks.{block}.attn.qkv.bias_mask"] = torch.zeros(3 * 384)
    renamed["mask_token"], renamed["rope_embed.periods"] = torch.zeros(1, 384), torch.ones(16)
    folder = tmp_path / "own"
    folder.mkdir()
    torch.save(renamed, folder / "pytorch_model.bin")
    (folder / "config.json").write_text(json.dumps({"architecture": "vit_small_patch16_dinov3", "model_args": shape}))
    backend = DinoV3(BackendSetup(weights=str(folder)))
    for name, value in backend.model.state_dict().items():
        torch.testing.assert_close(value, model.state_dict()[name], rtol=0, atol=0)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("kind", ["plain", "registers", "gated"])
def test_dinov2_is_taken_in_the_form_of_transformers_and_equals_it(tmp_path, kind):
    import torch
    from transformers import Dinov2Config, Dinov2Model, Dinov2WithRegistersConfig, Dinov2WithRegistersModel

    shape = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "patch_size": 14, "image_size": 518}
    torch.manual_seed(0)
    if kind == "registers":
        theirs = Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**shape, num_register_tokens=4))
    else:
        theirs = Dinov2Model(Dinov2Config(**shape, use_swiglu_ffn=kind == "gated"))
    with torch.no_grad():
        for value in theirs.parameters():
            value += 0.05 * torch.randn_like(value)
    theirs.eval().save_pretrained(tmp_path / "net")
    frame = np.random.default_rng(0).integers(0, 256, (518, 518, 3)).astype(np.uint8)
    pixels = (torch.from_numpy(frame).float() / 255 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    with torch.inference_mode():
        tokens = theirs(pixel_values=pixels.permute(2, 0, 1)[None]).last_hidden_state[0, -37 * 37 :]
    found = DinoV2(BackendSetup(weights=str(tmp_path / "net"))).describe(frame[None]).features
    np.testing.assert_allclose(found[0], tokens.reshape(37, 37, 48).numpy(), atol=3e-4)
    assert "is no dinov3" in DinoV3.missing(BackendSetup(weights=str(tmp_path / "net")))


@pytest.mark.parametrize("lack", ["a tensor", "a number"])
def test_what_transformers_form_lacks_is_named(tmp_path, lack):
    from safetensors.torch import load_file, save_file
    from transformers import Dinov2Config, Dinov2Model

    folder = tmp_path / "net"
    Dinov2Model(Dinov2Config(hidden_size=48, num_hidden_layers=2, num_attention_heads=3, patch_size=14, image_size=28)).save_pretrained(
        folder
    )
    if lack == "a tensor":
        state = load_file(folder / "model.safetensors")
        state.pop("encoder.layer.1.attention.attention.key.weight")
        save_file(state, folder / "model.safetensors")
    else:
        config = json.loads((folder / "config.json").read_text())
        config.pop("hidden_size")
        (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(BadDataError, match=f"{folder}.*({'key.weight' if lack == 'a tensor' else 'hidden_size'})"):
        DinoV2(BackendSetup(weights=str(folder)))


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["vit_small_patch16_dinov3", "vit_small_plus_patch16_dinov3", "vit_base_patch16_dinov3"])
def test_a_bare_file_of_dinov3_says_by_its_shapes_what_it_is(tmp_path, architecture):
    import timm
    from safetensors.torch import save_file

    save_file(timm.create_model(architecture, pretrained=False, num_classes=0).state_dict(), tmp_path / "weights.safetensors")
    assert DinoV3(BackendSetup(weights=str(tmp_path / "weights.safetensors"))).grid(100, 100) == (32, 32)


@pytest.mark.parametrize("backend, other", [(DinoV2, "dinov3"), (DinoV3, "dinov2")])
@pytest.mark.parametrize("file", ["weights.safetensors", "weights.pth"])
def test_a_bare_file_of_the_other_family_is_refused_and_told_who_takes_it(tmp_path, backend, other, file):
    import torch
    from safetensors.torch import save_file

    architecture = "vit_small_patch16_dinov3" if other == "dinov3" else "vit_small_patch14_dinov2"
    state = small_network(architecture, {"depth": 1}, num_classes=0).state_dict()
    (save_file if file.endswith("safetensors") else torch.save)(state, tmp_path / file)
    with pytest.raises(BadDataError, match=f"{file}: its tensors are those of a {other}") as refusal:
        backend(BackendSetup(weights=str(tmp_path / file)))
    assert f"--features {other}" in refusal.value.hint


@pytest.mark.parametrize("lack", ["layers are not scaled", "patches of 16 px"])
def test_a_bare_file_of_the_same_width_is_not_taken_for_a_dinov2(tmp_path, lack):
    """timm resamples patches of another size in silence."""
    import torch

    state = small_network("vit_small_patch14_dinov2", {"depth": 1}, num_classes=0).state_dict()
    if lack == "patches of 16 px":
        state["patch_embed.proj.weight"] = torch.zeros(384, 3, 16, 16)
    else:
        state = {name: value for name, value in state.items() if not name.endswith("gamma")}
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(BadDataError, match="neither the weights of a DINOv2 nor of a DINOv3"):
        DinoV2(BackendSetup(weights=str(tmp_path / "weights.pth")))


def test_each_kind_takes_its_own_weights_only(tmp_path):
    v3 = write(tmp_path / "v3", small_network("vit_small_patch16_dinov3", SMALL, num_classes=0), "vit_small_patch16_dinov3", SMALL)
    assert "--features timm" in DinoV2.missing(BackendSetup(weights=v3))
    with pytest.raises(UnavailableError, match=f"{tmp_path}.* is no dinov2"):
        DinoV2(BackendSetup(weights=v3))
    assert DinoV3.missing(BackendSetup(weights=v3)) is None and TimmFeatures.missing(BackendSetup(weights=v3)) is None
    by_name = BackendSetup(weights="vit_base_patch16_siglip_512", download=True)
    assert "is no dinov3" in DinoV3.missing(by_name) and TimmFeatures.missing(by_name) is None
    assert "--weights" in TimmFeatures.missing(BackendSetup(download=True))


def refused(folder: Path, kind: str) -> str:
    model = small_network("vit_small_patch16_dinov3", SMALL, num_classes=0)
    where = write(folder / "refused", model, "vit_small_patch16_dinov3", SMALL)
    config, weights = folder / "refused" / "config.json", folder / "refused" / "model.safetensors"
    if kind == "truncated":
        weights.write_bytes(weights.read_bytes()[:-1000])
    elif kind == "empty":
        weights.write_bytes(b"")
    elif kind == "not plain":
        config.write_text(json.dumps({"architecture": "swin_tiny_patch4_window7_224"}))
    elif kind == "no transformer":
        config.write_text(json.dumps({"architecture": "resnet18"}))
    elif kind == "other shape":
        config.write_text(json.dumps({"architecture": "vit_small_patch16_dinov3", "model_args": SMALL | {"depth": 3}}))
    elif kind == "other class":
        config.write_text(json.dumps({"architecture": "vit_base_patch16_224", "model_args": SMALL}))
    elif kind == "opens another place":
        config.write_text(json.dumps({"architecture": "hf-hub:somebody/else", "model_args": SMALL}))
    elif kind == "names another file":
        config.write_text(json.dumps({"architecture": "vit_small_patch16_dinov3", "model_args": {"checkpoint_path": "/etc/passwd"}}))
    elif kind == "deviation":
        config.write_text(
            json.dumps(
                {"architecture": "vit_small_patch16_dinov3", "model_args": SMALL, "pretrained_cfg": {"mean": MEAN, "std": [0, 1, 1]}}
            )
        )
    elif kind == "transformers":
        config.write_text(json.dumps({"model_type": "dinov3_vit", "architectures": ["DINOv3ViTModel"]}))
    return where


KINDS = ["truncated", "empty", "not plain", "no transformer", "other shape", "other class", "opens another place", "names another file"]


@pytest.mark.parametrize("kind", [*KINDS, "deviation", "transformers"])
def test_damaged_or_foreign_weights_are_refused(tmp_path, kind):
    folder = refused(tmp_path, kind)
    with pytest.raises(BadDataError, match=folder) as caught:
        TimmFeatures(BackendSetup(weights=folder))
    if kind == "other shape":
        assert re.search(r": \d+ missing \(blocks\.2\.[^ ]+, blocks\.2\.[^ ]+, \.\.\.\)$", caught.value.message), caught.value.message


class Payload:
    def __reduce__(self):
        return print, ("code in a pickle ran",)


@pytest.mark.parametrize("backend", [DinoV2, DinoV3, TimmFeatures])
def test_a_pickle_that_would_run_code_is_refused(tmp_path, capsys, backend):
    import torch

    torch.save({"cls_token": Payload()}, tmp_path / "weights.pth")
    with pytest.raises(BadDataError, match=r"weights\.pth: not a file of weights alone"):
        backend(BackendSetup(weights=str(tmp_path / "weights.pth")))
    assert "code in a pickle ran" not in capsys.readouterr().out


def test_closing_lets_go_of_the_network(tmp_path):
    import gc
    import weakref

    folder = write(tmp_path / "net", small_network("vit_small_patch16_dinov3", SMALL, num_classes=0), "vit_small_patch16_dinov3", SMALL)
    backend = DinoV3(BackendSetup(weights=folder))
    network = weakref.ref(backend.model)
    backend.close()
    gc.collect()
    assert network() is None
    assert len(backend.weights_sha256()) == 64, "provenance may still be asked for"


def test_finding_out_what_is_missing_is_cheap(tmp_path):
    folder = write(tmp_path / "net", small_network("vit_small_patch16_dinov3", SMALL, num_classes=0), "vit_small_patch16_dinov3", SMALL)
    code = (
        "import sys\n"
        "from tracekit.backends.protocols import BackendSetup\n"
        "from tracekit.backends.registry import load\n"
        "for name in ('dinov2', 'dinov3', 'timm'):\n"
        f"    backend, here = load('features', name), BackendSetup(weights={folder!r})\n"
        "    assert backend.missing(BackendSetup(weights='/nowhere/at/all'))\n"
        "    assert (backend.missing(here) is None) == (name != 'dinov2')\n"
        "assert not {'torch', 'timm', 'huggingface_hub', 'safetensors'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(("name", "backend"), [("dinov2", DinoV2), ("dinov3", DinoV3), ("timm", TimmFeatures)])
def test_they_are_registered_and_say_what_they_are(name, backend):
    assert load("features", name) is backend and backend.stateless
    assert backend.facts.code_licence == "Apache-2.0" and backend.facts.weights_licence
