"""The weights and the vocabulary of the tiny model; see tiny_gguf, which caches its files by a hash of this source.

How random weights are made to behave: the blocks contribute next to nothing, so the next token depends on the last one
alone, and its logits are RMSNorm(embedding) @ output. Every embedding has length 1, so RMSNorm multiplies it by
sqrt(WIDTH). The first channel is constant, which makes its column of the output matrix a bias; the next ones are flags
that say "after this token comes that one"; the rest is noise.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, TypeAlias

import gguf
import numpy as np
from tiny_gguf import long_token

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from tiny_gguf import Options

__all__ = ["write"]

WIDTH, HEADS, KV_HEADS, FEED_FORWARD, LAYERS = 64, 4, 2, 128, 2
HEAD = WIDTH // HEADS

SPLIT = ["🙂", "🚀", "é", "中"]  # come out byte by byte; a byte stands at one place only, in whichever of them
WHOLE = ["ß", "文", "🎉"]  # tokens of their own
CONTROL = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
UNK, BOS, EOS, _, EOT = range(len(CONTROL))
PROSE = """
now we see that no line ends where the page does and each small word may lead on to some other one until at last rain
came down over hills trees roads roofs while people inside kept reading by lamp light about far lands seas ships storms
stars maps birds stones rivers bread salt glass paper iron wood fire snow wind dust song door key road
"""
WORDS = list(dict.fromkeys(PROSE.split()))
HERALDS = 6  # words that lead to one split character
CLOSERS = 4  # words that may be the last one

NEVER = -60.0  # a bias no noise makes up for
LIKELY = 70.0  # from a word to the first byte: NEVER + LIKELY is just above the noise, the word often goes on otherwise
CERTAIN = 105.0  # from byte to byte
NOISE = 0.3  # of the output matrix: about 2.4 in a logit

FIRST_BYTE = len(CONTROL)
FIRST_TEXT = FIRST_BYTE + 256

CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

Matrix: TypeAlias = "NDArray[np.float64]"


def write(path: Path, options: Options) -> None:
    """Write the model file; the same options give the same bytes."""
    rng = np.random.default_rng(options.seed)
    texts = [*_texts(), *([long_token(options)] if options.long else [])]
    embedding, output = _wired(texts, options, rng)
    writer = gguf.GGUFWriter(path, "llama")
    _describe(writer, options, len(texts))
    _tokenizer(writer, texts, options)
    _tensor(writer, "token_embd.weight", embedding)
    _tensor(writer, "output_norm.weight", np.ones(WIDTH))
    _tensor(writer, "output.weight", output)
    for layer in range(LAYERS):
        _block(writer, f"blk.{layer}.", rng)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _texts() -> list[str]:
    """All tokens in the order of their ids."""
    single = ["\u2581", *map(chr, range(33, 127))]
    words = ["\u2581" + word for word in WORDS]
    # SentencePiece builds a word by merging pairs, so every beginning of a word has to be a token too.
    beginnings = [word[:end] for word in words for end in range(2, len(word))]
    pieces = list(dict.fromkeys([*single, *words, *WHOLE, *beginnings]))
    return [*CONTROL, *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]


def _leads(texts: Sequence[str], options: Options) -> list[tuple[list[int], list[int], float]]:
    """What is wired: (tokens, tokens that may follow any of them, logits on top)."""
    ids = {text: number for number, text in enumerate(texts)}
    words = [ids["\u2581" + word] for word in WORDS]
    start = HERALDS * len(SPLIT)
    leads = [(words[start : start + CLOSERS], [EOS], LIKELY - options.eos)]
    follows: dict[int, set[int]] = {}
    for number, character in enumerate(SPLIT):
        encoded = [FIRST_BYTE + byte for byte in character.encode()]
        leads.append((words[number * HERALDS : (number + 1) * HERALDS], [encoded[0]], LIKELY))
        for token, successor in itertools.pairwise(encoded):
            follows.setdefault(token, set()).add(successor)
    leads += [([token], sorted(after), CERTAIN) for token, after in follows.items()]
    if options.invalid:
        leads.append((words[-CLOSERS:], [FIRST_BYTE + 0xFF], LIKELY))
    return leads


def _wired(texts: Sequence[str], options: Options, rng: np.random.Generator) -> tuple[Matrix, Matrix]:
    leads = _leads(texts, options)
    rest = 1 + len(leads)  # the first channel of noise
    constant = flag = 0.5
    embedding = np.zeros((len(texts), WIDTH))
    embedding[:, 0] = constant
    for channel, (tokens, _, _) in enumerate(leads, start=1):
        embedding[tokens, channel] = flag
    noise = rng.normal(size=(len(texts), WIDTH - rest))
    missing = np.sqrt(1.0 - np.square(embedding).sum(axis=1))
    embedding[:, rest:] = noise * (missing / np.linalg.norm(noise, axis=1))[:, None]

    output = np.zeros((len(texts), WIDTH))
    output[:, rest:] = rng.normal(0, NOISE, (len(texts), WIDTH - rest))
    output[:, 0] = _bias(texts, options) / (constant * np.sqrt(WIDTH))
    for channel, (_, followers, logits) in enumerate(leads, start=1):
        output[followers, channel] = logits / (flag * np.sqrt(WIDTH))
    return embedding, output


def _bias(texts: Sequence[str], options: Options) -> Matrix:
    bias = np.zeros(len(texts))
    bias[:FIRST_TEXT] = NEVER
    for number, text in enumerate(texts[FIRST_TEXT:], start=FIRST_TEXT):
        if len(text) == 1 and text not in WHOLE:
            bias[number] = -1.0  # letters on their own less often than words
        elif text[1:] in WORDS[: HERALDS * len(SPLIT)]:
            bias[number] = 0.7
    if options.long:
        bias[-1] = NEVER
    return bias


def _describe(writer: gguf.GGUFWriter, options: Options, vocabulary: int) -> None:
    writer.add_name("tiny-random-llama")
    writer.add_description("random weights for the tests of worker-adapters; not a language model")
    writer.add_context_length(options.ctx)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(HEAD)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(vocabulary)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)


def _tokenizer(writer: gguf.GGUFWriter, texts: Sequence[str], options: Options) -> None:
    kinds = gguf.TokenType
    types = [kinds.UNKNOWN, *[kinds.CONTROL] * (len(CONTROL) - 1), *[kinds.BYTE] * 256]
    types += [kinds.NORMAL] * (len(texts) - FIRST_TEXT)
    if options.long:
        types[-1] = kinds.USER_DEFINED  # found in the text as it stands: no merging, and so no beginnings of it
    # The tokenizer merges the pair of the highest score first: longer pieces win, any merge beats a single character.
    scores = [0.0] * FIRST_TEXT + [-100.0 if len(text) == 1 else len(text) * 0.01 - 1.0 for text in texts[FIRST_TEXT:]]
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([text.encode() for text in texts])
    writer.add_token_scores(scores)
    writer.add_token_types([int(kind) for kind in types])
    writer.add_unk_token_id(UNK)
    writer.add_bos_token_id(BOS)
    writer.add_eos_token_id(EOS)
    writer.add_eot_token_id(EOT)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(True)
    writer.add_chat_template(CHAT_TEMPLATE)


def _block(writer: gguf.GGUFWriter, prefix: str, rng: np.random.Generator) -> None:
    """One transformer block that adds very little: enough for the prompt to matter, too little to undo the wiring."""

    def weights(rows: int, columns: int, scale: float = 1.0) -> Matrix:
        return scale * rng.normal(0, 0.08, (rows, columns))

    _tensor(writer, prefix + "attn_norm.weight", np.ones(WIDTH))
    _tensor(writer, prefix + "attn_q.weight", weights(WIDTH, WIDTH))
    _tensor(writer, prefix + "attn_k.weight", weights(KV_HEADS * HEAD, WIDTH))
    _tensor(writer, prefix + "attn_v.weight", weights(KV_HEADS * HEAD, WIDTH))
    _tensor(writer, prefix + "attn_output.weight", weights(WIDTH, WIDTH, 0.05))
    _tensor(writer, prefix + "ffn_norm.weight", np.ones(WIDTH))
    _tensor(writer, prefix + "ffn_gate.weight", weights(FEED_FORWARD, WIDTH))
    _tensor(writer, prefix + "ffn_up.weight", weights(FEED_FORWARD, WIDTH))
    _tensor(writer, prefix + "ffn_down.weight", weights(WIDTH, FEED_FORWARD, 0.05))


def _tensor(writer: gguf.GGUFWriter, name: str, values: Matrix) -> None:
    writer.add_tensor(name, np.ascontiguousarray(values, dtype=np.float32))
