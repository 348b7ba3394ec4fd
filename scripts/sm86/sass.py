"""Reads what cuobjdump prints: instructions (-sass), resources (-res-usage) and places of parameters (-elf)."""

import re
from collections import namedtuple

Instruction = namedtuple("Instruction", "address guard opcode operands text")
Resources = namedtuple("Resources", "registers stack shared")

LINE = re.compile(r"^\s+/\*([0-9a-f]{4,})\*/\s+(?:@(!?U?P[0-9T]+)\s+)?([A-Z][A-Z0-9_.]*)\s*([^;]*?)\s*;")
FUNCTION = re.compile(r"^\s*Function\s*:\s*(\S+)")


class Unreadable(ValueError):
    """Text that is not what cuobjdump prints, or an instruction that is not known here."""


def parse_line(line):
    found = LINE.match(line)
    if not found:
        return None
    address, guard, opcode, rest = found.groups()
    operands = tuple(word.strip().replace(".reuse", "") for word in rest.split(",")) if rest else ()
    return Instruction(int(address, 16), guard, opcode, operands, f"{'@' + guard + ' ' if guard else ''}{opcode} {rest}".strip())


def parse_functions(text):
    """Kernel name -> its instructions, in order."""
    functions, current = {}, None
    for line in text.splitlines():
        heading = FUNCTION.match(line)
        if heading:
            current = functions.setdefault(heading.group(1), [])
            continue
        instruction = parse_line(line)
        if instruction and current is None:
            raise Unreadable(f"an instruction before the first function: {line.strip()}")
        if instruction:
            current.append(instruction)
    if not functions:
        raise Unreadable("no function in the disassembly")
    for name, instructions in functions.items():
        if not instructions:
            raise Unreadable(f"{name}: no instructions")
        if any(later.address <= one.address for one, later in zip(instructions, instructions[1:])):
            raise Unreadable(f"{name}: addresses do not ascend")
    return functions


def parse_resources(text):
    """Kernel name -> Resources: registers of a thread, bytes of stack of a thread (where spills go), static shared memory of a block."""
    found = {}
    for name, registers, stack, shared in re.findall(r"Function (\S+):\s*\n\s*REG:(\d+) STACK:(\d+) SHARED:(\d+)", text):
        found[name] = Resources(int(registers), int(stack), int(shared))
    return found


def parse_parameters(text):
    """Kernel name -> [(offset, size)] of its parameters, in their order."""
    found = {}
    for section in re.split(r"(?m)^\.nv\.info\.", text)[1:]:
        name = section.split(None, 1)[0]
        places = re.findall(r"Ordinal\s*:\s*(0x[0-9a-f]+)\s+Offset\s*:\s*(0x[0-9a-f]+)\s+Size\s*:\s*(0x[0-9a-f]+)", section)
        found[name] = [(int(offset, 16), int(size, 16)) for _, offset, size in sorted(places, key=lambda place: int(place[0], 16))]
    return found


def loops(instructions):
    """(first address, address of the branch back) of every backward branch, the shortest way first."""
    found = []
    for one in instructions:
        if one.opcode.split(".")[0] == "BRA" and one.operands and one.operands[-1].startswith("0x"):
            target = int(one.operands[-1], 16)
            if target < one.address:  # the BRA to itself behind the end is no loop
                found.append((target, one.address))
    return sorted(found, key=lambda loop: loop[1] - loop[0])


# What an instruction occupies. "alu": integers, logic, comparisons, byte permutation; "fma": f32 and packed f16; "imad": integer
# multiplication, on the half of the f32 lanes that has it; "xu": conversions, transcendental functions, population count; "lsu": addresses of
# loads and stores, and shuffles; "tensor"; "uniform": the scalar pipe; "other": branches, barriers and what only takes an issue slot.
PIPES = {
    "alu": "IADD3 LOP3 SHF LEA PRMT ISETP SEL IMNMX FMNMX FSETP FSEL FCHK VOTE PLOP3 IABS I2FP BMSK SGXT P2R R2P VABSDIFF HSETP2 HMNMX2 MOV VIMNMX F2FP".split(),
    "fma": "FFMA FMUL FADD HFMA2 HADD2 HMUL2".split(),
    "imad": ["IMAD"],
    "xu": "MUFU I2F F2I F2F POPC FLO BREV FRND I2I".split(),
    "lsu": "LDG STG LDS STS LDL STL LD ST LDC LDGSTS ATOMG ATOMS ATOM RED SHFL LDSM MOVM LDGDEPBAR MATCH REDUX CCTL CCTLL".split(),
    "tensor": "HMMA IMMA BMMA".split(),
    "uniform": "ULDC UMOV UIADD3 UIMAD ULEA USHF ULOP3 UISETP USEL UPLOP3 UPRMT UFLO UPOPC VOTEU R2UR S2UR UP2UR UBMSK USGXT UBREV".split(),
    "other": (
        "BRA BSSY BSYNC BREAK BMOV EXIT CALL RET BAR DEPBAR MEMBAR ERRBAR NOP WARPSYNC YIELD S2R CS2R NANOSLEEP BRX JMP KILL BPT ELECT PREFETCH"
    ).split(),
}
PIPE_OF = {opcode: pipe for pipe, opcodes in PIPES.items() for opcode in opcodes}


def pipe_of(opcode):
    pipe = PIPE_OF.get(opcode.split(".")[0])
    if pipe is None:
        raise Unreadable(f"{opcode}: scripts/sm86/sass.py does not say which pipe it takes")
    return pipe
