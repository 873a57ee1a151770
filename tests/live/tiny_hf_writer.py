"""Write a tiny Llama checkpoint with random weights: `python tiny_hf_writer.py FOLDER CONTEXT`.

Runs on the interpreter of the engine, which has what it needs (numpy, tokenizers, safetensors): no extra of ours for it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

PAD, BOS, EOS = "<pad>", "<s>", "</s>"
SPECIAL = (PAD, BOS, EOS)
VOCABULARY = 384  # 3 special tokens, 256 bytes, and what was merged; a multiple of 64, as vLLM pads it to
WIDTH, HEADS, LAYERS = 128, 2, 2
SEED = 20261125
# Words to merge bytes into. The characters of several bytes stand here once: some become a token, some stay byte tokens.
WORDS = """rain came down over the hills and the river rose; people kept reading by lamp light, while a train went by.
numbers count one two three four five; a queue has a head and a tail, a stream has a begin and an end.
señor müller æsir 東京 中文 🙂 🎉 здесь"""


def tokenizer() -> Tokenizer:
    """Byte-level: any text has tokens, and a random walk over them is often no text."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        min_frequency=1,
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=[AddedToken(name, special=True, normalized=False) for name in SPECIAL],
    )
    made.train_from_iterator([WORDS] * 3, trainer)
    return made


def weights(vocabulary: int) -> dict[str, np.ndarray]:
    """Scaled so that the tokens that follow a prompt differ, and depend on all of it."""
    draw = np.random.default_rng(SEED)

    def matrix(rows: int, columns: int, scale: float = 1.0) -> np.ndarray:
        return draw.standard_normal((rows, columns), dtype=np.float32) * np.float32(scale / columns**0.5)

    ones = np.ones(WIDTH, np.float32)
    head = matrix(VOCABULARY, WIDTH, 2.0)
    head[vocabulary:] = 0  # ids without a token must not win
    tensors = {
        "model.embed_tokens.weight": matrix(VOCABULARY, WIDTH, WIDTH**0.5),
        "model.norm.weight": ones,
        "lm_head.weight": head,
    }
    for layer in range(LAYERS):
        at = f"model.layers.{layer}"
        tensors[f"{at}.input_layernorm.weight"] = tensors[f"{at}.post_attention_layernorm.weight"] = ones
        for name in "qkvo":
            tensors[f"{at}.self_attn.{name}_proj.weight"] = matrix(WIDTH, WIDTH)
        for name, rows, columns in (("gate", 2 * WIDTH, WIDTH), ("up", 2 * WIDTH, WIDTH), ("down", WIDTH, 2 * WIDTH)):
            tensors[f"{at}.mlp.{name}_proj.weight"] = matrix(rows, columns)
    return {name: np.array(tensor) for name, tensor in sorted(tensors.items())}  # copies: shared tensors are refused


def write(folder: Path, context: int) -> None:
    """All files of a checkpoint; the same bytes every time."""
    words = tokenizer()
    ids = {name: words.token_to_id(name) for name in SPECIAL}
    ends = {"bos_token_id": ids[BOS], "eos_token_id": ids[EOS], "pad_token_id": ids[PAD]}
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": VOCABULARY,
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "max_position_embeddings": context,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        **ends,
    }
    names = {"pad_token": PAD, "bos_token": BOS, "eos_token": EOS, "unk_token": PAD}
    # What a request leaves out is taken from here: with values that would show, were they ever.
    generation = {**ends, "do_sample": True, "temperature": 0.3, "top_k": 2, "top_p": 0.5, "repetition_penalty": 1.5}
    files = {
        "config.json": config,
        "generation_config.json": generation,
        "tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": context, **names},
        "special_tokens_map.json": names,
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    words.save(str(folder / "tokenizer.json"))
    save_file(weights(words.get_vocab_size()), str(folder / "model.safetensors"), metadata={"format": "pt"})


if __name__ == "__main__":
    write(Path(sys.argv[1]), int(sys.argv[2]))
