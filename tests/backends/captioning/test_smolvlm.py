"""The real classes of transformers with small random weights: SmolVLM, Idefics3, which it is made of, and a Llama that merges."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from functools import partial
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
from tracekit.backends.captioning.caption_prompts import Question, about_captions, about_event
from tracekit.backends.captioning.event_pictures import take_pictures
from tracekit.backends.captioning.model_folders import find_model, missing_model, model_sha256
from tracekit.backends.captioning.smolvlm import DEFAULT, SmolVLM
from tracekit.backends.protocols import BackendSetup, EventRequest
from tracekit.backends.weights import sha256_of
from tracekit.errors import BadDataError, StorageError, UnavailableError
from tracekit.extract.caption import CaptionParameters, caption
from tracekit.records import Clip, Episode, Events
from tracekit.report import Report

NUM2WORDS = pytest.mark.skipif(importlib.util.find_spec("num2words") is None, reason="transformers needs num2words")
KINDS = [
    "idefics3",
    pytest.param("smolvlm", marks=NUM2WORDS),
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
    """Has a network say these tokens in each row of a batch, whatever it would say itself; then anything at all."""

    def __init__(self, rows: list[list[int]]) -> None:
        self.rows = [list(tokens) for tokens in rows]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        forced = torch.full_like(scores, -torch.inf)
        for row, tokens in enumerate(self.rows):
            forced[row, tokens.pop(0) if tokens else 100] = 0.0
        return forced


def dictate(network: Any, *answers: str | None) -> list[dict[str, Any]]:
    """The network runs, and says these answers one after the other, row by row of a batch; what it was asked is returned. None has no end."""
    asked: list[dict[str, Any]] = []
    generate, left = network.model.generate, list(answers)

    def row_of(answer: str | None) -> list[int]:
        if answer is None:
            return []
        return [*network.tokenizer(answer, add_special_tokens=False)["input_ids"], network.tokenizer.eos_token_id]

    def dictated(**given: Any) -> Any:
        asked.append(given)
        rows = [row_of(left.pop(0)) for _ in given["input_ids"]]
        return generate(**{**given, "logits_processor": LogitsProcessorList([*given["logits_processor"], Dictated(rows)])})

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

    def listened(self: Any, *given: Any) -> list[str | ValueError]:
        answers = ask(self, *given)
        said.extend(str(answer) for answer in answers)
        return answers

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
    ours.events.size = 2
    with pytest.raises(BadDataError, match="caption: the model returns NaN"):
        list(ours.describe_each([EventRequest(episode, episode.video.frames, 0, stop, "") for stop in (5, 6)]))


def test_out_of_memory_says_what_to_set(folder: Path, episode, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = captioner(folder)

    def full(**_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(ours._resident.model, "generate", full)
    with pytest.raises(StorageError, match="--picture-size"):
        ours.describe(EventRequest(episode, episode.video.frames, 0, 6, ""))


def question(num_pictures: int, text: str, size: tuple[int, int] = (48, 64)) -> Question:
    rng = np.random.default_rng(num_pictures)
    pictures = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for _ in range(num_pictures)]
    return Question("event_caption", "Describe it.", (text, *pictures), {})


MIXED = [(3, "lift it"), (4, "a much longer description of the whole " * 9), (1, ""), (2, "x")]
"""Questions of other lengths, and with other numbers of pictures."""


@pytest.mark.parametrize(
    "make",
    [
        partial(image_text_model, kind="idefics3"),
        pytest.param(partial(image_text_model, kind="smolvlm"), marks=NUM2WORDS),
        qwen_model,
        text_model,
    ],
    ids=["idefics3", "smolvlm", "qwen2-vl", "llama"],
)
def test_answers_in_a_batch_are_those_that_come_alone(tmp_path: Path, make: Any) -> None:
    network = chat_network.ChatNetwork(make(tmp_path), torch.device("cpu"), sees=make is not text_model)
    questions = [question(pictures if network.sees else 0, text) for pictures, text in MIXED]
    alone = [str(network.ask([one], 48)[0]) for one in questions]
    widths = widths_of(network)
    together = [str(answer) for answer in network.ask(questions, 48)]
    assert together == alone and len(set(alone)) >= 3 and widths == [4], "the network must really see all four at once"


def widths_of(network: Any) -> list[int]:
    """How many questions each pass of the network holds from now on."""
    widths: list[int] = []
    generate = network.model.generate

    def counted(**given: Any) -> Any:
        widths.append(len(given["input_ids"]))
        return generate(**given)

    network.model.generate = counted
    return widths


def test_pictures_of_other_sizes_do_not_share_a_batch(folder: Path) -> None:
    """Into how many tiles a picture is cut would depend on the others."""
    network = chat_network.ChatNetwork(folder, torch.device("cpu"), sees=True)
    questions = [question(1, "a"), question(1, "b", (24, 32))]
    alone = [str(network.ask([one], 48)[0]) for one in questions]
    widths = widths_of(network)
    assert [str(answer) for answer in network.ask(questions, 48)] == alone and widths == [1, 1]


def test_a_network_that_takes_no_batches_is_asked_one_by_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for fault in ("no padding", "the processor", "the right"):
        network = chat_network.ChatNetwork(folder, torch.device("cpu"), sees=True)
        questions = [question(3, "a longer one"), question(3, "b")]
        alone = [str(network.ask([one], 48)[0]) for one in questions]
        apply = network.processor.apply_chat_template

        def faulty(chats: Any, fault: str = fault, apply: Any = apply, **options: Any) -> Any:
            if isinstance(chats[0], list) and fault == "the processor":
                raise IndexError("list index out of range")
            if isinstance(chats[0], list):
                options["processor_kwargs"]["text_kwargs"]["padding_side"] = "right"
            return apply(chats, **options)

        if fault == "no padding":
            network.tokenizer.pad_token = None
            network._takes_batches = network.tokenizer.pad_token_id is not None
        else:
            monkeypatch.setattr(network.processor, "apply_chat_template", faulty)
        widths = widths_of(network)
        assert [str(answer) for answer in network.ask(questions, 48)] == alone and widths == [1, 1], fault


def clip_of(num_events: int, num_frames: int = 4) -> tuple[Episode, np.ndarray]:
    """An episode of events, each with its own colours."""
    edges = np.arange(num_events + 1, dtype=np.int32) * num_frames
    total = num_events * num_frames
    frames = np.random.default_rng(0).integers(0, 256, (total, 48, 64, 3), dtype=np.uint8)
    clip = Clip("x", "", 10.0, 64, 48, 64, 48, 0, "test", total, 0, np.arange(total) / 10.0, np.arange(total, dtype=np.int32))
    flat = np.zeros(total, np.float32)
    return Episode("clip", clip, events=Events(flat, flat, np.zeros(0, np.int32), edges[:-1], edges[1:])), frames


class Listening(Report):
    """Remembers what progress is told."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[tuple[int, int, str]] = []

    def progress(self, done: int, total: int, unit: str) -> None:
        self.told.append((done, total, unit))


def said(number: int) -> str:
    return json.dumps({**ANSWER, "text": f"Event {number}."})


def test_one_bad_answer_in_a_batch_does_not_hurt_its_neighbours(folder: Path) -> None:
    ours = captioner(folder, answer_tokens=400)
    ours.events.size = ours.summaries.size = 3
    episode, frames = clip_of(5)
    asked = dictate(
        ours._resident,
        *(said(1), None, said(3)),  # the second is cut off
        *("", said(5)),  # the fourth is empty
        *("still no JSON", said(4)),  # asked again, sampled one by one
        *('{"text": "All but the second."}',),
    )
    report = Listening()
    captions = caption(episode, frames, ours, CaptionParameters(answer_tokens=400, windows="all"), report=report)
    assert captions.event_text == ["Event 1.", "", "Event 3.", "Event 4.", "Event 5."]
    assert captions.event_ok.tolist() == [1, 0, 1, 1, 1] and captions.summary_text == ["All but the second."]
    assert [len(given["input_ids"]) for given in asked] == [3, 2, 1, 1, 1]
    assert [given["generation_config"].do_sample for given in asked] == [False, False, True, True, False]
    assert report.notes == ["no caption for event 2 of 5 (frames 4 to 7): the answer is not JSON: still no JSON"]
    assert report.told == [*((done, 5, "events") for done in range(1, 6)), (1, 1, "summaries")]


def test_retries_do_not_depend_on_the_batch(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    episode, frames = clip_of(3)
    heard = []
    for size in (1, 3):
        ours = captioner(folder)
        ours.events.size = size
        ask = chat_network.ChatNetwork.ask
        answers: list[str] = []

        def listened(self: Any, *given: Any, ask: Any = ask, answers: list[str] = answers) -> Any:
            got = ask(self, *given)
            answers.extend(str(answer) for answer in got)
            return got

        monkeypatch.setattr(chat_network.ChatNetwork, "ask", listened)
        with pytest.raises(BadDataError, match="all 3 events"):
            caption(episode, frames, ours, CaptionParameters(answer_tokens=64, attempts=3), report=Report())
        monkeypatch.undo()
        heard.append(answers)
    assert heard[0] == heard[1] and len(set(heard[0][3:])) == 6


def test_a_batch_that_does_not_fit_is_halved_for_good(folder: Path) -> None:
    """Faults in the words of torch and CUDA; one of cuBLAS, too, which does not say that memory is short by its type."""
    ours = captioner(folder, answer_tokens=512)
    ours.events.size = ours.summaries.size = 4
    episode, frames = clip_of(6)
    asked = dictate(ours._resident, *(said(number) for number in range(1, 7)), '{"text": "All."}')
    generate, tried = ours._resident.model.generate, []

    def small(**given: Any) -> Any:
        width = len(given["input_ids"])
        tried.append(width)
        if width == 4:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 15.77 GiB")
        if width == 2 and given["input_ids"].shape[1] > 64:
            raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")
        return generate(**given)

    ours._resident.model.generate = small
    report = Listening()
    captions = caption(episode, frames, ours, CaptionParameters(answer_tokens=512, windows="all"), report=report)
    assert captions.event_text == [f"Event {number}." for number in range(1, 7)]
    assert tried == [4, 2, *[1] * 6, 1] and len(asked) == 7
    assert ours.events.size == 1 and ours.summaries.size == 4, "captions of captions need less"
    assert report.told[:6] == [(done, 6, "events") for done in range(1, 7)]

    def full(**_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    ours._resident.model.generate = full
    with pytest.raises(StorageError, match=r"out of memory on cpu: CUDA out of memory. Tried to allocate 2.00 GiB"):
        caption(episode, frames, ours, CaptionParameters(answer_tokens=512), report=Report())


def test_no_more_than_the_pictures_of_one_batch_are_taken(folder: Path) -> None:
    ours = captioner(folder, answer_tokens=512)
    ours.events.size = 2
    episode, frames = clip_of(6)
    dictate(ours._resident, *(said(number) for number in range(1, 7)))
    taken: list[int] = []

    class Watched:
        def __getitem__(self, frame: slice) -> np.ndarray:
            taken.append(frame.start // 4)
            return frames[frame]

    answers = ours.describe_each([EventRequest(episode, Watched(), start, start + 4, "") for start in range(0, 24, 4)])
    for number in range(1, 7):
        assert next(answers).text == f"Event {number}."
        assert len(set(taken)) == (number + 1) // 2 * 2


class NanFrom(LogitsProcessor):
    """One row of a batch is NaN from the 40th word on."""

    def __init__(self, row: int, num_read: int) -> None:
        self.row, self.num_read = row, num_read

    def __call__(self, tokens: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if len(scores) > 1 and tokens.shape[1] - self.num_read >= 40:
            scores = scores.clone()
            scores[self.row] = torch.nan
        return scores


def test_nan_in_a_batch_is_looked_into_one_by_one_unless_the_row_has_ended(folder: Path) -> None:
    episode, frames = clip_of(2)
    requests = [EventRequest(episode, frames, start, start + 4, "") for start in (0, 4)]
    short = '{"text": 1}'
    for row, passes in ((0, [2]), (1, [2, 1, 1])):
        ours = captioner(folder, answer_tokens=512)
        ours.events.size = 2
        asked = dictate(ours._resident, *(short, said(2)) * 2)
        dictated = ours._resident.model.generate

        def broken(row: int = row, dictated: Any = dictated, **given: Any) -> Any:
            first = NanFrom(row, given["input_ids"].shape[1])
            return dictated(**{**given, "logits_processor": LogitsProcessorList([first, *given["logits_processor"]])})

        ours._resident.model.generate = broken
        first, second = ours.describe_each(requests)
        assert isinstance(first, ValueError) and second.text == "Event 2."
        assert [len(given["input_ids"]) for given in asked] == passes


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
    file = folder / "model.safetensors"
    assert f"{file} is a file: --weights needs the folder" in str(SmolVLM.missing(BackendSetup(weights=str(file))))
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
    read = network.tokenizer.decode(network._inputs([about_captions(["A.", "B."])])["input_ids"][0])
    assert read.startswith("<|im_start|>user: You get the captions") and read.endswith("Assistant:")
    sees = chat_network.ChatNetwork(folder, torch.device("cpu"), sees=True)
    read = sees.tokenizer.decode(sees._inputs([about_event(pictures, "", 3)])["input_ids"][0])
    assert read.startswith("<|im_start|>user: You describe a short event") and read.endswith("Assistant:")
