"""What only a GPU can show: networks answer there as on the CPU up to the rounding of bfloat16, batches and passes that do not fit are halved,
and memory is given back. Skipped without one."""

import json

import numpy as np
import pytest
import torch
from backends.reconstruction.depth_networks import depth_anything, depth_pro
from backends.reconstruction.test_vggt_family import CHECKOUTS, DOUBLES, LANDSCAPE, scene_of
from safetensors.torch import save_file
from tiny_chat_models import image_text_model

from tracekit.backends.captioning.caption_prompts import Question
from tracekit.backends.captioning.smolvlm import AT_ONCE, SmolVLM
from tracekit.backends.features.dinov2 import DinoV2
from tracekit.backends.protocols import BackendSetup
from tracekit.backends.reconstruction.depth_anything import DepthAnything
from tracekit.backends.reconstruction.depth_pro import DepthPro
from tracekit.extract.caption import CaptionParameters
from tracekit.extract.reconstruct import ReconstructParameters
from tracekit.geometry import se3

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


@pytest.fixture
def vit(tmp_path):
    import timm

    torch.manual_seed(0)
    architecture = "vit_small_patch14_dinov2"
    save_file(timm.create_model(architecture, pretrained=False, num_classes=0, depth=4).state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"architecture": architecture, "model_args": {"depth": 4}}))
    return str(tmp_path)


@pytest.fixture
def frames():
    coarse = np.random.default_rng(0).integers(0, 256, (20, 6, 8, 3)).astype(np.uint8)
    return np.repeat(np.repeat(coarse, 40, axis=1), 40, axis=2)


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b).sum(axis=-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)


def test_features_are_those_of_the_cpu_up_to_rounding(vit, frames):
    on_gpu, on_cpu = (DinoV2(BackendSetup(device=device, weights=vit)).describe(frames[:3]).features for device in ("cuda", "cpu"))
    assert cosine(on_gpu, on_cpu).min() > 0.999


def test_a_batch_that_does_not_fit_is_halved_and_memory_is_given_back(vit, frames):
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    backend = DinoV2(BackendSetup(device="cuda", weights=vit))
    whole = backend.describe(frames).features
    assert backend.batches.size == 16
    torch.cuda.reset_peak_memory_stats()
    backend.describe(frames[:16])
    need = torch.cuda.max_memory_allocated()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_allocated() + 0.5 * (need - torch.cuda.memory_allocated())) / total)
    try:
        halved = backend.describe(frames).features
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert backend.batches.size < 16
    assert cosine(halved, whole).min() > 0.999
    backend.close()
    del backend
    torch.cuda.empty_cache()
    assert torch.cuda.memory_allocated() <= before + 64e6  # cuBLAS keeps a workspace


@pytest.mark.parametrize(("kind", "make"), [(DepthAnything, depth_anything), (DepthPro, depth_pro)])
def test_depth_is_that_of_the_cpu_up_to_rounding(kind, make, frames, tmp_path):
    folder = str(make(tmp_path / "network"))
    answers = []
    for device in ("cuda", "cpu"):
        backend = kind(BackendSetup(device=device, weights=folder, parameters=ReconstructParameters(camera="static")))
        backend.use_recording(None)
        answers.append(backend.reconstruct(frames[:5], np.arange(5), None))
        backend.close()
    on_gpu, on_cpu = (answer.depth for answer in answers)
    np.testing.assert_array_equal(on_gpu > 0, on_cpu > 0)
    known = on_cpu > 0
    off = np.abs(on_gpu[known] / on_cpu[known] - 1)
    assert np.median(off) < 0.01 and np.quantile(off, 0.99) < 0.05


@pytest.mark.parametrize("kind", list(CHECKOUTS), ids=lambda kind: kind.name)
def test_known_views_come_back_from_a_worker_on_the_gpu(kind, tmp_path):
    scene = scene_of(kind, LANDSCAPE)
    save_file(scene.state(kind), tmp_path / "known.safetensors")
    backend = kind(
        BackendSetup(device="cuda", weights=str(tmp_path / "known.safetensors"), repo=str(DOUBLES / CHECKOUTS[kind]), patience=120)
    )
    try:
        local = backend.reconstruct(scene.frames([0, 1, 2]), np.arange(3), None)
    finally:
        backend.close()
    known = local.depth > 0
    scale = np.median(local.depth[known] / scene.depth[known])
    np.testing.assert_allclose(local.depth[known], scale * scene.depth[known], rtol=1e-4)
    expected = se3.inverse(scene.world_from_camera[0]) @ scene.world_from_camera
    expected[:, :3, 3] *= scale
    np.testing.assert_allclose(se3.inverse(local.world_from_camera[0]) @ local.world_from_camera, expected, atol=1e-4 * max(1, scale))


def test_answers_in_a_batch_of_an_image_text_model_are_those_that_come_alone(tmp_path):
    """In float32: in bfloat16 the words of a network of random numbers are too near to each other."""
    folder = image_text_model(tmp_path, "idefics3")
    captioner = SmolVLM(BackendSetup(device="cuda", weights=str(folder), parameters=CaptionParameters(answer_tokens=64)))
    assert captioner.events.size == captioner.summaries.size == AT_ONCE
    network = captioner._resident
    network.model.float()
    passes = []
    generate = network.model.generate
    network.model.generate = lambda **given: passes.append(len(given["input_ids"])) or generate(**given)
    rng = np.random.default_rng(0)
    questions = [
        Question("event_caption", "Describe it.", (text, *rng.integers(0, 256, (pictures, 48, 64, 3), dtype=np.uint8)), {})
        for pictures, text in ((3, "lift it"), (4, "a much longer description " * 9), (1, ""), (2, "x"))
    ]
    together = [str(answer) for answer in network.ask(questions, 64)]
    alone = [str(network.ask([question], 64)[0]) for question in questions]
    assert together == alone and passes == [4, 1, 1, 1, 1] and len(set(alone)) >= 3
    captioner.close()
