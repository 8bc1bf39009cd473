"""A network of transformers that one can talk to, with pictures or without, from a folder: exactly the weights that are in it, or an error.

Nothing in the folder can run code: weights are safetensors, classes are those of transformers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tracekit.backends.captioning.caption_prompts import RETRY_TEMPERATURE, Question
from tracekit.backends.memory import is_out_of_memory
from tracekit.backends.transformers_folder import SAFELY, STRICTLY, refuse_foreign_parts, refuse_other_weights, silent_transformers
from tracekit.errors import BadDataError, StorageError, UnavailableError
from tracekit.extract.caption import clean


class ChatNetwork:
    """Answers questions, one or several in a batch."""

    def __init__(self, folder: Path, device: Any, *, sees: bool) -> None:
        """An image-text model where `sees`, else a text model. bfloat16 on a GPU, float32 elsewhere.

        Raises BadDataError when a file is damaged, when the weights are those of another network, or when there is no chat template;
        UnavailableError when transformers lacks a package for this model; StorageError when memory does not hold it.
        """
        self.folder, self.device, self.sees = folder, device, sees
        self.processor: Any
        self.model: Any
        refuse_foreign_parts(folder)
        with silent_transformers():
            self.processor, self.model = self._load()
        self.tokenizer: Any = getattr(self.processor, "tokenizer", self.processor)
        self.tokenizer.padding_side = "left"  # an answer goes on where its question ends
        self._takes_batches = self.tokenizer.pad_token_id is not None
        if not getattr(self.processor, "chat_template", None) and not self.tokenizer.chat_template:
            raise BadDataError(
                f"{folder}: the model has no chat template", hint="take one that follows instructions (-Instruct, -it, -chat)"
            )

    def ask(self, questions: Sequence[Question], most_tokens: int, seed: int | None = None) -> list[str | ValueError]:
        """The model's answer to each question, as it is, or the ValueError of one that reaches `most_tokens` before its end.

        `seed` None: its likeliest answers, word by word; else sampled, the same for the same seed and the same questions. What stands beside
        a question in a batch changes its likeliest answer by rounding alone. A network that takes no batches is asked one by one.

        Raises BadDataError when the network returns NaN or a question is longer than it can read, and what torch raises when memory does
        not hold the batch.
        """
        import torch

        with silent_transformers(), torch.inference_mode(), torch.random.fork_rng(self._cuda_devices(), enabled=seed is not None):
            if seed is not None:
                torch.manual_seed(seed)
            if len(questions) > 1 and self._takes_batches and _alike([self._sizes(question) for question in questions]):
                try:
                    return self._generate(self._inputs(questions), most_tokens, sampled=seed is not None)
                except Exception as error:
                    if is_out_of_memory(error):
                        raise
                    # Not all processors take several, and some networks make NaN of padding; what is wrong with a question shows alone, too.
                    self._takes_batches = False
            return [self._generate(self._inputs([question]), most_tokens, sampled=seed is not None)[0] for question in questions]

    def _load(self) -> tuple[Any, Any]:
        import torch
        import transformers

        kind: Any = transformers.AutoModelForImageTextToText if self.sees else transformers.AutoModelForCausalLM
        reader: Any = transformers.AutoProcessor if self.sees else transformers.AutoTokenizer
        dtype = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        try:
            processor = reader.from_pretrained(self.folder, **SAFELY)
            model, told = kind.from_pretrained(self.folder, dtype=dtype, **STRICTLY)
            model = model.eval().to(self.device)
        except ImportError as error:
            raise UnavailableError(f"{self.folder}: {clean(str(error), 300)}", hint="install what is named") from error
        except Exception as error:
            if is_out_of_memory(error):
                raise StorageError(
                    f"{self.folder}: out of memory on {self.device}", hint="take smaller --weights, or --device cpu"
                ) from error
            what = "an image-text model" if self.sees else "a text model"
            # What it does not recognise transformers tells with the list of all that it does.
            reason = "it is another kind of network" if str(error).startswith("Unrecognized") else clean(str(error), 200)
            raise BadDataError(f"{self.folder}: not readable as {what} of transformers: {reason}") from error
        refuse_other_weights(told, self.folder)
        return processor, model

    def _inputs(self, questions: Sequence[Question]) -> dict[str, Any]:
        """Everything in one turn of the user: not all models know a system's. Several questions are padded on the left to one length."""
        options: dict[str, Any] = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}
        chats: Any = [[{"role": "user", "content": self._content(question)}] for question in questions]
        together = len(chats) > 1
        if not self.sees:
            inputs = self.tokenizer.apply_chat_template(chats if together else chats[0], padding=together, **options)
        else:
            how: dict[str, Any] = {"text_kwargs": {"padding": True, "padding_side": "left"}} if together else {}
            if any(question.pictures for question in questions):
                how["images_kwargs"] = self._sizes(questions[0])
            inputs = self.processor.apply_chat_template(chats if together else chats[0], processor_kwargs=how, **options)
        if together and (len(inputs["input_ids"]) != len(questions) or not inputs["attention_mask"][:, -1].all()):
            raise RuntimeError("the processor gives no row for each question, or pads on the right")
        return self._on_device(inputs)

    def _content(self, question: Question) -> Any:
        from PIL import Image

        parts = (question.instructions, *question.parts)
        if not self.sees:
            return "\n".join(part for part in parts if isinstance(part, str))
        return [
            {"type": "text", "text": f"{part}\n"} if isinstance(part, str) else {"type": "image", "image": Image.fromarray(part)}
            for part in parts
        ]

    def _sizes(self, question: Question) -> dict[str, Any]:
        """Networks of the SmolVLM family cut a picture into tiles, and enlarge small ones to many: no more tiles than the pixels are worth."""
        sees: Any = getattr(self.processor, "image_processor", None)
        tile = getattr(sees, "max_image_size", None)
        if not question.pictures or not getattr(sees, "do_image_splitting", False) or not tile or "longest_edge" not in sees.size:
            return {}
        longest = max(max(picture.shape) for picture in question.pictures)
        tiles = math.ceil(longest / tile["longest_edge"])
        return {"size": {"longest_edge": min(sees.size["longest_edge"], tiles * tile["longest_edge"])}}

    def _on_device(self, inputs: Any) -> dict[str, Any]:
        return {
            name: value.to(self.device, self.model.dtype) if value.is_floating_point() else value.to(self.device)
            for name, value in inputs.items()
            if hasattr(value, "is_floating_point")
        }

    def _generate(self, inputs: dict[str, Any], most_tokens: int, *, sampled: bool) -> list[str | ValueError]:
        from transformers import GenerationConfig, LogitsProcessorList

        num_read = inputs["input_ids"].shape[1]
        limit = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        if limit is not None and num_read + most_tokens > limit:  # the longest has no padding
            raise BadDataError(
                f"{self.folder.name} reads and writes {limit} tokens at most: the question has {num_read}, the answer may have {most_tokens}",
                hint="take a smaller --picture-size or fewer --answer-tokens",
            )
        # Of the model's own way to generate only its marks are kept; the rest (sampling, penalties) is ours.
        own = self.model.generation_config
        ends = sorted({token for token in (*_all(own.eos_token_id), self.tokenizer.eos_token_id) if token is not None})
        pad = next((token for token in (own.pad_token_id, self.tokenizer.pad_token_id, *ends) if token is not None), None)
        how = {"do_sample": True, "temperature": RETRY_TEMPERATURE, "top_k": 0} if sampled else {"do_sample": False}
        config = GenerationConfig(max_new_tokens=most_tokens, eos_token_id=ends or None, pad_token_id=pad, **how)
        self.model.generation_config = GenerationConfig(eos_token_id=ends or None, pad_token_id=pad)
        checks = LogitsProcessorList([_RefuseNan(num_read, ends)])
        rows = self.model.generate(**inputs, generation_config=config, logits_processor=checks)[:, num_read:].tolist()
        return [self._until_end(row, ends, most_tokens) for row in rows]

    def _until_end(self, tokens: list[int], ends: list[int], most_tokens: int) -> str | ValueError:
        """The answer in a row of tokens: what follows its end is padding, while others of the batch go on."""
        end = next((place for place, token in enumerate(tokens) if token in ends), None)
        if end is None and len(tokens) >= most_tokens:
            return ValueError(
                f"the answer was cut off at {most_tokens} tokens: {self.tokenizer.decode(tokens[:40], skip_special_tokens=True)}"
            )
        text: str = self.tokenizer.decode(tokens[:end], skip_special_tokens=True)
        return text

    def _cuda_devices(self) -> list[Any]:
        return [self.device] if self.device.type == "cuda" else []


class _RefuseNan:
    """A logits processor: of NaN a likeliest word is made as of anything else. Rows that have come to their end say nothing any more."""

    def __init__(self, num_read: int, ends: list[int]) -> None:
        self.num_read, self.ends = num_read, ends

    def __call__(self, tokens: Any, scores: Any) -> Any:
        bad = scores.isnan().any(dim=1)
        if bad.any() and any(not set(said).intersection(self.ends) for said in tokens[bad, self.num_read :].tolist()):
            raise BadDataError("caption: the model returns NaN", hint="the weights may be damaged; try --device cpu, or other --weights")
        return scores


def _alike(things: Sequence[Any]) -> bool:
    return all(thing == things[0] for thing in things)


def _all(token: int | list[int] | None) -> list[int]:
    return token if isinstance(token, list) else [] if token is None else [token]
