#!/usr/bin/env python3
"""Makes the small tokenizers of this folder: one per kind of published tokenizer.json, trained on the project's texts.

    tests/data/tokenizers/make.py PATH_OF_SHARED_DATA

The files are in version control, so that tests do not depend on a training run; this script says how they came to be.
"""
import json
import os
import sys

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

HERE = os.path.dirname(os.path.abspath(__file__))
VOCABULARY = 1500

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
TEKKEN = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+"
          r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
EXTRA = "naïve café Übergröße señor Ελληνικά русский текст 中文字符 日本語テスト 한국어 العربية हिन्दी ไทย 😀👍🏽 👩‍👩‍👧 “quotes” — …\n"


def texts(shared_data):
    result = []
    for name, size in (("classics-calibration.txt", 200000), ("wikitext2-test.txt", 200000), ("calibration-c4.txt", 100000)):
        with open(os.path.join(shared_data, name), encoding="utf-8") as file:
            result += file.read(size).splitlines(keepends=True)
    with open(os.path.join(shared_data, "gsm8k-train-2000.jsonl"), encoding="utf-8") as file:
        result += [json.loads(line)["question"] + "\n" + json.loads(line)["answer"] for line in list(file)[:200]]
    return result + [EXTRA] * 40


def special(content, **settings):
    return AddedToken(content, special=True, normalized=settings.pop("normalized", False), **settings)


def byte_level(lines, split, size=VOCABULARY, normalizer=None):
    tokenizer = Tokenizer(models.BPE())
    if normalizer:
        tokenizer.normalizer = normalizer
    steps = [pre_tokenizers.Split(Regex(split), "isolated")] if split else []
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps + [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not split)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(lines, trainers.BpeTrainer(vocab_size=size, show_progress=False,
                                                             initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    return tokenizer


def gpt2(lines):
    tokenizer = byte_level(lines, None)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.add_special_tokens(["<|endoftext|>"])
    content = json.loads(tokenizer.to_str())
    # The published files of that time: merges as strings, no type, no ignore_merges.
    model = content["model"]
    model["merges"] = ["#version: 0.2"] + [" ".join(pair) for pair in model["merges"]]
    for key in ("type", "ignore_merges", "byte_fallback"):
        del model[key]
    return content


def gpt2_prefix_space(lines):
    tokenizer = byte_level(lines, None, 600)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    # Every combination of settings that changes what an added token matches.
    tokenizer.add_tokens([
        AddedToken("<left>", lstrip=True, normalized=False),
        AddedToken("<right>", rstrip=True, normalized=False),
        AddedToken("<both>", lstrip=True, rstrip=True, normalized=True),
        AddedToken("word", single_word=True, normalized=False),
        AddedToken("tail", single_word=True, rstrip=True, normalized=True),
        AddedToken("<a>", normalized=False),
        AddedToken("<a><b>", normalized=True),
        AddedToken("<a><b><c>", normalized=False),
        AddedToken("  ", normalized=False, rstrip=True),
        AddedToken("the", normalized=False, single_word=True),
    ])
    tokenizer.add_special_tokens([special("<|end|>"), special("<|sp|>", normalized=True, lstrip=True)])
    return json.loads(tokenizer.to_str())


def llama3(lines):
    tokenizer = byte_level(lines, LLAMA3)
    tokenizer.model.ignore_merges = True
    tokenizer.add_special_tokens([special(t) for t in ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>",
                                                       "<|eot_id|>", "<|reserved_special_token_0|>")])
    template = processors.TemplateProcessing(single="<|begin_of_text|> $A", pair="<|begin_of_text|> $A <|begin_of_text|>:1 $B:1",
                                             special_tokens=[("<|begin_of_text|>", tokenizer.token_to_id("<|begin_of_text|>"))])
    tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=True), template])
    content = json.loads(tokenizer.to_str())
    # Whole words that merges do not reach: only ignore_merges finds them.
    for word in ("Ġunreachable", "Ġqzxj", "âĢľâĢĿ"):
        content["model"]["vocab"].setdefault(word, None)
    vocabulary = content["model"]["vocab"]
    shift = sum(value is None for value in vocabulary.values())
    first_added = min(token["id"] for token in content["added_tokens"])
    for position, word in enumerate([word for word, value in vocabulary.items() if value is None]):
        vocabulary[word] = first_added + position
    for token in content["added_tokens"]:
        token["id"] += shift
    begin = next(token["id"] for token in content["added_tokens"] if token["content"] == "<|begin_of_text|>")
    content["post_processor"]["processors"][1]["special_tokens"]["<|begin_of_text|>"]["ids"] = [begin]
    return content


def qwen2(lines):
    tokenizer = byte_level(lines, QWEN, normalizer=normalizers.NFC())
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.add_special_tokens([special(t) for t in ("<|endoftext|>", "<|im_start|>", "<|im_end|>")])
    tokenizer.add_tokens([AddedToken(t, normalized=False) for t in ("<tool_call>", "</tool_call>", "<think>", "</think>")])
    # Matched after NFC, written here with a combining accent.
    tokenizer.add_tokens([AddedToken("<cafe\u0301>", normalized=True), AddedToken("\u212b", normalized=True)])
    return json.loads(tokenizer.to_str())


def tekken(lines):
    tokenizer = byte_level(lines, TEKKEN)
    tokenizer.model.ignore_merges = True
    tokenizer.add_special_tokens([special(t) for t in ("<unk>", "<s>", "</s>", "[INST]", "[/INST]")])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s>:1 $B:1",
                                                             special_tokens=[("<s>", tokenizer.token_to_id("<s>"))])
    return json.loads(tokenizer.to_str())


def sentencepiece(lines, legacy, scheme="first", split=False, byte_fallback=True, fuse=True, size=VOCABULARY):
    """Llama 2 and Mistral: characters with ▁ for blanks, unknown ones as bytes."""
    trainer_tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    trainer_tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always", split=True)
    head = ["<unk>", "<s>", "</s>"] + (["<0x%02X>" % byte for byte in range(256)] if byte_fallback else [])
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=head, show_progress=False, limit_alphabet=180)
    trainer_tokenizer.train_from_iterator(lines, trainer)
    trained = json.loads(trainer_tokenizer.to_str())["model"]
    tokenizer = Tokenizer(models.BPE(vocab=trained["vocab"], merges=[tuple(pair) for pair in trained["merges"]], unk_token="<unk>",
                                     fuse_unk=fuse, byte_fallback=byte_fallback))
    if legacy:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme=scheme, split=split)
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps)
    tokenizer.add_special_tokens([special(t) for t in ("<unk>", "<s>", "</s>")])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)])
    return tokenizer


def llama2(lines):
    tokenizer = sentencepiece(lines, legacy=True)
    # Normalized added tokens match behind the normalizer, that is with ▁ before them.
    tokenizer.add_tokens([AddedToken("<extra>", normalized=True), AddedToken("<raw>", normalized=False, lstrip=True)])
    tokenizer.add_special_tokens([special("<sn>", normalized=True)])
    return json.loads(tokenizer.to_str())


def mistral(lines):
    tokenizer = sentencepiece(lines, legacy=False, scheme="first")
    tokenizer.add_special_tokens([special(t) for t in ("[INST]", "[/INST]", "[TOOL_CALLS]")])
    return json.loads(tokenizer.to_str())


def metaspace_always(lines):
    tokenizer = sentencepiece(lines, legacy=False, scheme="always", split=True, byte_fallback=False, fuse=False, size=700)
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", pair="<s> $A </s> $B </s>",
                                                             special_tokens=[("<s>", 1), ("</s>", 2)])
    return json.loads(tokenizer.to_str())


def metaspace_never(lines):
    tokenizer = sentencepiece(lines, legacy=False, scheme="never", split=False, byte_fallback=False, fuse=True, size=700)
    tokenizer.decoder = None
    tokenizer.post_processor = None
    return json.loads(tokenizer.to_str())


def split_behaviors(lines):
    """The remaining behaviors of Split, one after another, and a bare model behind them."""
    tokenizer = byte_level(lines, None, 500)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split("|", "removed"),
        pre_tokenizers.Split(Regex(r"[.!?]+"), "merged_with_previous"),
        pre_tokenizers.Split(Regex(r"\n"), "merged_with_next"),
        pre_tokenizers.Split(Regex(r"\p{N}"), "contiguous"),
        pre_tokenizers.Split(Regex(r"\s+"), "isolated", invert=True),
        pre_tokenizers.Split(Regex(r"x*"), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    return json.loads(tokenizer.to_str())


def main():
    lines = texts(sys.argv[1])
    for make in (gpt2, gpt2_prefix_space, llama3, qwen2, tekken, llama2, mistral, metaspace_always, metaspace_never, split_behaviors):
        folder = os.path.join(HERE, make.__name__.replace("_", "-"))
        os.makedirs(folder, exist_ok=True)
        content = make(lines)
        Tokenizer.from_str(json.dumps(content))
        with open(os.path.join(folder, "tokenizer.json"), "w", encoding="utf-8") as file:
            json.dump(content, file, ensure_ascii=False, separators=(",", ":"))
            file.write("\n")


if __name__ == "__main__":
    main()
