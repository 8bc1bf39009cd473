"""The published checkpoint's layout, built here at tiny sizes from its description, and its forward pass computed anew, line by line."""

from __future__ import annotations

import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from tokenizers import Tokenizer, models
from transformers import Dinov2Config, Dinov2Model, PreTrainedTokenizerFast, SmolVLMConfig, SmolVLMForConditionalGeneration

from tracekit import cli
from tracekit.errors import BadDataError, CannotCreateError, MissingInputError
from tracekit.mu0.adopt_release import adopt_release
from tracekit.mu0.checkpoint import load_model
from tracekit.mu0.example_batch import example_batch
from tracekit.mu0.release import is_release, load_release, release_config
from tracekit.report import Report

LAYERS, WIDTH, EXPERT, HEADS, KV_HEADS, HEAD = 4, 24, 12, 3, 1, 8
HISTORY, HORIZON, POINTS = 8, 32, 10
FFN = 256
VISION = {"hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
TEXT = {
    "model_type": "llama",
    "hidden_size": WIDTH,
    "intermediate_size": 40,
    "num_hidden_layers": 6,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "head_dim": HEAD,
    "vocab_size": 64,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
}
DINO = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}
TARGETS = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")


def expected_names(use_depth: bool) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the expert and of the trace branch, from the description of the layout."""
    shapes: dict[str, tuple[int, ...]] = {}

    def linear(name: str, out: int, into: int, bias: bool = True) -> None:
        shapes[f"{name}.weight"] = (out, into)
        if bias:
            shapes[f"{name}.bias"] = (out,)

    for i in range(LAYERS):
        layer = f"vlm_with_expert.lm_expert.layers.{i}"
        source = EXPERT if i % 2 == 0 else KV_HEADS * HEAD
        linear(f"{layer}.self_attn.q_proj", HEADS * HEAD, EXPERT, bias=False)
        linear(f"{layer}.self_attn.k_proj", KV_HEADS * HEAD, source, bias=False)
        linear(f"{layer}.self_attn.v_proj", KV_HEADS * HEAD, source, bias=False)
        linear(f"{layer}.self_attn.o_proj", EXPERT, HEADS * HEAD, bias=False)
        linear(f"{layer}.mlp.gate_proj", FFN, EXPERT, bias=False)
        linear(f"{layer}.mlp.up_proj", FFN, EXPERT, bias=False)
        linear(f"{layer}.mlp.down_proj", EXPERT, FFN, bias=False)
        shapes[f"{layer}.input_layernorm.weight"] = shapes[f"{layer}.post_attention_layernorm.weight"] = (EXPERT,)
        linear(f"trace_adaln_modulation.{i}.1", 6 * EXPERT, EXPERT)
    shapes["vlm_with_expert.lm_expert.norm.weight"] = (EXPERT,)
    shapes["trace_time_embedding.weight"] = (HISTORY + HORIZON, EXPERT)
    shapes["trace_seg_embedding.weight"] = (2, EXPERT)
    linear("trace_uv_pos_mlp.0", EXPERT, 32)
    linear("trace_uv_pos_mlp.2", EXPERT, EXPERT)
    linear("trace_in_proj_history", EXPERT, 3 * HISTORY)
    linear("trace_in_proj_future", EXPERT, 3 * POINTS)
    linear("trace_out_proj_future", 3 * POINTS, EXPERT)
    linear("trace_done_proj_bsp", HORIZON, EXPERT)
    linear("trace_timestep_embedder.mlp.0", EXPERT, 256)
    linear("trace_timestep_embedder.mlp.2", EXPERT, EXPERT)
    linear("trace_dino_fuse_in", EXPERT, EXPERT + DINO["hidden_size"])
    linear("trace_dino_fuse_out", EXPERT, EXPERT)
    linear("action_time_mlp_in", EXPERT, 2 * EXPERT)
    linear("action_time_mlp_out", EXPERT, EXPERT)
    return shapes


def configuration(folder: Path, use_depth: bool) -> dict:
    return {
        "type": "smolvla",
        "trace_mode": True,
        "trace_dim": 3,
        "history_len": HISTORY,
        "future_len": HORIZON,
        "trace_group_horizon": 8,
        "trace_bspline_n_ctrl": POINTS,
        "trace_bspline_ctrl_per_token": POINTS,
        "trace_uv_num_freqs": 8,
        "trace_adaln_freq_embed_size": 256,
        "trace_done_head": True,
        "use_depth": use_depth,
        "depth_lora_rank": 2,
        "depth_lora_alpha": 4,
        "depth_clone_stem": True,
        "use_dino": True,
        "dino_model_name": str(folder / "dino"),
        "dino_input_size": 28,
        "dino_num_prefix_tokens": 1,
        "vlm_model_name": str(folder / "vlm"),
        "num_vlm_layers": LAYERS,
        "num_expert_layers": -1,
        "expert_width_multiplier": 0.5,
        "self_attn_every_n_layers": 2,
        "attention_mode": "cross_attn",
        "add_image_special_tokens": False,
        "min_period": 4e-3,
        "max_period": 4.0,
        "tokenizer_max_length": 48,
        "resize_imgs_with_padding": [32, 32],
    }


@pytest.fixture(params=[False, True], ids=["rgb", "depth"])
def published(request, tmp_path):
    """A folder as the authors publish one, with random weights everywhere: (folder, tensors by name without "model.")."""
    use_depth = request.param
    torch.manual_seed(0)
    vlm_config = SmolVLMConfig(vision_config=VISION, text_config=TEXT, scale_factor=2, tie_word_embeddings=False)
    vlm_config.save_pretrained(tmp_path / "vlm")
    Dinov2Config(**DINO).save_pretrained(tmp_path / "dino")
    whole = SmolVLMForConditionalGeneration(vlm_config)
    whole.model.text_model.layers = whole.model.text_model.layers[:LAYERS]
    tensors = {}
    for name, tensor in whole.state_dict().items():
        target = name.rsplit(".", 2)[-2] in TARGETS and "vision_model" in name
        if use_depth:
            name = name.replace("vision_model.", "vision_model.base_model.model.")
            if target:
                stem, kind = name.rsplit(".", 1)
                name = f"{stem}.base_layer.{kind}"
        tensors[f"vlm_with_expert.vlm.{name}"] = tensor
        if use_depth and target and kind == "weight":
            tensors[f"vlm_with_expert.vlm.{stem}.lora_A.default.weight"] = torch.randn(2, tensor.shape[1])
            tensors[f"vlm_with_expert.vlm.{stem}.lora_B.default.weight"] = torch.randn(tensor.shape[0], 2)
    if use_depth:
        tensors["vlm_with_expert._depth_patch_embedding.weight"] = torch.randn(16, 3, 8, 8) * 0.1
        tensors["vlm_with_expert._depth_patch_embedding.bias"] = torch.randn(16)
    tensors |= {f"dino.{name}": tensor for name, tensor in Dinov2Model(Dinov2Config(**DINO)).state_dict().items()}
    tensors |= {name: torch.randn(shape) * 0.3 for name, shape in expected_names(use_depth).items()}
    tensors = {name: (torch.randn(tensor.shape) * 0.3).contiguous() for name, tensor in tensors.items()}
    save_file({f"model.{name}": tensor for name, tensor in tensors.items()}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(configuration(tmp_path, use_depth)))
    return tmp_path, tensors


# --- the forward pass, straight from the description ---


def norm(x, weight):
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + 1e-5) * weight


def turned(x, positions):
    """RoPE of x (heads, tokens, d) at positions (tokens,), base 10 000, halves paired."""
    half = x.shape[-1] // 2
    out = torch.empty_like(x)
    for i in range(half):
        angle = positions.double() / 10_000 ** (2 * i / x.shape[-1])
        cos, sin = torch.cos(angle).float(), torch.sin(angle).float()
        out[..., i] = x[..., i] * cos - x[..., i + half] * sin
        out[..., i + half] = x[..., i + half] * cos + x[..., i] * sin
    return out


def heads(x, num):
    return x.reshape(len(x), num, HEAD).transpose(0, 1)


def softmax_attention(q, k, v, allowed):
    """q (A, Q, d), k and v (a, K, d), allowed (Q, K): (Q, A * d), by loops over heads."""
    out = []
    for head in range(len(q)):
        kv = head // (len(q) // len(k))
        scores = q[head] @ k[kv].T / math.sqrt(HEAD)
        out.append(torch.softmax(scores.masked_fill(~allowed, -1e30), dim=-1) @ v[kv])
    return torch.cat(out, dim=-1)


def mlp(x, w, name):
    return (F.silu(x @ w[f"{name}.gate_proj.weight"].T) * (x @ w[f"{name}.up_proj.weight"].T)) @ w[f"{name}.down_proj.weight"].T


def apply(x, w, name):
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def vision_tokens(w, image, depth):
    """SigLIP and connector of transformers on the release's weights; for depth with the low-rank updates multiplied out."""
    model = SmolVLMForConditionalGeneration(SmolVLMConfig(vision_config=VISION, text_config=TEXT, scale_factor=2)).eval()
    start = "vlm_with_expert.vlm.model."
    weights = {}
    for name, tensor in w.items():
        if name.startswith((start + "vision_model", start + "connector")) and ".lora_" not in name:
            low = tensor
            if depth and name.endswith("base_layer.weight"):
                stem = name.removesuffix("base_layer.weight")
                low = tensor + (4 / 2) * w[f"{stem}lora_B.default.weight"] @ w[f"{stem}lora_A.default.weight"]
            if depth and "patch_embedding" in name:
                low = w["vlm_with_expert._depth_patch_embedding." + name.rsplit(".", 1)[1]]
            weights[name.removeprefix(start).replace("base_model.model.", "").replace("base_layer.", "")] = low
    missing = model.model.load_state_dict(weights, strict=False).missing_keys
    assert all(name.startswith("text_model") for name in missing)
    pixels = image.float()[None] / 255 * 2 - 1
    hidden = model.model.vision_model(pixel_values=pixels).last_hidden_state
    return model.model.connector(hidden)[0]


def dino_at(w, image, uv):
    """DINOv2 at 28 x 28, sampled bilinearly by hand at uv (N, 2)."""
    model = Dinov2Model(Dinov2Config(**DINO)).eval()
    model.load_state_dict({name.removeprefix("dino."): tensor for name, tensor in w.items() if name.startswith("dino.")})
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    pixels = (image.float() / 255 - mean[:, None, None]) / std[:, None, None]
    pixels = F.interpolate(pixels[None], size=(28, 28), mode="bilinear", align_corners=False)
    tokens = model(pixel_values=pixels).last_hidden_state[0, 1:]
    out = torch.zeros(len(uv), tokens.shape[1])
    for n, (u, v) in enumerate(uv.tolist()):
        column, row = (u + 1) * 2 / 2 - 0.5, (v + 1) * 2 / 2 - 0.5  # a grid of 2 x 2 patches, edge to edge
        for r in (math.floor(row), math.floor(row) + 1):
            for c in (math.floor(column), math.floor(column) + 1):
                if 0 <= r < 2 and 0 <= c < 2:
                    out[n] += (1 - abs(row - r)) * (1 - abs(column - c)) * tokens[r * 2 + c]
    return out


def straight_line(w, batch, b, use_depth):
    """Velocity (N, 10, 3) and validity logits (N, 32) of sample b."""
    parts = [vision_tokens(w, batch.image[b], depth=False)]
    there = [torch.ones(len(parts[0]), dtype=torch.bool)]
    if use_depth:
        parts.append(vision_tokens(w, batch.depth[b], depth=True))
        there.append(batch.depth_present[b].expand(len(parts[1])))
    parts.append(w["vlm_with_expert.vlm.model.text_model.embed_tokens.weight"][batch.text[b]])
    there.append(batch.text_present[b])
    prefix, there = torch.cat(parts) * math.sqrt(WIDTH), torch.cat(there)
    positions = torch.cumsum(there, 0) - 1
    num_prefix = int(there.sum())

    num = batch.current.shape[1]
    noisy = batch.tau[b] * batch.noise[b] + (1 - batch.tau[b]) * batch.target[b]
    uv = batch.current[b, :, :2]
    fourier = torch.cat(
        [torch.cat([fn(uv[:, axis : axis + 1] * math.pi * 2.0 ** torch.arange(8)) for fn in (torch.sin, torch.cos)], 1) for axis in (0, 1)],
        1,
    )
    place = apply(F.silu(apply(fourier, w, "trace_uv_pos_mlp.0")), w, "trace_uv_pos_mlp.2") * batch.present[b][:, None]
    look = dino_at(w, batch.image[b], uv) * batch.present[b][:, None]
    rows = []
    for n in range(num):  # keypoint by keypoint: its history token, then its target token
        for group, values in (
            (0, apply(batch.history[b, n].reshape(-1), w, "trace_in_proj_history")),
            (1, apply(noisy[n].reshape(-1), w, "trace_in_proj_future")),
        ):
            token = values + w["trace_time_embedding.weight"][group] + w["trace_seg_embedding.weight"][group] + place[n]
            rows.append(apply(F.silu(apply(torch.cat([token, look[n]]), w, "trace_dino_fuse_in")), w, "trace_dino_fuse_out"))
    suffix = torch.stack(rows)
    kept = torch.stack([batch.present[b] & batch.history_present[b], batch.present[b]], dim=1).reshape(-1)
    is_history = torch.arange(2 * num) % 2 == 0
    own = kept[None, :] & (is_history[None, :] | ~is_history[:, None])

    periods = 4e-3 * (4.0 / 4e-3) ** torch.linspace(0, 1, 128, dtype=torch.float64)
    angles = 2 * math.pi * batch.tau[b].double() / periods
    time = torch.cat([angles.sin(), angles.cos()]).float()
    time = apply(F.silu(apply(time, w, "trace_timestep_embedder.mlp.0")), w, "trace_timestep_embedder.mlp.2")

    for i in range(LAYERS):
        vlm, expert = f"vlm_with_expert.vlm.model.text_model.layers.{i}", f"vlm_with_expert.lm_expert.layers.{i}"
        six = apply(F.silu(time), w, f"trace_adaln_modulation.{i}.1").reshape(6, EXPERT)
        x = norm(prefix, w[f"{vlm}.input_layernorm.weight"])
        q, k, v = (
            heads(x @ w[f"{vlm}.self_attn.{name}_proj.weight"].T, count) for name, count in (("q", HEADS), ("k", KV_HEADS), ("v", KV_HEADS))
        )
        q, k = turned(q, positions), turned(k, positions)
        y = norm(suffix, w[f"{expert}.input_layernorm.weight"]) * (1 + six[1]) + six[0]
        sq = heads(y @ w[f"{expert}.self_attn.q_proj.weight"].T, HEADS)
        if i % 2 == 0:
            at = torch.full((2 * num,), num_prefix)
            sk = turned(heads(y @ w[f"{expert}.self_attn.k_proj.weight"].T, KV_HEADS), at)
            sv = heads(y @ w[f"{expert}.self_attn.v_proj.weight"].T, KV_HEADS)
            allowed = torch.cat([there[None].expand(2 * num, -1), own], dim=1)
            seen = softmax_attention(turned(sq, at), torch.cat([k, sk], 1), torch.cat([v, sv], 1), allowed)
        else:
            flat_k, flat_v = (x.transpose(0, 1).reshape(len(prefix), -1) for x in (k, v))
            ck = heads(flat_k @ w[f"{expert}.self_attn.k_proj.weight"].T, KV_HEADS)
            cv = heads(flat_v @ w[f"{expert}.self_attn.v_proj.weight"].T, KV_HEADS)
            seen = softmax_attention(sq, ck, cv, there[None].expand(2 * num, -1))
        suffix = suffix + six[2] * (seen @ w[f"{expert}.self_attn.o_proj.weight"].T)
        y = norm(suffix, w[f"{expert}.post_attention_layernorm.weight"]) * (1 + six[4]) + six[3]
        suffix = suffix + six[5] * mlp(y, w, f"{expert}.mlp")
        prefix = prefix + softmax_attention(q, k, v, there[None].expand(len(prefix), -1)) @ w[f"{vlm}.self_attn.o_proj.weight"].T
        prefix = prefix + mlp(norm(prefix, w[f"{vlm}.post_attention_layernorm.weight"]), w, f"{vlm}.mlp")
    out = norm(suffix, w["vlm_with_expert.lm_expert.norm.weight"])[~is_history]
    return apply(out, w, "trace_out_proj_future").reshape(num, POINTS, 3), apply(out, w, "trace_done_proj_bsp")


def batch_for(model):
    batch = example_batch(model.config, num_samples=3, num_keypoints=4)
    batch.present[1, 3:] = False
    batch.history_present[0, 1] = False
    batch.history_present[2] = False
    batch.text_present[2, 4:] = False
    if batch.depth is not None:
        batch.depth_present[1] = False
    return batch


def test_the_published_layout_loads_and_computes_what_its_description_says(published):
    folder, weights = published
    model = load_release(folder)
    assert not model.training
    batch = batch_for(model)
    with torch.no_grad():
        forecast = model(batch)
        for b in range(3):
            velocity, validity = straight_line(weights, batch, b, model.config.use_depth)
            there = batch.present[b]
            scale = velocity[there].abs().max()
            assert scale > 0.1
            torch.testing.assert_close(forecast.velocity[b][there], velocity[there], rtol=0, atol=2e-5 * float(scale))
            torch.testing.assert_close(forecast.validity_logits[b][there], validity[there], rtol=0, atol=2e-5 * float(scale))


def test_every_part_of_the_description_matters(published):
    """The comparison above would notice a change in any input or weight."""
    folder, _ = published
    model = load_release(folder)
    batch = batch_for(model)
    with torch.no_grad():
        before = model(batch).velocity[:, :2]
        for name, parameter in model.named_parameters():
            unused = ("lm_head", "text_model.norm", "validity", "mask_token", f"text_model.layers.{LAYERS - 1}.mlp", "classifier")
            last = f"text_model.layers.{LAYERS - 1}."
            if any(part in name for part in unused) or (
                last in name and ("q_proj" in name or "o_proj" in name or "post_attention" in name)
            ):
                continue
            if "embed_tokens" in name or "position_embedding" in name or "tokens.group" in name:
                continue  # rows that are not looked up
            kept = parameter.clone()
            parameter.add_(torch.randn_like(parameter))
            changed = (model(batch).velocity[:, :2] - before).abs().max()
            parameter.copy_(kept)
            assert changed > 1e-6 or name.endswith("k_proj.bias"), name


def test_loading_names_what_is_missing_left_over_or_misshapen(published):
    folder, weights = published
    named = {f"model.{name}": tensor for name, tensor in weights.items()}
    missing = {name: tensor for name, tensor in named.items() if name != "model.trace_seg_embedding.weight"}
    save_file(missing, folder / "model.safetensors")
    with pytest.raises(BadDataError, match=r"missing tokens\.segment\.weight"):
        load_release(folder)
    save_file(named | {"model.trace_new_thing.weight": torch.zeros(2)}, folder / "model.safetensors")
    with pytest.raises(BadDataError, match=r"nothing is known of a tensor model\.trace_new_thing\.weight"):
        load_release(folder)
    save_file(named | {"model.vlm_with_expert.lm_expert.layers.9.mlp.up_proj.weight": torch.zeros(2)}, folder / "model.safetensors")
    with pytest.raises(BadDataError, match=r"unexpected expert\.layers\.9\.mlp\.up_proj\.weight"):
        load_release(folder)
    save_file(named | {"model.trace_seg_embedding.weight": torch.zeros(3, EXPERT)}, folder / "model.safetensors")
    with pytest.raises(BadDataError, match=r"tokens\.segment\.weight has shape \(3, 12\), but \(2, 12\) is expected"):
        load_release(folder)


def test_a_file_that_is_no_safetensors_is_refused(published):
    folder, _ = published
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadDataError, match="no whole file of safetensors"):
        load_release(folder)
    torch.save({"a": torch.zeros(1)}, folder / "model.safetensors")
    with pytest.raises(BadDataError, match="no whole file of safetensors"):
        load_release(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(MissingInputError, match="does not exist"):
        load_release(folder)


@pytest.mark.parametrize(
    ("name", "value"),
    [("add_image_special_tokens", True), ("self_attn_every_n_layers", 3), ("num_expert_layers", 2), ("vlm_model_name", "a/b")],
)
def test_a_configuration_that_cannot_be_followed_is_refused_by_name(published, name, value):
    folder, _ = published
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(content | {name: value}))
    with pytest.raises(BadDataError, match=str(value) if name == "vlm_model_name" else name):
        release_config(folder / "config.json")


def test_the_known_vlm_needs_no_hub(published):
    folder, _ = published
    content = json.loads((folder / "config.json").read_text())
    changed = {"vlm_model_name": "HuggingFaceTB/SmolVLM2-2.2B-Instruct", "dino_model_name": "facebook/dinov2-base", "num_vlm_layers": 20}
    (folder / "config.json").write_text(json.dumps(content | changed))
    config = release_config(folder / "config.json")
    assert config.vlm["text_config"]["hidden_size"] == 2048
    assert config.vlm["text_config"]["num_hidden_layers"] == 20
    assert config.dino["hidden_size"] == 768


def write_stats(path: Path) -> None:
    scales = {"delta_scale_x": 0.3, "delta_scale_y": 0.2, "delta_scale_z": 0.1, "depth_log_min": -1.0, "depth_log_max": 1.5}
    path.write_text(json.dumps(scales | {"target_kind": "anchor"}))


def test_the_release_becomes_a_checkpoint_of_ours(published, tmp_path):
    """With all its weights, its scales, and a word on the tokenizer that no hub gives here."""
    folder, _ = published
    write_stats(folder / "delta_stats.json")
    report = Report()
    adopt_release(folder, None, tmp_path / "ours", report)
    model, statistics = load_model(tmp_path / "ours")
    batch = batch_for(model)
    with torch.no_grad():
        torch.testing.assert_close(model(batch).velocity, load_release(folder)(batch).velocity, rtol=0, atol=0)
    assert statistics.delta_scale == (0.3, 0.2, 0.1) and statistics.depth_log_range == (-1.0, 1.5)
    assert statistics.retargeted and statistics.metric
    assert any("tokenizer" in note for note in report.notes)
    with pytest.raises(CannotCreateError, match="exists"):
        adopt_release(folder, None, tmp_path / "ours", Report())


def test_what_is_no_release_is_not_adopted(published, tmp_path):
    folder, _ = published
    with pytest.raises(MissingInputError, match=r"delta_stats\.json"):
        adopt_release(folder, None, tmp_path / "ours", Report())
    with pytest.raises(MissingInputError, match="is no folder"):
        adopt_release(folder / "nowhere", None, tmp_path / "ours", Report())
    with pytest.raises(BadDataError, match="no policy of type smolvla"):
        adopt_release(folder / "vlm", None, tmp_path / "ours", Report())
    assert not (tmp_path / "ours").exists()


def test_the_command_adopts_it_and_says_what_a_rollout_still_needs(published, tmp_path, capsys):
    folder, _ = published

    def run(*arguments):
        code = cli.run(list(map(str, arguments)))
        said = capsys.readouterr().err
        assert "Traceback" not in said
        return code, said

    write_stats(tmp_path / "scales.json")
    code, said = run("import", "mu0", folder, "--stats", tmp_path / "scales.json", "-o", tmp_path / "ours")
    assert code == 0 and "the tokenizer of" in said
    cv2.imwrite(str(tmp_path / "scene.png"), np.zeros((40, 60, 3), np.uint8))
    asked = ("--image", tmp_path / "scene.png", "--text", "wave", "-o", tmp_path / "p.h5")
    code, said = run("rollout", tmp_path / "ours", *asked)
    assert code == 66 and "tokenizer" in said and "--download" in said and "--vlm of rollout" in said
    words = Tokenizer(models.WordLevel({"[UNK]": 0, "wave": 1}, unk_token="[UNK]"))
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]").save_pretrained(tmp_path / "vlm")
    code, said = run("rollout", tmp_path / "ours", "--vlm", tmp_path / "vlm", "--grid", 2, *asked)
    assert code == 0 and (tmp_path / "p.h5").is_file(), said
    assert run("import", "mu0", folder)[0] == 2
    assert run("import", "mu0", folder, "-o", tmp_path / "ours", "--stats", tmp_path / "scales.json")[0] == 73


def test_only_the_release_is_taken_for_one(published, tmp_path):
    folder, _ = published
    assert is_release(folder)
    assert not is_release(tmp_path / "vlm")
    assert not is_release(tmp_path / "nowhere")


def test_the_text_layers_are_those_of_transformers(published):
    """The walk through the layers is ours: it must give transformers' own keys, values and output."""
    folder, _ = published
    model = load_release(folder)
    batch = batch_for(model)
    with torch.no_grad():
        prefix = model.vlm(batch, with_features=True)
        tokens, present = model.vlm._tokens(batch)
        text = model.vlm.text
        text.config._attn_implementation = "eager"
        allowed = torch.where(present[:, None, None, :], 0.0, torch.finfo(torch.float32).min).expand(-1, 1, present.shape[1], -1)
        theirs = text(inputs_embeds=tokens, attention_mask=allowed, position_ids=present.long().cumsum(1) - 1, use_cache=True)
    assert np.isfinite(prefix.features).all()
    torch.testing.assert_close(prefix.features[present], theirs.last_hidden_state[present], rtol=0, atol=1e-4)
    for layer in range(LAYERS):
        keys = theirs.past_key_values.layers[layer].keys.transpose(1, 2)
        torch.testing.assert_close(prefix.keys[layer].transpose(1, 2)[present], keys[present], rtol=0, atol=1e-4)
