"""The RTX 3090 in numbers: how many blocks fit a multiprocessor, and how long instructions and bytes take at least."""

import math
from collections import namedtuple

NAME = "RTX 3090"
MULTIPROCESSORS = 82
CLOCK = 1.695e9  # boost; NVIDIA Ampere GA102 GPU Architecture whitepaper, appendix A
BANDWIDTH = 936e9
SCHEDULERS = 4  # each issues one warp instruction per cycle

# CUDA C++ Programming Guide, technical specifications of compute capability 8.6.
REGISTERS, REGISTER_UNIT, WARPS, BLOCKS = 65536, 256, 48, 16
SHARED, SHARED_PER_BLOCK, SHARED_UNIT, SHARED_RESERVED = 100 * 1024, 99 * 1024, 128, 1024

# Lanes per cycle and multiprocessor. CUDA C++ Programming Guide, "Throughput of native arithmetic instructions", column 8.6: integer
# addition, shift, comparison, logic and multiplication 64, f32 128, special functions and most conversions 16, shuffles 32.
LANES = {"alu": 64, "fma": 128, "imad": 64, "xu": 16, "lsu": 32}
CACHE_BYTES = 128  # per cycle, of shared memory and L1 together

# Cycles of a multiprocessor for one instruction. Whitepaper: 71 TFLOP/s for f16 with f32 sums and 284 TOPS for int8 are 512 and 2,048
# operations per cycle. It gives no rate for 1 bit: assumed is eight times that of int8, as the A100's whitepaper has it (4,992 : 624 TOPS).
TENSOR = {"HMMA.16816.F32": 8, "HMMA.1688.F32": 4, "IMMA.16832.S8.S8": 4, "BMMA.168128.AND.POPC": 2, "BMMA.168256.AND.POPC": 4}
ONE_BIT_SLOWER = 8  # where that assumption is wrong: the operations of int8

# Assumed: what a plain read reaches of the bandwidth, a launch without dependent launch, the latency of memory, and cycles from one
# instruction of a warp to the next when nothing else hides them (an H200's profile: docs/benchmarks/log.md).
READ_SHARE, LAUNCH, MEMORY_LATENCY, CHAIN_CYCLES = 0.93, 2e-6, 0.6e-6, 6

Occupancy = namedtuple("Occupancy", "blocks warps share limit")
Limits = namedtuple("Limits", "bytes issue alu fma xu lsu tensor chain")


def occupancy(registers, shared, threads):
    """Blocks of `threads` with `registers` each and `shared` bytes (static and dynamic) that fit a multiprocessor, and what limits them."""
    warps = math.ceil(threads / 32)
    of_warp = math.ceil(registers * 32 / REGISTER_UNIT) * REGISTER_UNIT
    of_block = math.ceil(shared / SHARED_UNIT) * SHARED_UNIT + SHARED_RESERVED
    # a warp's registers lie in the file of its scheduler
    most = {"blocks": BLOCKS, "warps": WARPS // warps, "registers": REGISTERS // SCHEDULERS // of_warp * SCHEDULERS // warps, "shared memory": SHARED // of_block}
    limit = min(most, key=most.get)
    blocks = most[limit]
    return Occupancy(blocks, blocks * warps, blocks * warps / WARPS, limit)


def tensor_cycles(opcode, one_bit_slower=1):
    if opcode not in TENSOR:
        raise ValueError(f"scripts/sm86/card.py gives no rate for {opcode}")
    return TENSOR[opcode] * (one_bit_slower if opcode.startswith("BMMA") else 1)


def limits(memory_bytes, pipes, tensor, moved, longest_warp, waves):
    """Seconds that each resource needs at least. `pipes`: warp instructions of the fullest multiprocessor by pipe; `tensor`: its
    cycles; `moved`: its bytes from and to shared memory and L1."""
    seconds = 1 / CLOCK
    lanes = {pipe: pipes.get(pipe, 0) * 32 / rate * seconds for pipe, rate in LANES.items()}
    f32 = (pipes.get("fma", 0) + pipes.get("imad", 0)) * 32 / LANES["fma"] * seconds  # integer multiplication takes half of those lanes
    return Limits(
        bytes=memory_bytes / (BANDWIDTH * READ_SHARE),
        issue=sum(pipes.values()) / SCHEDULERS * seconds,
        alu=lanes["alu"],
        fma=max(f32, lanes["imad"]),
        xu=lanes["xu"],
        lsu=max(lanes["lsu"], moved / CACHE_BYTES * seconds),
        tensor=tensor * seconds,
        chain=waves * (longest_warp * CHAIN_CYCLES * seconds + MEMORY_LATENCY),
    )
