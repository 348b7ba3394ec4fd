"""What each instruction does to a warp's registers, as far as that can decide which way the warp goes: functions made from the listing.

A value is None (unknown), an integer (the same in all lanes) or a list of 32 of these. 64-bit values are pairs of registers. Results that are
not computed here (matrix products, packed halves) are unknown, and so is all that is made of them.
"""

import math
import re
import struct

from sass import Unreadable, pipe_of

MASK, LANES, ALL = 0xFFFFFFFF, 32, 0xFFFFFFFF
LOAD_BYTES = {"U8": 1, "S8": 1, "U16": 2, "S16": 2, "64": 8, "128": 16}


def lift(function, *values):
    """`function` of scalars, lane by lane where that is needed."""
    if None in values:
        return None
    for value in values:
        if value.__class__ is list:
            break
    else:
        return function(*values)
    columns = [value if value.__class__ is list else [value] * LANES for value in values]
    result = [None if None in lane else function(*lane) for lane in zip(*columns)]
    return result[0] if result.count(result[0]) == LANES else result


def lane_of(value, lane):
    return value[lane] if value.__class__ is list else value


def signed(x):
    x &= MASK
    return x - (1 << 32) if x >> 31 else x


def to_float(bits):
    return struct.unpack("<f", struct.pack("<I", bits & MASK))[0]


def to_bits(number):
    if number != number:
        return 0x7FFFFFFF
    try:
        return struct.unpack("<I", struct.pack("<f", number))[0]
    except OverflowError:
        return 0xFF800000 if number < 0 else 0x7F800000


# ---- operands ----


def register_number(name):
    return int(re.sub(r"\D", "", name))


def next_register(name, step=1):
    if name in ("RZ", "URZ", "SRZ"):
        return name
    return f"{'UR' if name.startswith('U') else 'R'}{register_number(name) + step}"


def plain(text):
    """An operand's name without sign, complement, bars and type."""
    return text.lstrip("-~!+").strip("|").split(".")[0] if not text.lstrip("-~!").startswith(("0x", "c[")) else text.lstrip("-~!|").rstrip("|")


def reader(text, step=0):
    """A function of a warp that gives the raw 32 bits of an operand (of its upper half, with step 1), before any sign."""
    name = plain(text)
    bank = re.match(r"c\[0x([0-9a-f]+)\]\[(?:(U?R\d+)\+?)?(?:0x([0-9a-f]+))?\]", name)
    if bank:
        number, base, offset = int(bank.group(1), 16), bank.group(2), int(bank.group(3) or "0", 16) + 4 * step
        if base:
            return lambda w: lift(lambda at: w.block.constant(number, at + offset, 4), w.registers.get(base))
        return lambda w: w.block.constant(number, offset, 4)
    if name in ("RZ", "URZ", "SRZ"):
        return lambda w: 0
    if re.fullmatch(r"U?R\d+", name):
        name = next_register(name, step)
        return lambda w: w.registers.get(name)
    if re.fullmatch(r"0x[0-9a-f]+", name):
        value = int(name, 16)
        return lambda w: value >> 32 * step & MASK
    raise Unreadable(f"operand {text}")


def literal(text):
    """A floating-point number in the listing, or None."""
    if not re.fullmatch(r"[-+]?(INF|QNAN|\d+(\.\d+)?(e[-+]?\d+)?)( .*)?", text):
        return None
    return float(text.split()[0].replace("INF", "inf").replace("QNAN", "nan"))


def integer(text, step=0):
    number = literal(text)
    if number is not None:
        return lambda w: to_bits(number)
    read = reader(text, step)
    if text.startswith("-0x"):
        return lambda w: -int(text[1:], 16) & MASK
    if text.startswith("-"):  # as complement and one, so that a carry is what the device makes of it
        return lambda w: lift(lambda x: (~x & MASK) + 1, read(w))
    if text.startswith("~"):
        return lambda w: lift(lambda x: ~x & MASK, read(w))
    return read


def float_operand(text):
    """The same for f32, as a Python float."""
    sign = -1.0 if text.startswith("-") else 1.0
    body = text.lstrip("-+")
    if body.startswith("|"):
        read = reader(body)
        return lambda w: lift(lambda x: sign * abs(to_float(x)), read(w))
    if re.fullmatch(r"U?R\d+.*|U?RZ.*|c\[.*|0x[0-9a-f]+", body):
        read = reader(body)
        return lambda w: lift(lambda x: sign * to_float(x), read(w))
    number = literal(body)
    if number is None:
        raise Unreadable(f"operand {text}")
    return lambda w: sign * number


def predicate(text):
    inverted, name = text.startswith("!"), text.lstrip("!")
    if name in ("PT", "UPT"):
        return lambda w: 0 if inverted else 1
    if not re.fullmatch(r"U?P\d", name):
        raise Unreadable(f"predicate {text}")
    if inverted:
        return lambda w: lift(lambda x: 1 - x, w.registers.get(name, 0))
    return lambda w: w.registers.get(name, 0)


def is_predicate(text):
    return re.fullmatch(r"!?U?P(\d|T)", text) is not None


def address_of(text):
    """A function that gives the address of [R2.64+UR4+0x10]."""
    body, offset, parts = text[text.index("[") + 1 : text.rindex("]")], 0, []
    for word in body.replace("+-", "-").replace("-", "+-").split("+"):
        if re.fullmatch(r"-?0x[0-9a-f]+", word):
            offset += int(word, 16)
        elif word:
            kind = word.partition(".")[2]
            if not re.fullmatch(r"(64|X\d+|U32)?", kind):
                raise Unreadable(f"operand {text}")
            parts.append((reader(word), reader(word, 1) if kind == "64" else None, int(kind[1:]) if kind.startswith("X") else 1))

    def address(w):
        total = offset
        for low, high, scale in parts:
            total = lift(lambda a, b: a + b * scale, total, low(w))
            if high:
                total = lift(lambda a, b: a + (b << 32), total, high(w))
        return total
    return address


# ---- instructions ----


def condition(name, a, b):
    return int({"EQ": a == b, "NE": a != b, "LT": a < b, "LE": a <= b, "GT": a > b, "GE": a >= b}[name])


def logic(name, a, b):
    return a & b if name == "AND" else a | b if name == "OR" else a ^ b


def table(code, a, b, c):
    """LOP3: bit 4a + 2b + c of the code, for each bit."""
    result = 0
    for index in range(8):
        if code >> index & 1:
            result |= (a if index & 4 else ~a) & (b if index & 2 else ~b) & (c if index & 1 else ~c)
    return result & MASK


def permute(a, b, selector):
    both, result = a & MASK | (b & MASK) << 32, 0
    for i in range(4):
        nibble = selector >> 4 * i & 15
        byte = both >> 8 * (nibble & 7) & 255
        result |= (0xFF * (byte >> 7) if nibble & 8 else byte) << 8 * i
    return result


class Decoder:
    """Instruction -> a function of a warp and the mask of its active lanes."""

    def __init__(self, instruction):
        self.one = instruction
        words = instruction.opcode.split(".")
        self.base, self.kinds = words[0], words[1:]
        if self.base.startswith("U") and self.base not in ("ULDC",) and self.base[1:] in ("IADD3", "IMAD", "LEA", "SHF", "LOP3", "ISETP", "SEL", "PLOP3", "MOV", "PRMT", "FLO", "POPC"):
            self.base = self.base[1:]
        self.operands = list(instruction.operands)

    def known(self):
        """Whether the result is computed here."""
        return hasattr(self, "do_" + self.base.lower())

    def size(self):
        return next((LOAD_BYTES[kind] for kind in self.kinds if kind in LOAD_BYTES), 4)

    def piece(self):
        return min(self.size(), 4)

    def light(self):
        """Of an instruction that decides nothing: what it does to memory is counted, without addresses and values."""
        size = self.size()
        if self.base in ("LDG", "LD"):
            return self.requests(self.results(), size)
        if self.base in ("LDS", "STS"):
            return lambda w, mask: w.block.touch_shared(size, mask)
        return self.step() if self.base in ("LDGSTS", "LDGDEPBAR", "DEPBAR") else None

    def requests(self, names, size):
        streams = "EF" in self.kinds
        def run(w, mask):
            size_of_warp = size * bin(mask).count("1")
            w.requested(names, size_of_warp)
            w.block.streamed += size_of_warp if streams else 0
        return run

    def step(self):
        method = getattr(self, "do_" + self.base.lower(), None)
        return method() if method else self.unknown_result()

    # Results that nobody follows.
    def unknown_result(self):
        pipe_of(self.one.opcode)
        names = self.results()
        def run(w, mask):
            for name in names:
                w.write(name, None, mask)
        return run

    def results(self):
        """Registers that the instruction writes."""
        if not self.operands or self.base in ("STG", "STS", "STL", "RED", "LDGSTS", "BAR", "DEPBAR", "WARPSYNC", "CCTL", "MEMBAR", "NOP", "ERRBAR", "YIELD"):
            return []
        names = [self.operands[0]] if not is_predicate(self.operands[0]) else [name for name in self.operands[:2] if not name.startswith("!")]
        if self.base in ("HMMA", "IMMA", "BMMA"):
            count = 2 if "F16" in self.kinds and "F32" not in self.kinds else 4
        elif self.base == "CS2R" and "32" not in self.kinds or "WIDE" in self.kinds or "64" in self.kinds or self.base.startswith("D"):
            count = 2
        elif "128" in self.kinds:
            count = 4
        else:
            count = 1
        if re.fullmatch(r"U?R\d+", names[0]):
            names = [next_register(names[0], i) for i in range(count)]
        return [name for name in names if re.fullmatch(r"U?[RP]\d+", name)]

    def split(self):
        """Destination, predicates written besides, sources, predicates read at the end."""
        rest = self.operands[1:]
        outs, ins = [], []
        while rest and is_predicate(rest[0]) and len(outs) < 2:
            outs.append(rest.pop(0))
        while rest and is_predicate(rest[-1]):
            ins.insert(0, rest.pop())
        return self.operands[0], outs, rest, ins

    # -- integers --
    def do_iadd3(self):
        target, outs, sources, ins = self.split()
        a, b, c = (integer(text) for text in sources)
        carries = [predicate(text) for text in ins] if "X" in self.kinds else []
        def run(w, mask):
            total = lift(lambda x, y, z: x + y + z, a(w), b(w), c(w))
            for carry in carries:
                total = lift(lambda x, y: x + y, total, carry(w))
            w.write(target, lift(lambda x: x & MASK, total), mask)
            for number, out in enumerate(outs):
                w.write(out, lift(lambda x: int(x >> 32 > number), total), mask)
        return run

    def do_imad(self):
        target, outs, sources, ins = self.split()
        wide, high = "WIDE" in self.kinds, "HI" in self.kinds
        unsigned = "U32" in self.kinds
        a, b, c = (integer(text) for text in sources)
        c_high = integer(sources[2], 1) if (wide or high) and plain(sources[2]) != "RZ" else (lambda w: 0)
        if wide and sources[2].startswith("0x"):
            c_high = lambda w: 0
        carries = [predicate(text) for text in ins] if "X" in self.kinds else []
        def multiply(x, y):
            return x * y if unsigned else signed(x) * signed(y)
        def run(w, mask):
            if not wide and not high:
                total = lift(lambda x, y, z: x * y + z, a(w), b(w), c(w))
                for carry in carries:
                    total = lift(lambda x, y: x + y, total, carry(w))
                w.write(target, lift(lambda x: x & MASK, total), mask)
                return
            total = lift(lambda x, y, z, u: (multiply(x, y) & (1 << 64) - 1) + (z & MASK | (u & MASK) << 32), a(w), b(w), c(w), c_high(w))
            for carry in carries:
                total = lift(lambda x, y: x + y, total, carry(w))
            upper = lift(lambda x: x >> 32 & MASK, total)
            if high:
                w.write(target, upper, mask)
            else:
                w.write(target, lift(lambda x: x & MASK, total), mask)
                w.write(next_register(target), upper, mask)
            for out in outs:
                w.write(out, lift(lambda x: int(x >> 64 > 0), total), mask)
        return run

    def do_lea(self):
        target, outs, sources, ins = self.split()
        shift = int(sources[-1], 16)
        a, b = integer(sources[0]), integer(sources[1])
        high, extended = "HI" in self.kinds, "SX32" in self.kinds
        c = integer(sources[2]) if high and not extended else (lambda w: 0)
        carry = predicate(ins[0]) if "X" in self.kinds else (lambda w: 0)
        def sum_of(x, y, z, carried):
            if extended:
                x = (signed(x) << shift) >> 32 & MASK
            elif high:
                x = ((x & MASK | (z & MASK) << 32) << shift) >> 32 & MASK
            else:
                x = x << shift & MASK
            return x + y + carried
        def run(w, mask):
            total = lift(sum_of, a(w), b(w), c(w), carry(w))
            w.write(target, lift(lambda x: x & MASK, total), mask)
            for out in outs:
                w.write(out, lift(lambda x: int(x >> 32 > 0), total), mask)
        return run

    def do_shf(self):
        left, high, wraps = "L" in self.kinds, "HI" in self.kinds, "W" in self.kinds
        arithmetic, long = "S32" in self.kinds or "S64" in self.kinds, "U64" in self.kinds or "S64" in self.kinds
        a, amount, c = (integer(text) for text in self.operands[1:4])
        def shift(x, by, z):
            both = x & MASK | (z & MASK) << 32
            if arithmetic and both >> 63:
                both -= 1 << 64
            by = by & (63 if long else 31) if wraps else min(by & MASK, 64 if long else 32)
            both = both << by if left else both >> by
            return both >> 32 & MASK if high else both & MASK
        return lambda w, mask: w.write(self.operands[0], lift(shift, a(w), amount(w), c(w)), mask)

    def do_lop3(self):
        flag = self.operands[0] if is_predicate(self.operands[0]) else None
        rest = self.operands[1:] if flag else self.operands
        target, code = rest[0], int(rest[4], 16)
        a, b, c = (integer(text) for text in rest[1:4])
        also = predicate(rest[5]) if len(rest) > 5 else (lambda w: 0)
        def run(w, mask):
            result = lift(lambda x, y, z: table(code, x, y, z), a(w), b(w), c(w))
            w.write(target, result, mask)
            if flag:
                w.write(flag, lift(lambda x, y: int(x != 0) | y, result, also(w)), mask)
        return run

    def do_plop3(self):
        first, second, code, other = self.operands[0], self.operands[1], int(self.operands[5], 16), int(self.operands[6], 16)
        a, b, c = (predicate(text) for text in self.operands[2:5])
        def run(w, mask):
            inputs = a(w), b(w), c(w)
            for target, bits in ((first, code), (second, other)):
                w.write(target, lift(lambda x, y, z: bits >> (4 * x + 2 * y + z) & 1, *inputs), mask)
        return run

    def do_isetp(self):
        name, join = self.kinds[0], next(kind for kind in self.kinds[1:] if kind in ("AND", "OR", "XOR"))
        unsigned, extended = "U32" in self.kinds, "EX" in self.kinds
        a, b = integer(self.operands[2]), integer(self.operands[3])
        joined = predicate(self.operands[4])
        low = predicate(self.operands[5]) if extended else (lambda w: 0)
        def compare(x, y, below):
            x, y = (x & MASK, y & MASK) if unsigned else (signed(x), signed(y))
            if not extended:
                return condition(name, x, y)
            if name == "EQ":
                return int(x == y) & below
            if name == "NE":
                return int(x != y) | below
            return below if x == y else condition(name, x, y)
        def run(w, mask):
            result, other = lift(compare, a(w), b(w), low(w)), joined(w)
            w.write(self.operands[0], lift(lambda x, y: logic(join, x, y), result, other), mask)
            w.write(self.operands[1], lift(lambda x, y: logic(join, 1 - x, y), result, other), mask)
        return run

    def do_sel(self):
        a, b, which = integer(self.operands[1]), integer(self.operands[2]), predicate(self.operands[3])
        return lambda w, mask: w.write(self.operands[0], lift(lambda x, y, p: (x if p else y) & MASK, a(w), b(w), which(w)), mask)

    def do_fsel(self):
        a, b, which = float_operand(self.operands[1]), float_operand(self.operands[2]), predicate(self.operands[3])
        return lambda w, mask: w.write(self.operands[0], lift(lambda x, y, p: to_bits(x if p else y), a(w), b(w), which(w)), mask)

    def do_imnmx(self):
        unsigned = "U32" in self.kinds
        a, b, least = integer(self.operands[1]), integer(self.operands[2]), predicate(self.operands[3])
        key = (lambda x: x & MASK) if unsigned else signed
        def pick(x, y, p):
            return (min if p else max)(x & MASK, y & MASK, key=key)
        return lambda w, mask: w.write(self.operands[0], lift(pick, a(w), b(w), least(w)), mask)

    def do_iabs(self):
        a = integer(self.operands[1])
        return lambda w, mask: w.write(self.operands[0], lift(lambda x: abs(signed(x)), a(w)), mask)

    def do_prmt(self):
        a, selector, b = (integer(text) for text in self.operands[1:4])
        return lambda w, mask: w.write(self.operands[0], lift(lambda x, s, y: permute(x, y, s), a(w), selector(w), b(w)), mask)

    def do_mov(self):
        a = integer(self.operands[1])
        return lambda w, mask: w.write(self.operands[0], a(w), mask)

    do_r2ur = do_mov

    def do_popc(self):
        a = integer(self.operands[1])
        return lambda w, mask: w.write(self.operands[0], lift(lambda x: bin(x & MASK).count("1"), a(w)), mask)

    def do_flo(self):
        a = integer(self.operands[1])
        return lambda w, mask: w.write(self.operands[0], lift(lambda x: (x & MASK).bit_length() - 1 & MASK, a(w)), mask)

    def do_p2r(self):
        code = int(self.operands[3], 16) if self.operands[3].startswith("0x") else 0x7F
        keep = integer(self.operands[2])
        def run(w, mask):
            value = lift(lambda x: x & ~code, keep(w))
            for bit in range(7):
                if code >> bit & 1:
                    value = lift(lambda x, p: x | p << bit, value, w.registers.get(f"P{bit}", 0))
            w.write(self.operands[0], value, mask)
        return run

    def do_r2p(self):
        a, code = integer(self.operands[1]), int(self.operands[2], 16)
        def run(w, mask):
            value = a(w)
            for bit in range(7):
                if code >> bit & 1:
                    w.write(f"P{bit}", lift(lambda x: x >> bit & 1, value), mask)
        return run

    def do_s2r(self):
        name = self.operands[1]
        return lambda w, mask: w.write(self.operands[0], w.special(name), mask)

    do_s2ur = do_s2r

    def do_cs2r(self):
        if self.operands[1] != "SRZ":
            return self.unknown_result()
        names = self.results()
        def run(w, mask):
            for name in names:
                w.write(name, 0, mask)
        return run

    def do_uldc(self):
        bank = re.match(r"c\[0x([0-9a-f]+)\]\[(?:(U?R\d+)\+?)?(?:0x([0-9a-f]+))?\]", self.operands[1])
        number, base, offset = int(bank.group(1), 16), bank.group(2), int(bank.group(3) or "0", 16)
        size = self.size()
        is_signed = "S8" in self.kinds or "S16" in self.kinds
        def run(w, mask):
            start = w.registers.get(base) if base else 0
            for i in range(max(1, size // 4)):
                value = lift(lambda at: w.block.constant(number, at + offset + 4 * i, min(size, 4)), start)
                if is_signed:
                    value = lift(lambda x: (x | -(x >> 8 * size - 1 << 8 * size)) & MASK, value)
                w.write(next_register(self.operands[0], i), value, mask)
        return run

    do_ldc = do_uldc

    # -- lanes --
    def do_shfl(self):
        kind, (flag, target) = self.kinds[0], self.operands[:2]
        value, by = integer(self.operands[2]), integer(self.operands[3])
        def run(w, mask):
            values, amount = value(w), by(w)
            if values.__class__ is int and amount is not None:
                result = values
            elif values is None or amount is None:
                result = None
            else:
                def source(lane):
                    a = lane_of(amount, lane)
                    if a is None:
                        return None
                    other = {"BFLY": lane ^ a, "IDX": a & 31, "UP": lane - a, "DOWN": lane + a}[kind]
                    return lane_of(values, other if 0 <= other < LANES else lane)
                result = [source(lane) for lane in range(LANES)]
            w.write(target, result, mask)
            w.write(flag, None, mask)
        return run

    def do_vote(self):
        kind, given = self.kinds[0], predicate(self.operands[-1])
        def run(w, mask):
            values = [lane_of(given(w), lane) for lane in range(LANES) if mask >> lane & 1]
            bits = None if None in values else sum(p << lane for p, lane in zip(values, (i for i in range(LANES) if mask >> i & 1)))
            flag = None if bits is None else int(bits == mask if kind == "ALL" else bits != 0)
            for name in self.operands[:-1]:
                w.write(name, flag if is_predicate(name) else bits, mask)
        return run

    do_voteu = do_vote

    # -- floats, where they are known --
    def float_result(self, function, sources):
        def safe(*values):
            try:
                return to_bits(function(*values))
            except (OverflowError, ZeroDivisionError, ValueError):
                return to_bits(math.nan)
        reads = [float_operand(text) for text in sources]
        return lambda w, mask: w.write(self.operands[0], lift(safe, *(read(w) for read in reads)), mask)

    def do_fadd(self):
        return self.float_result(lambda a, b: a + b, self.operands[1:3])

    def do_fmul(self):
        return self.float_result(lambda a, b: a * b, self.operands[1:3])

    def do_ffma(self):
        return self.float_result(lambda a, b, c: a * b + c, self.operands[1:4])

    def do_mufu(self):
        functions = {"RCP": lambda x: 1 / x if x else math.copysign(math.inf, x), "RSQ": lambda x: 1 / math.sqrt(x) if x else math.inf,
                     "EX2": lambda x: 2.0**x, "LG2": math.log2, "SQRT": math.sqrt}
        return self.float_result(functions[self.kinds[0]], self.operands[1:2]) if self.kinds[0] in functions else self.unknown_result()

    def do_fmnmx(self):
        a, b, least = float_operand(self.operands[1]), float_operand(self.operands[2]), predicate(self.operands[3])
        return lambda w, mask: w.write(self.operands[0], lift(lambda x, y, p: to_bits((min if p else max)(x, y)), a(w), b(w), least(w)), mask)

    def do_fsetp(self):
        name, join = self.kinds[0], next(kind for kind in self.kinds if kind in ("AND", "OR", "XOR"))
        a, b, joined = float_operand(self.operands[2]), float_operand(self.operands[3]), predicate(self.operands[4])
        def compare(x, y):
            if x != x or y != y:
                return int(name.endswith("U") or name == "NAN")
            return condition(name[:2], x, y) if name not in ("NAN", "NUM") else int(name == "NUM")
        def run(w, mask):
            result, other = lift(compare, a(w), b(w)), joined(w)
            w.write(self.operands[0], lift(lambda x, y: logic(join, x, y), result, other), mask)
            w.write(self.operands[1], lift(lambda x, y: logic(join, 1 - x, y), result, other), mask)
        return run

    def do_fchk(self):  # whether a division needs the slow way: not with numbers of ordinary size
        return lambda w, mask: w.write(self.operands[0], 0, mask)

    def do_i2f(self):
        if "U64" in self.kinds or "S64" in self.kinds:
            low, high = integer(self.operands[1]), integer(self.operands[1], 1)
            return lambda w, mask: w.write(self.operands[0], lift(lambda x, y: to_bits(float(x | y << 32)), low(w), high(w)), mask)
        a = integer(self.operands[1])
        unsigned = "U32" in self.kinds
        down = "RP" in self.kinds  # the integer division's reciprocal; rounding it is the device's matter
        return lambda w, mask: w.write(self.operands[0], lift(lambda x: to_bits(float(x if unsigned or down else signed(x))), a(w)), mask)

    do_i2fp = do_i2f

    def do_f2i(self):
        if "U64" in self.kinds:
            return self.unknown_result()
        a, whole = float_operand(self.operands[1]), math.trunc if "TRUNC" in self.kinds else round
        def convert(x):
            low, high = (0, MASK) if "U32" in self.kinds else (-(1 << 31), (1 << 31) - 1)
            return 0 if x != x else max(low, min(high, whole(max(-1e30, min(1e30, x))))) & MASK
        return lambda w, mask: w.write(self.operands[0], lift(convert, a(w)), mask)

    # -- memory --
    def do_ldg(self):
        names, at = self.results(), address_of(next(text for text in self.operands if "[" in text))
        size = self.size()
        requested = self.requests(names, size)
        def run(w, mask):
            addresses = at(w)
            for i, name in enumerate(names):
                w.write(name, lift(lambda a: w.block.load(a + 4 * i, min(size, 4)), addresses), mask)
            requested(w, mask)
        return run

    do_ld = do_ldg

    def do_ldgsts(self):
        size = self.size()
        return lambda w, mask: w.copying(size * bin(mask).count("1"))

    def do_ldgdepbar(self):
        return lambda w, mask: w.committed()

    def do_depbar(self):
        return lambda w, mask: w.awaited(int(self.operands[1], 16))

    def do_lds(self):
        names, at, local = self.results(), address_of(self.operands[1]), self.base == "LDL"
        size = self.size()
        def run(w, mask):
            store, addresses = w.local if local else w.block.shared, at(w)
            for i, name in enumerate(names):
                if local:
                    value = store.get(addresses + 4 * i) if addresses.__class__ is int else None
                else:
                    value = lift(lambda a: (a + 4 * i, min(size, 4)), addresses)
                    value = [store.get(key) for key in value] if value.__class__ is list else store.get(value)
                w.write(name, value, mask)
            if not local:
                w.block.touch_shared(size, mask)
        return run

    do_ldl = do_lds

    def do_sts(self):
        at, local = address_of(self.operands[0]), self.base == "STL"
        size = self.size()
        values = [integer(self.operands[1], i) for i in range(max(1, size // 4))]
        def run(w, mask):
            store, addresses = w.local if local else w.block.shared, at(w)
            for i, value in enumerate(values):
                data = value(w)
                if local:
                    if addresses.__class__ is int:
                        store[addresses + 4 * i] = data
                elif addresses is not None:
                    for lane in range(LANES):
                        if mask >> lane & 1:
                            store[(lane_of(addresses, lane) or 0) + 4 * i, min(size, 4)] = lane_of(data, lane)
            if not local:
                w.block.touch_shared(size, mask)
        return run

    do_stl = do_sts

    def do_atomg(self):
        if "ADD" not in self.kinds:
            return self.unknown_result()
        target = next(text for text in self.operands if re.fullmatch(r"R\d+", text))
        return lambda w, mask: w.write(target, w.block.arrived(), mask)  # blocks that arrived before this one
