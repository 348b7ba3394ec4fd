#!/usr/bin/env python3
"""Writes runtime/format/tokenizer_unicode_table.c: where the Unicode data of the Python tokenizers library and of our libraries can differ.

The tokenizers library matches with its own Oniguruma and normalizes with its own tables, each of a fixed Unicode version. PCRE2 and utf8proc
are whatever the system has. This script asks the tokenizers library for every code point and writes down each one that another Unicode version
sees differently: the interpreter's own unicodedata (older), the packages regex and unicodedata2 (newer).

    pip install tokenizers regex unicodedata2 && tests/parity/unicode_tables.py > runtime/format/tokenizer_unicode_table.c
"""
import unicodedata

import regex
import unicodedata2
from tokenizers import Regex, normalizers, pre_tokenizers

CATEGORIES = ["Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Me", "Nd", "Nl", "No", "Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po", "Sm", "Sc", "Sk",
              "So", "Zs", "Zl", "Zp", "Cc", "Cf", "Co", "Cn"]
CODE_POINTS = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
EVERYTHING = "".join(map(chr, CODE_POINTS))


def oniguruma_categories():
    result = {}
    for category in CATEGORIES:
        kept = set()
        for _, (start, end) in pre_tokenizers.Split(Regex("\\p{%s}" % category), "removed").pre_tokenize_str(EVERYTHING):
            kept.update(range(start, end))
        result.update({c: category for i, c in enumerate(CODE_POINTS) if i not in kept})
    return result


def newest_categories():
    return {ord(c): category for category in CATEGORIES for c in regex.findall("\\p{%s}" % category, EVERYTHING)}


def ranges(items):
    """[(code point, value)] in order, as [first, last, value]."""
    result = []
    for c, value in items:
        if result and result[-1][1] == c - 1 and result[-1][2] == value:
            result[-1][1] = c
        else:
            result.append([c, c, value])
    return result


def print_rows(rows):
    line = " "
    for row in rows:
        if len(line) + len(row) + 2 > 138:
            print(line)
            line = " "
        line += " " + row + ","
    print(line)


def print_categories():
    oracle, newest = oniguruma_categories(), newest_categories()
    differs = [(c, oracle[c]) for c in CODE_POINTS if not oracle[c] == newest[c] == unicodedata.category(chr(c))]
    rows = ranges(differs)
    stand_ins = {}
    for category in sorted({value for _, _, value in rows}):
        for size in (2, 3, 4):
            stable = (c for c in CODE_POINTS if len(chr(c).encode()) == size and oracle[c] == newest[c] == unicodedata.category(chr(c)) == category)
            if category == "Cn":
                choice = {2: 0x378, 3: 0xFDD0, 4: 0x1FFFE}[size]
            else:
                choice = next(stable, 0)
            stand_ins[category, size] = choice
    names = sorted({value for _, _, value in rows})
    print("/* By category of bpdq_category_differences and UTF-8 length 2, 3, 4: a character that has that category in every version; 0: none. */")
    print("const uint32_t bpdq_category_stand_ins[][3] = {")
    print_rows("{%s}" % ", ".join("0x%x" % stand_ins[name, size] for size in (2, 3, 4)) for name in names)
    print("};\n")
    print("/* Categories by number: %s. */" % ", ".join("%d %s" % pair for pair in enumerate(names)))
    print("const bpdq_category_range bpdq_category_differences[] = {")
    print_rows("{0x%x, 0x%x, %d}" % (first, last, names.index(value)) for first, last, value in rows)
    print("};\nconst size_t bpdq_category_difference_count = sizeof bpdq_category_differences / sizeof bpdq_category_differences[0];\n")
    word = [(c, int(oracle[c] in ("Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Me", "Nd", "Nl", "Pc"))) for c, _ in differs]
    print("/* Of those, the ones that are word characters (\\\\w). */".replace("\\\\", "\\"))
    print("const bpdq_code_point_range bpdq_word_differences[] = {")
    print_rows("{0x%x, 0x%x}" % (first, last) for first, last, value in ranges(word) if value)
    print("};\nconst size_t bpdq_word_difference_count = sizeof bpdq_word_differences / sizeof bpdq_word_differences[0];\n")


def print_inert():
    nfd = normalizers.NFD()
    marks = {ord(c) for c in regex.findall("\\P{ccc=0}", EVERYTHING)}
    inert = set()
    for c in marks:
        before, after = "a\u0315" + chr(c), "a" + chr(c) + "\u0334"
        if nfd.normalize_str(before) == before and nfd.normalize_str(after) == after:
            inert.add(c)
    for c in CODE_POINTS:
        parts = unicodedata2.normalize("NFD", chr(c))
        if parts != chr(c) and nfd.normalize_str(chr(c)) == chr(c):
            inert.add(c)
            inert.update(ord(p) for p in parts if ord(p) >= 0x10000)
    inert -= {0x334, 0x315}
    print("/* Marks and compositions that the library's normalizer does not know yet: it leaves them where they are. */")
    print("const bpdq_code_point_range bpdq_inert_in_normalization[] = {")
    print_rows("{0x%x, 0x%x}" % (first, last) for first, last, _ in ranges((c, 1) for c in sorted(inert)))
    print("};\nconst size_t bpdq_inert_count = sizeof bpdq_inert_in_normalization / sizeof bpdq_inert_in_normalization[0];")


print("/* Written by tests/parity/unicode_tables.py: do not edit. */")
print('#include "format/tokenizer_unicode_table.h"\n\n// clang-format off')
print_categories()
print_inert()
print("// clang-format on")
