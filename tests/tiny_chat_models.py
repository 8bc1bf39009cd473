"""Image-text and text models of transformers with random weights and a few thousand numbers, in folders as a hub would give them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

SPECIAL = ("<pad>", "<|im_start|>", "<end_of_utterance>", "<image>", "<fake_token_around_image>", "<global-img>")
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}: "
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% else %}<image>{% endif %}{% endfor %}{% endif %}"
    "<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)
TILE = 32


def tokenizer() -> transformers.PreTrainedTokenizerFast:
    """One token a byte, and the marks of the SmolVLM family: whatever text can be said with it."""
    marks = [*SPECIAL, *(f"<row_{i}_col_{j}>" for i in range(1, 7) for j in range(1, 7))]
    alphabet = {letter: number for number, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    words = Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    words.decoder = decoders.ByteLevel()
    words.add_special_tokens(marks)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="<end_of_utterance>", chat_template=TEMPLATE
    )


def image_text_model(folder: Path, kind: str, *, seed: int = 0, shard: str = "1GB", positions: int = 16384) -> Path:
    """`kind` is smolvlm or idefics3 (which SmolVLM is made of, and which needs no num2words)."""
    words = tokenizer()
    sizes: dict[str, Any] = {
        "vision_config": {
            "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": TILE, "patch_size": 8,
        },
        "text_config": {
            "model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
            "num_key_value_heads": 1, "vocab_size": len(words), "max_position_embeddings": positions, "pad_token_id": words.pad_token_id,
            "bos_token_id": 0, "eos_token_id": words.eos_token_id,
        },
        "scale_factor": 2, "image_token_id": words.convert_tokens_to_ids("<image>"), "pad_token_id": words.pad_token_id,
        "tie_word_embeddings": False,
    }  # fmt: skip
    cut = {"max_image_size": {"longest_edge": TILE}, "size": {"longest_edge": 4 * TILE}}
    torch.manual_seed(seed)
    if kind == "smolvlm":
        model: Any = transformers.SmolVLMForConditionalGeneration(transformers.SmolVLMConfig(**sizes))
        sees = transformers.SmolVLMImageProcessor(**cut)
        processor: Any = transformers.SmolVLMProcessor(
            sees, words, transformers.SmolVLMVideoProcessor(**cut), image_seq_len=4, chat_template=TEMPLATE
        )
    else:
        model = transformers.Idefics3ForConditionalGeneration(transformers.Idefics3Config(**sizes))
        processor = transformers.Idefics3Processor(
            transformers.Idefics3ImageProcessor(**cut), words, image_seq_len=4, chat_template=TEMPLATE
        )
    model.save_pretrained(folder, max_shard_size=shard)
    processor.save_pretrained(folder)
    return folder


def qwen_model(folder: Path) -> Path:
    """A Qwen2-VL: an image-text model of another family, with another processor, other marks and other positions."""
    words = tokenizer()
    marks = {name: f"<|{name}|>" for name in ("vision_start", "vision_end", "image_pad", "video_pad")}
    words.add_special_tokens({"additional_special_tokens": list(marks.values())})
    words.chat_template = TEMPLATE.replace("<image>", marks["vision_start"] + marks["image_pad"] + marks["vision_end"])
    ids = {name: words.convert_tokens_to_ids(mark) for name, mark in marks.items()}
    torch.manual_seed(0)
    config = transformers.Qwen2VLConfig(
        vision_config={
            "depth": 1, "embed_dim": 16, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2, "patch_size": 8, "spatial_merge_size": 2,
        },
        text_config={
            "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
            "vocab_size": len(words), "max_position_embeddings": 16384, "bos_token_id": 0, "eos_token_id": words.eos_token_id,
            "pad_token_id": words.pad_token_id, "rope_scaling": {"type": "mrope", "rope_type": "default", "mrope_section": [2, 3, 3]},
        },
        image_token_id=ids["image_pad"], video_token_id=ids["video_pad"], vision_start_token_id=ids["vision_start"],
        vision_end_token_id=ids["vision_end"],
    )  # fmt: skip
    cut = {"patch_size": 8, "merge_size": 2, "size": {"shortest_edge": 16 * 16, "longest_edge": 512 * 512}}
    processor = transformers.Qwen2VLProcessor(
        transformers.Qwen2VLImageProcessor(**cut), words, transformers.Qwen2VLVideoProcessor(**cut), chat_template=words.chat_template
    )
    transformers.Qwen2VLForConditionalGeneration(config).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def text_model(folder: Path, *, seed: int = 0) -> Path:
    """A Llama."""
    words = tokenizer()
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=len(words), hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, bos_token_id=0,
        eos_token_id=words.eos_token_id, pad_token_id=words.pad_token_id, max_position_embeddings=16384,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder
