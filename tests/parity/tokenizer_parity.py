"""Compares the tokenizer with the Python tokenizers library, id for id and byte for byte.

Over 20,000 strings (evaluation texts cut anywhere, every code point of the assigned planes, blanks, emoji, marks, broken UTF-8, special
tokens) through every tokenizer of tests/data/tokenizers and of the shared models; ids with and without the post-processor, decode() with and
without special tokens, the stream, and random ids. Called with the path of the bpdq binary; the tool tokenize_batch lies beside it.
"""

import json
import os
import random
import struct
import subprocess
import sys
import tempfile
import unicodedata
from pathlib import Path

from tokenizers import Tokenizer

SHARED = Path(os.environ["BPDQ_SHARED"])
DATA = Path(os.environ["BPDQ_TEST_DATA"])
BLANKS = [chr(c) for c in (9, 10, 11, 12, 13, 0x20, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029, 0x202F, 0x205F, 0x1000,
                           # not white space, or no longer
                           0x180E, 0x200B, 0x200C, 0x200D, 0x2060, 0xFEFF, 0x1C, 0x1F)]
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|begin_of_text|>", "<|eot_id|>", "<s>", "</s>", "<unk>", "[INST]", "[/INST]", "<left>",
            "<right>", "<both>", "word", "tail", "<a>", "<a><b>", "<a><b><c>", "  ", "the", "<|end|>", "<|sp|>", "<extra>", "<raw>", "<sn>", "<cafe\u0301>",
            "<caf\u00e9>", "\u212b", "\u00c5", "<think>", "<tool_call>", "<0x41>", "<0xE2>", "\u2581", "\u2581<extra>", "<|im_", "start|>"]
CONTRACTIONS = ["'s", "'S", "'\u017f", "'t", "'RE", "'re", "'vE", "'m", "'LL", "'ll", "'D", "\u2019s", "'", "''s"]


def is_surrogate(c):
    return 0xD800 <= c < 0xE000


def cut_texts(generator, count):
    texts = []
    for name in ("classics-test.txt", "classics-calibration.txt", "wikitext2-test.txt", "calibration-c4.txt", "gsm8k-test.jsonl"):
        texts.append((SHARED / "data" / name).read_text(encoding="utf-8"))
    for _ in range(count):
        text = generator.choice(texts)
        length = int(2 ** generator.uniform(0, 8))
        start = generator.randrange(len(text) - length)
        yield text[start:start + length]


def code_points():
    """Every code point of planes 0-3 and 14 and samples of the rest, bare and in company."""
    for start in range(0, 0x110000, 64):
        if not (start < 0x40000 or 0xE0000 <= start < 0xF0000 or start % 4096 == 0):
            continue
        characters = [chr(c) for c in range(start, start + 64) if not is_surrogate(c)]
        yield "".join(characters)
        if start < 0x3400 or 0xA000 <= start < 0xAC00 or 0xD7A0 <= start < 0x17000 or 0x1A000 <= start < 0x20000:
            yield "".join(f"a{c}b {c}1{c}" for c in characters[:32])
            yield "".join(f"{c}\u0301'{c}\u0334x" for c in characters[32:])


def random_of(generator, pool, count, longest, joiner=""):
    for _ in range(count):
        yield joiner.join(generator.choice(pool) for _ in range(generator.randint(1, longest)))


def emoji(generator, count):
    bases = [chr(c) for c in (*range(0x1F300, 0x1F650), *range(0x1F680, 0x1F6D0), *range(0x1F900, 0x1FA00), *range(0x2600, 0x27C0))]
    modifiers = [chr(c) for c in (*range(0x1F3FB, 0x1F400), 0xFE0E, 0xFE0F, 0x20E3)]
    flags = [chr(c) for c in range(0x1F1E6, 0x1F200)]
    tags = [chr(c) for c in range(0xE0020, 0xE0080)]
    for _ in range(count):
        parts = []
        for _ in range(generator.randint(1, 6)):
            kind = generator.random()
            if kind < 0.6:
                parts.append("\u200d".join(generator.choice(bases) + generator.choice(modifiers + [""]) for _ in range(generator.randint(1, 4))))
            elif kind < 0.75:
                parts.append(generator.choice(flags) + generator.choice(flags))
            elif kind < 0.85:
                parts.append("\U0001f3f4" + "".join(generator.choice(tags) for _ in range(5)) + "\U000e007f")
            else:
                parts.append(generator.choice("#*0123456789") + "\ufe0f\u20e3")
        yield generator.choice(["", " ", "a"]).join(parts)


def marks_and_jamo(generator, count):
    marks = [chr(c) for c in range(0x40000) if unicodedata.category(chr(c)).startswith("M")]
    bases = [chr(c) for c in (*range(0x41, 0x5B), *range(0x61, 0x7B), *range(0xC0, 0x250), *range(0x391, 0x3CA), *range(0x905, 0x93A), 0x1100, 0xAC00)]
    jamo = [chr(c) for c in (*range(0x1100, 0x1200), *range(0xA960, 0xA980), *range(0xD7B0, 0xD800), *range(0xAC00, 0xD7A4, 97))]
    for _ in range(count):
        yield "".join(generator.choice(bases) + "".join(generator.choice(marks) for _ in range(generator.randint(0, 5)))
                      for _ in range(generator.randint(1, 8)))
        yield "".join(generator.choice(jamo) for _ in range(generator.randint(1, 12)))


def broken(generator, count):
    """Bytes that are not UTF-8: surrogates as WTF-8, overlong forms, truncated sequences, noise."""
    surrogates = [b"\xed" + bytes([b, c]) for b in (0xA0, 0xAF, 0xB0, 0xBF) for c in (0x80, 0xBF)]
    pieces = surrogates + [b"\xc0\x80", b"\xc1\xbf", b"\xe0\x80\x80", b"\xf0\x80\x80\x80", b"\xf4\x90\x80\x80", b"\xf8\x88\x80\x80\x80", b"\x80", b"\xff",
                           b"\xfe", b"\xe2\x82", b"\xf0\x9f\x98", b"\xf0\x9f", b"\xe2", b"\xc3", b"ok", b" ", "é😀".encode(), b"\xed\xa0\xbd\xed\xb8\x80"]
    for _ in range(count):
        yield b"".join(generator.choice(pieces) for _ in range(generator.randint(1, 10)))
        yield bytes(generator.randrange(256) for _ in range(generator.randint(1, 40)))


def long_runs(generator):
    """Words far too long for the plain merge loop; letters that merges join in every order, and single classes."""
    for alphabet in ("etaoinshrdlu", "the", "\u2581 ", "0123456789", "ан"):
        yield from ("".join(generator.choice(alphabet) for _ in range(2000)) for _ in range(4))
    yield from (unit * (5000 // len(unit)) for unit in ("a", " ", "\n", "1", "\u00e9", "ab", "\u4e2d", "e\u0301", "\u0315\u0334", "'s", " a", "!", "\u2581"))
    yield " " * 1000 + "x" + "\t" * 1000 + "\n" * 1000


def strings(generator):
    scripts = [chr(generator.choice((0x41, 0x3B1, 0x430, 0x5D0, 0x627, 0x905, 0xE01, 0x10D0, 0x1200, 0x3042, 0x4E00, 0xAC00, 0x10400, 0x1D400, 0x20000)) +
                   generator.randrange(24)) for _ in range(400)]
    controls = [chr(c) for c in (*range(0x20), 0x7F, *range(0x80, 0xA0), 0xAD, *range(0x200E, 0x2010), *range(0x202A, 0x202F), *range(0x2066, 0x206A), 0xFFF9,
                                 0xFFFD, 0xFFFE, 0xFFFF, 0xE0001)]
    words = ["the", "word", "tail", "Hello", "naïve", "don't", "x", "1234567", "3.14", "...", "?!", "//", "_"] + CONTRACTIONS
    result = ["", " ", "  ", "\n"]
    result += cut_texts(generator, 8000)
    result += code_points()
    result += random_of(generator, BLANKS, 800, 12)
    result += random_of(generator, BLANKS + words, 1200, 10)
    result += emoji(generator, 900)
    result += marks_and_jamo(generator, 1000)
    result += random_of(generator, controls + ["a", " ", "1"], 400, 12)
    result += random_of(generator, SPECIALS, 800, 6)
    result += random_of(generator, SPECIALS + words + BLANKS[:8] + scripts[:20], 2500, 9)
    result += random_of(generator, scripts + BLANKS + words + controls, 2500, 30)
    result += long_runs(generator)
    encoded = [text.encode("utf-8") for text in result]
    return encoded + list(broken(generator, 600))


def ask(tool, folder, vocabulary, requests):
    """[(operation, payload)] -> [payload]; the tool reads and writes files, so that neither side waits for the other."""
    with tempfile.TemporaryFile() as questions, tempfile.TemporaryFile() as answers:
        for operation, payload in requests:
            questions.write(operation + struct.pack("<I", len(payload)) + payload)
        questions.seek(0)
        subprocess.run([tool, str(folder), str(vocabulary)], stdin=questions, stdout=answers, check=True)
        answers.seek(0)
        data = answers.read()
    result, at = [], 0
    while at < len(data):
        status, length = struct.unpack_from("<iI", data, at)
        payload = data[at + 8:at + 8 + length]
        if status:
            raise SystemExit(f"{folder}: request {len(result)} failed: {payload.decode()}")
        result.append(payload)
        at += 8 + length
    if len(result) != len(requests):
        raise SystemExit(f"{folder}: {len(result)} answers to {len(requests)} requests")
    return result


def pack(ids):
    return struct.pack(f"<{len(ids)}i", *ids)


class Comparison:
    def __init__(self, name):
        self.name, self.compared, self.different = name, 0, 0

    def check(self, what, source, expected, got):
        self.compared += 1
        if expected == got:
            return
        self.different += 1
        if self.different <= 8:
            print(f"{self.name}: {what} of {source!r:.300}\n  expected {expected!r:.300}\n  got      {got!r:.300}")


def compare(tool, folder, vocabulary, inputs, generator):
    reference = Tokenizer.from_file(str(folder / "tokenizer.json"))
    comparison = Comparison(f"{folder.parent.name}/{folder.name}")
    texts = [data.decode("utf-8", "replace") for data in inputs]
    with_special = [e.ids for e in reference.encode_batch_fast(texts)]
    fewer = range(0, len(inputs), 8)  # without the post-processor: the same path, so a part of them is enough
    without = [e.ids for e in reference.encode_batch_fast([texts[i] for i in fewer], add_special_tokens=False)]
    answers = ask(tool, folder, vocabulary, [(b"e", data) for data in inputs] + [(b"n", inputs[i]) for i in fewer])
    for data, ids, got in zip(inputs + [inputs[i] for i in fewer], with_special + without, answers):
        comparison.check("encode", data, ids, list(struct.unpack(f"<{len(got) // 4}i", got)))

    known = [i for i in range(vocabulary) if reference.id_to_token(i) is not None]
    bytes_first = [i for i in known if reference.id_to_token(i).startswith("<0x")] or known
    lists = with_special[::2] + [[generator.choice(known) for _ in range(generator.randint(1, 12))] for _ in range(2000)]
    lists += [[generator.choice(bytes_first + known[:8]) for _ in range(generator.randint(1, 12))] for _ in range(1000)]
    lists += [[generator.randrange(vocabulary) for _ in range(5)] for _ in range(50)]
    packed = [pack(ids) for ids in lists]
    answers = ask(tool, folder, vocabulary, [(operation, ids) for operation in (b"d", b"s", b"t") for ids in packed])
    kept = [text.encode() for text in reference.decode_batch(lists, skip_special_tokens=False)]
    skipped = [text.encode() for text in reference.decode_batch(lists, skip_special_tokens=True)]
    for index, ids in enumerate(lists):
        comparison.check("decode", ids, kept[index], answers[index])
        comparison.check("decode without special tokens", ids, skipped[index], answers[index + len(lists)])
        streamed = answers[index + 2 * len(lists)]
        comparison.check("stream", ids, skipped[index].replace(b"\x1f", b""), streamed.replace(b"\x1f", b""))
        if not streamed.isascii():
            for piece in streamed.split(b"\x1f"):
                piece.decode("utf-8")  # a piece that splits a character raises
    print(f"{comparison.name}: {comparison.compared} comparisons, {comparison.different} differences", flush=True)
    return comparison.different


def random_model(generator):
    """A tiny BPE over a few characters: merges in any order, several ways to one token, missing characters and byte tokens."""
    alphabet = ["a", "b", "c", "\u00e9", "\u2581", "\u4e2d"]
    tokens = ["<unk>"] + generator.sample(alphabet, generator.randint(2, 6))
    if generator.random() < 0.5:
        tokens += [f"<0x{byte:02X}>" for byte in range(256) if generator.random() < 0.97]
    merges = []
    for _ in range(generator.randint(0, 25)):
        left, right = generator.choice(tokens), generator.choice(tokens)
        if generator.random() < 0.9 and (left[0] == "<" or right[0] == "<"):
            continue
        if [left, right] not in merges and len(left + right) < 12:
            merges.append([left, right])
            if left + right not in tokens:
                tokens.append(left + right)
    generator.shuffle(merges)
    settings = {name: generator.random() < 0.5 for name in ("fuse_unk", "byte_fallback", "ignore_merges")}
    return {"version": "1.0", "added_tokens": [], "normalizer": None, "pre_tokenizer": None, "post_processor": None, "decoder": None,
            "model": {"type": "BPE", "unk_token": generator.choice(["<unk>", None]), "vocab": {t: i for i, t in enumerate(tokens)}, "merges": merges,
                      **settings}}


def compare_random_models(tool, generator, count):
    comparison = Comparison("random models")
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(count):
            content = json.dumps(random_model(generator))
            Path(folder, "tokenizer.json").write_text(content)
            reference = Tokenizer.from_str(content)
            texts = ["".join(generator.choice("aabbcc\u00e9\u2581\u4e2d x\U0001f600") for _ in range(generator.randint(0, 120))) for _ in range(30)]
            answers = ask(tool, folder, 10000, [(b"e", text.encode()) for text in texts])
            for text, got in zip(texts, answers):
                comparison.check(f"{content}: encode", text, reference.encode(text).ids, list(struct.unpack(f"<{len(got) // 4}i", got)))
    print(f"{comparison.name}: {comparison.compared} comparisons, {comparison.different} differences", flush=True)
    return comparison.different


def check_expected(tool, folder):
    """The ids that came with the shared models."""
    expected = json.loads((folder / "expected.json").read_text())
    vocabulary = json.loads((folder / "config.json").read_text())["vocab_size"]
    text, ids = (expected["prompt"], expected["prompt_ids"]) if "prompt" in expected else (expected["text"], expected["ids"])
    got, = ask(tool, folder, vocabulary, [(b"e", text.encode())])
    got = list(struct.unpack(f"<{len(got) // 4}i", got))
    if got != ids:
        print(f"{folder}: expected.json has {ids}, got {got}")
    return got != ids


def main():
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    tool = Path(sys.argv[1]).resolve().parent / "tokenize_batch"
    generator = random.Random(20260101)
    inputs = strings(generator)
    print(f"{len(inputs)} strings, {sum(map(len, inputs))} bytes")
    if len(inputs) < 20000:
        raise SystemExit("fewer than 20,000 strings")
    shared = [SHARED / "models" / "classics-12m"] + sorted((SHARED / "vectors").glob("ckpt-*"))
    own = sorted(path.parent for path in (DATA / "tokenizers").glob("*/tokenizer.json"))
    if len(shared) < 4 or len(own) < 10:
        raise SystemExit(f"tokenizers are missing below {SHARED} or {DATA}")
    different = sum(check_expected(tool, folder) for folder in shared)
    different += compare_random_models(tool, generator, 150)
    seen = set()
    for folder in shared + own:
        content = (folder / "tokenizer.json").read_bytes()
        if content in seen:
            continue
        seen.add(content)
        vocabulary = Tokenizer.from_str(content.decode()).get_vocab_size(with_added_tokens=True)
        different += compare(tool, folder, vocabulary, inputs, generator)
    if different:
        raise SystemExit(f"{different} differences")


if __name__ == "__main__":
    main()
