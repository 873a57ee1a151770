"""Write a folder that Dynamo's mocker takes for a model: `python dynamo_words_writer.py FOLDER`.

The mocker draws ids from 1000 up, without a model behind: what there has to be is a vocabulary that has words there.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

SPECIAL = ("<pad>", "<s>", "</s>")
VOCABULARY = 4096
WORDS = "rain river hills lamp train queue stream count head tail".split()  # noqa: SIM905  -- as one reads them


def write(folder: Path) -> None:
    """All that is read of a checkpoint."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    names += [f"Ġ{WORDS[n % len(WORDS)]}{n // len(WORDS)}" for n in range(VOCABULARY - len(names))]
    made = Tokenizer(models.BPE(vocab={name: n for n, name in enumerate(names)}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in SPECIAL])
    made.save(str(folder / "tokenizer.json"))
    ends = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": VOCABULARY,
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "max_position_embeddings": 8192,
        "torch_dtype": "float32",
        **ends,
    }
    texts = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
    template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"  # it is asked for, and not used here
    tokenizer = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 8192, "chat_template": template}
    files = {
        "config.json": config,
        "generation_config.json": ends,
        "tokenizer_config.json": {**tokenizer, **texts},
        "special_tokens_map.json": texts,
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
