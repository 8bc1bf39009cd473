"""The real classes of transformers with small random weights: SmolVLM, Idefics3, which it is made of, and a Llama that merges."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from tiny_chat_models import image_text_model, qwen_model, text_model
from transformers import LogitsProcessor, LogitsProcessorList

from tracekit.backends import registry
from tracekit.backends.captioning import chat_network
from tracekit.backends.captioning.caption_prompts import about_captions, about_event
from tracekit.backends.captioning.event_pictures import take_pictures
from tracekit.backends.captioning.model_folders import find_model, missing_model, model_sha256
from tracekit.backends.captioning.smolvlm import DEFAULT, SmolVLM
from tracekit.backends.protocols import BackendSetup, EventRequest
from tracekit.backends.weights import sha256_of
from tracekit.errors import BadDataError, StorageError, UnavailableError
from tracekit.extract.caption import CaptionParameters, caption
from tracekit.report import Report

KINDS = [
    "idefics3",
    pytest.param("smolvlm", marks=pytest.mark.skipif(importlib.util.find_spec("num2words") is None, reason="transformers needs num2words")),
]
ANSWER = {
    "before": "A cup stands.",
    "interaction": "A hand lifts it – up.",
    "after": "It is up.",
    "text": "A cup is lifted.",
    "paraphrases": ["Lift it.", "Up it goes.", "The cup rises."],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return image_text_model(tmp_path_factory.mktemp("model"), "idefics3")


@pytest.fixture(scope="module")
def merger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return text_model(tmp_path_factory.mktemp("text"))


def captioner(folder: Path, seed: int = 0, **parameters: Any) -> SmolVLM:
    return SmolVLM(BackendSetup("cpu", seed, str(folder), parameters=CaptionParameters(**{"answer_tokens": 64, **parameters})))


class Dictated(LogitsProcessor):
    """Has a network say these tokens, whatever it would say itself."""

    def __init__(self, tokens: list[int]) -> None:
        self.tokens = list(tokens)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        forced = torch.full_like(scores, -torch.inf)
        forced[:, self.tokens.pop(0)] = 0.0
        return forced


def dictate(network: Any, *answers: str) -> list[dict[str, Any]]:
    """The network runs, and says these answers one after the other; what it was asked is returned."""
    asked: list[dict[str, Any]] = []
    generate, left = network.model.generate, list(answers)

    def dictated(**given: Any) -> Any:
        asked.append(given)
        tokens = [*network.tokenizer(left.pop(0), add_special_tokens=False)["input_ids"], network.tokenizer.eos_token_id]
        return generate(**{**given, "logits_processor": LogitsProcessorList([*given["logits_processor"], Dictated(tokens)])})

    network.model.generate = dictated
    return asked


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_network_says_becomes_a_caption(tmp_path: Path, episode, kind: str) -> None:
    ours = captioner(image_text_model(tmp_path, kind), answer_tokens=512)
    asked = dictate(ours._resident, f"```json\n{json.dumps(ANSWER, ensure_ascii=False)}\n```", '{"text": "All – of it."}')
    answer = ours.describe(EventRequest(episode, episode.video.frames, 0, 6, "lift <image> the cup"))
    assert (answer.interaction, answer.text, list(answer.paraphrases)) == (
        "A hand lifts it – up.",
        "A cup is lifted.",
        ANSWER["paraphrases"],
    )
    assert ours.merge(["A.", "B."]) == "All – of it."
    read = ours._resident.tokenizer.decode(asked[0]["input_ids"][0])
    # 64 x 48 px are two by two tiles of 32, and one of the whole: four tokens each, of three pictures and of no <image> in a text.
    assert asked[0]["pixel_values"].shape[:2] == (1, 15) and read.count("<image>") == 3 * 5 * 4
    assert "lift \\u003cimage\\u003e the cup" in read and read.index("The start of the event") < read.index("Its middle") < read.index(
        "Its end"
    )
    assert "pixel_values" not in asked[1] and '1. "A."' in ours._resident.tokenizer.decode(asked[1]["input_ids"][0])
    assert not asked[0]["generation_config"].do_sample


@pytest.mark.parametrize("kind", KINDS)
def test_the_pictures_of_the_event_are_what_the_network_sees(tmp_path: Path, episode, kind: str) -> None:
    ours = captioner(image_text_model(tmp_path, kind), answer_tokens=512, motion_mask=True)
    frames = np.zeros((6, 32, 32, 3), np.uint8)
    frames[:] = (np.array([0, 40, 80, 120, 160, 200], np.uint8)[:, None] + np.array([0, 20, 50], np.uint8))[:, None, None]
    asked = dictate(ours._resident, json.dumps(ANSWER))
    ours.describe(EventRequest(episode, frames, 1, 6, ""))
    pixels = asked[0]["pixel_values"][0]
    # A picture is cut into two by two tiles and shown whole: the tiles of one even frame are all of its colour, -1 is black and 1 white.
    colours = (pixels.float().mean(dim=(2, 3)) * 127.5 + 127.5).round().int().tolist()
    assert colours[:15] == [[red, red + 20, red + 50] for red in (40, 120, 200) for _ in range(5)] and len(colours) == 20, (
        "and the mask last"
    )


def test_a_network_of_another_family(tmp_path: Path, episode) -> None:
    ours = captioner(qwen_model(tmp_path), answer_tokens=512, motion_mask=True)
    asked = dictate(ours._resident, json.dumps(ANSWER), '{"text": "All of it."}')
    assert ours.describe(EventRequest(episode, episode.video.frames, 0, 6, "lift it")).text == "A cup is lifted."
    # 64 x 48 px in patches of 8: time, rows and columns of each picture.
    assert asked[0]["image_grid_thw"].tolist() == [[1, 6, 8]] * 4
    assert ours.merge(["A.", "B."]) == "All of it." and "pixel_values" not in asked[1]


def test_a_random_network_gives_no_captions_and_says_so(folder: Path, episode) -> None:
    report = Report()
    parameters = CaptionParameters(answer_tokens=64)
    with pytest.raises(BadDataError, match="the one event without a usable caption, the last because the answer"):
        caption(episode, episode.video.frames, captioner(folder), parameters, report=report)
    assert report.counts["events without a usable caption"] == 1 and "event 1 of 1 (frames 0 to 5)" in report.notes[0]


def answers_of(ours: SmolVLM, question: Any, monkeypatch: pytest.MonkeyPatch, times: int) -> list[str]:
    """What the network said, each time unusable."""
    said: list[str] = []
    ask = chat_network.ChatNetwork.ask

    def listened(self: Any, *given: Any) -> str:
        try:
            said.append(ask(self, *given))
        except ValueError as error:
            said.append(str(error))
            raise
        return said[-1]

    monkeypatch.setattr(chat_network.ChatNetwork, "ask", listened)
    for _ in range(times):
        with pytest.raises(ValueError):
            ours.describe(question)
    monkeypatch.undo()
    return said


def test_first_answers_are_the_likeliest_and_later_ones_sampled_by_seed(folder: Path, episode, monkeypatch: pytest.MonkeyPatch) -> None:
    question = EventRequest(episode, episode.video.frames, 0, 6, "")
    state = torch.get_rng_state()
    one, again, other = (answers_of(captioner(folder, seed), question, monkeypatch, 3) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state), "nobody else's random numbers change"
    assert one == again and len(set(one)) == 3, "reproducible, and every attempt another one"
    assert one[0] == other[0] and one[1] != other[1]


def test_one_model_is_resident_at_a_time(folder: Path, merger: Path, episode) -> None:
    ours = captioner(folder, answer_tokens=512, merge_model=str(merger))
    sees = ours._resident
    with pytest.raises(ValueError):
        ours.merge(["A.", "B."])
    merges = ours._resident
    assert merges is not sees and type(merges.model).__name__ == "LlamaForCausalLM"
    asked = dictate(merges, '{"text": "Both."}')
    assert ours.merge(["A.", "C."]) == "Both." and ours._resident is merges
    assert '2. "C."' in merges.tokenizer.decode(asked[0]["input_ids"][0])
    with pytest.raises(ValueError):
        ours.describe(EventRequest(episode, episode.video.frames, 0, 6, ""))
    assert type(ours._resident.model).__name__ == "Idefics3ForConditionalGeneration"
    ours.close()
    assert ours._resident is None
    ours.close()


def test_digests(tmp_path: Path, folder: Path, merger: Path) -> None:
    one = captioner(folder).weights_sha256()
    assert one == sha256_of(folder / "model.safetensors")
    two = captioner(folder, merge_model=str(merger)).weights_sha256()
    assert len(two) == 64 and two not in (one, model_sha256(merger))
    shards = image_text_model(tmp_path, "idefics3", shard="60KB")
    files = sorted(shards.glob("model-*.safetensors"))
    assert len(files) >= 2
    before = captioner(shards).weights_sha256()
    tensors = safetensors.torch.load_file(files[-1])
    name = sorted(tensors)[0]
    safetensors.torch.save_file({**tensors, name: tensors[name] + 1}, files[-1], metadata={"format": "pt"})
    assert captioner(shards).weights_sha256() != before, "all files count"


def test_the_question_must_fit(tmp_path: Path, episode) -> None:
    ours = captioner(image_text_model(tmp_path, "idefics3", positions=512))
    with pytest.raises(BadDataError, match="reads and writes 512 tokens at most"):
        ours.describe(EventRequest(episode, episode.video.frames, 0, 6, ""))


def test_nan_is_an_error(tmp_path: Path, episode) -> None:
    ours = captioner(image_text_model(tmp_path, "idefics3"))
    with torch.no_grad():
        ours._resident.model.lm_head.weight[3] = torch.nan
    with pytest.raises(BadDataError, match="caption: the model returns NaN"):
        ours.describe(EventRequest(episode, episode.video.frames, 0, 6, ""))


def test_out_of_memory_says_what_to_set(folder: Path, episode, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = captioner(folder)

    def full(**_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(ours._resident.model, "generate", full)
    with pytest.raises(StorageError, match="--picture-size"):
        ours.describe(EventRequest(episode, episode.video.frames, 0, 6, ""))


def damaged(folder: Path, tmp_path: Path) -> tuple[Path, dict[str, torch.Tensor]]:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    return copy, safetensors.torch.load_file(copy / "model.safetensors")


def test_weights_of_another_architecture_are_refused(folder: Path, merger: Path, tmp_path: Path) -> None:
    copy, tensors = damaged(folder, tmp_path)
    name = "model.text_model.layers.1.mlp.down_proj.weight"
    without = {key: value for key, value in tensors.items() if key != name}
    for wrong, reason in (
        (without, f"{name} is missing"),
        ({**tensors, name: torch.zeros(3, 4)}, rf"{name} has the shape"),
        ({**tensors, name.replace("layers.1", "layers.2"): tensors[name].clone()}, "there is no place for"),
    ):
        safetensors.torch.save_file(wrong, copy / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(BadDataError, match=reason):
            captioner(copy)
    (copy / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-1000])
    with pytest.raises(BadDataError, match="not readable"):
        captioner(copy)
    with pytest.raises(BadDataError, match=r"not readable as an image-text model of transformers: it is another kind of network$"):
        captioner(merger)


def test_nothing_in_a_folder_is_run(folder: Path, tmp_path: Path) -> None:
    copy, _ = damaged(folder, tmp_path)
    trap = tmp_path / "ran"
    (copy / "evil.py").write_text(f"open({str(trap)!r}, 'w')\nclass Model: pass\nclass Config: pass\n")
    config = json.loads((copy / "config.json").read_text())
    auto = {"AutoConfig": "evil.Config", "AutoModelForImageTextToText": "evil.Model", "AutoProcessor": "evil.Model"}
    (copy / "config.json").write_text(json.dumps({**config, "model_type": "evil", "auto_map": auto}))
    with pytest.raises(BadDataError, match="not readable"):
        captioner(copy)
    (copy / "config.json").write_text(json.dumps(config))
    pickled = {"model.text_model.norm.weight": torch.ones(32)}
    (copy / "model.safetensors").unlink()
    torch.save(pickled, copy / "pytorch_model.bin")
    with pytest.raises(UnavailableError, match=r"has no model.safetensors"):
        captioner(copy)
    assert not trap.exists()


def test_a_model_that_knows_no_chat_is_refused(folder: Path, tmp_path: Path) -> None:
    copy, _ = damaged(folder, tmp_path)
    (copy / "chat_template.jinja").unlink()
    for name in ("tokenizer_config.json", "processor_config.json"):
        content = json.loads((copy / name).read_text())
        content.pop("chat_template", None)
        (copy / name).write_text(json.dumps(content))
    with pytest.raises(BadDataError, match="no chat template"):
        captioner(copy)


def test_missing_says_how_to_get_it(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert f"{DEFAULT} is not on this machine" in str(SmolVLM.missing(BackendSetup())) and "--download" in str(
        SmolVLM.missing(BackendSetup())
    )
    assert SmolVLM.missing(BackendSetup(weights=str(folder))) is None
    assert "no folder ./nowhere" in str(SmolVLM.missing(BackendSetup(weights="./nowhere")))
    merge = BackendSetup(weights=str(folder), parameters=CaptionParameters(merge_model="owner/text"))
    assert "owner/text" in str(SmolVLM.missing(merge)) and "--merge-model" in str(SmolVLM.missing(merge))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "HF_HUB_OFFLINE" in str(SmolVLM.missing(BackendSetup(download=True)))
    (tmp_path / "empty").mkdir()
    assert "no config.json" in str(SmolVLM.missing(BackendSetup(weights=str(tmp_path / "empty"))))


def test_the_hubs_cache_counts_once_all_files_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--owner--model"
    snapshot = repository / "snapshots" / "abc"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc")
    snapshot.mkdir(parents=True)
    image_text_model(snapshot, "idefics3", shard="60KB")
    assert find_model("owner/model") == snapshot and missing_model("owner/model", download=False, flag="--weights") is None
    last = sorted(snapshot.glob("model-*.safetensors"))[-1]
    last.rename(tmp_path / last.name)
    assert find_model("owner/model") is None and "--download" in str(missing_model("owner/model", download=False, flag="--weights"))
    index = snapshot / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "../../secret.safetensors"}}))
    assert find_model("owner/model") is None


def test_smolvlm_without_num2words_says_what_to_install(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy, _ = damaged(folder, tmp_path)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "model_type": "smolvlm"}))
    monkeypatch.setitem(sys.modules, "num2words", None)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "num2words" else find(name))
    assert "pip install num2words" in str(SmolVLM.missing(BackendSetup(weights=str(copy))))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    reason = str(SmolVLM.missing(BackendSetup()))
    assert "--download" in reason and "pip install num2words" in reason, "all that is missing, at once"
    assert "num2words" not in str(SmolVLM.missing(BackendSetup(weights="owner/other")))


def test_missing_does_not_import_torch() -> None:
    code = (
        "import sys; from tracekit.backends.protocols import BackendSetup; from tracekit.backends.captioning.smolvlm import SmolVLM;"
        "SmolVLM.missing(BackendSetup()); assert not {'torch', 'transformers'} & set(sys.modules), 'imported'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_registry_knows_it_and_auto_prefers_it(folder: Path) -> None:
    report = Report()
    setup = BackendSetup("cpu", weights=str(folder), parameters=CaptionParameters())
    assert registry.create("captioning", "auto", setup, report).name == "smolvlm"
    assert registry.names("captioning")[:3] == ["smolvlm", "api", "template"]


def test_questions_for_events_and_captions_read_alike_by_both_kinds_of_model(folder: Path, merger: Path, episode) -> None:
    pictures = take_pictures(EventRequest(episode, episode.video.frames, 0, 6, ""), 512, with_mask=False)
    network = chat_network.ChatNetwork(merger, torch.device("cpu"), sees=False)
    read = network.tokenizer.decode(network._inputs(about_captions(["A.", "B."]))["input_ids"][0])
    assert read.startswith("<|im_start|>user: You get the captions") and read.endswith("Assistant:")
    sees = chat_network.ChatNetwork(folder, torch.device("cpu"), sees=True)
    read = sees.tokenizer.decode(sees._inputs(about_event(pictures, "", 3))["input_ids"][0])
    assert read.startswith("<|im_start|>user: You describe a short event") and read.endswith("Assistant:")
