"""The report's text: docs/benchmarks/sm86.md and .csv."""

import textwrap

import card


def line(row):
    pipes = ", ".join(f"{name} {getattr(row.limits, name) * 1e6:.1f}" for name in row.limits._fields)
    return (
        f"{row.resources.registers} registers, {row.occupancy.blocks} x {row.launch.threads // 32} warps, {row.total} warp instructions, "
        f"{row.per_weight:.3f} a {row.launch.unit}; µs: {pipes}; {row.predicted * 1e6:.1f} predicted, {100 * row.share:.0f}%"
    )


def wrapped(text):
    """Paragraphs and points at the width of the other documents; tables and headings as they are."""
    lines = []
    for line_of_text in text.split("\n"):
        if line_of_text.startswith(("|", "#")) or len(line_of_text) <= 150:
            lines.append(line_of_text)
        else:
            indent = "  " if line_of_text.startswith("- ") else ""
            lines += textwrap.wrap(line_of_text, 150, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
    return "\n".join(lines)


def percent(value):
    return f"{100 * value:.0f}%"


def of_bytes(row, name):
    """A limit as a share of the time that the bytes take at 936 GB/s."""
    return percent(getattr(row.limits, name) * card.BANDWIDTH / row.launch.bytes)


def table(heads, rows):
    return "\n".join(["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)] + ["| " + " | ".join(map(str, row)) + " |" for row in rows]) + "\n"


PRODUCT_HEADS = ["registers", "spills", "shared, KiB", "blocks x warps", "resident", "lane instructions per weight", "in the loop", "bytes per weight",
                 "issue", "ALU", "f32, IMAD", "load, store", "tensor", "chain", "longest", "µs", "share of 936 GB/s"]  # fmt: skip


def product_cells(row):
    shared = (row.resources.shared + row.launch.dynamic) / 1024
    spilled = f"{row.resources.stack} B" if row.resources.stack else "0"
    return [
        row.resources.registers,
        spilled,
        f"{shared:.1f}",
        f"{row.occupancy.blocks} x {row.launch.threads // 32}",
        percent(row.occupancy.share),
        f"{row.per_weight:.2f}",
        percent(row.loop_share),
        f"{row.launch.bytes / row.launch.weights:.3f}",
        *(of_bytes(row, name) for name in ("issue", "alu", "fma", "lsu", "tensor", "chain")),
        row.bound,
        f"{row.predicted * 1e6:.1f}",
        f"**{percent(row.share)}**",
    ]


def pick(rows, kernel, shape=None, test=lambda launch: True):
    return [row for row in rows if row.launch.kernel == kernel and (shape is None or shape in row.launch.shape) and test(row.launch)]


def product_table(rows, first, label):
    return table([first] + PRODUCT_HEADS, [[label(row.launch)] + product_cells(row) for row in rows])


def small_table(rows):
    heads = ["kernel", "", "registers", "shared, KiB", "blocks", "warps", "warp instructions", "longest warp", "XU share of issue", "chain, µs", "predicted µs"]
    cells = []
    for row in rows:
        blocks = row.launch.grid[0] * row.launch.grid[1] * row.launch.grid[2]
        cells.append(
            [f"{row.launch.kernel}, {row.launch.format}", row.launch.shape, row.resources.registers, f"{(row.resources.shared + row.launch.dynamic) / 1024:.1f}",
             blocks, row.launch.threads // 32, row.total, row.longest, percent(row.limits.xu / row.limits.issue), f"{row.limits.chain * 1e6:.1f}", f"{row.predicted * 1e6:.1f}"]
        )  # fmt: skip
    return table(heads, cells)


def number(value):
    return f"{value:,.0f}"


def arithmetic(row):
    """One launch in full."""
    launch, pipes, limits = row.launch, row.fullest, row.limits
    blocks = launch.grid[0] * launch.grid[1] * launch.grid[2]
    issued = sum(pipes.values())
    mhz = f"{card.CLOCK / 1e9:.3f} GHz"
    tensor = "tensor"
    per_warp = -(-row.resources.registers // 8) * 8 * 32
    lines = [
        f"{launch.kernel}, {launch.format}, {launch.shape}: {number(blocks)} blocks of {launch.threads // 32} warps.",
        "",
        f"- Occupancy: {row.resources.registers} registers x 32 lanes are {number(per_warp)} for a warp (units of 256), so each scheduler's 16,384 hold "
        f"{16384 // per_warp} and a multiprocessor {4 * (16384 // per_warp)} warps; {row.resources.shared + launch.dynamic:,} bytes of shared memory and "
        f"1,024 reserved for each block share 102,400. {row.occupancy.blocks} blocks (limited by {row.occupancy.limit}), {row.occupancy.warps} of 48 warps.",
        f"- Executed: {number(row.total)} warp instructions, x 32 lanes / {number(launch.weights)} weights = {row.per_weight:.3f} per weight; "
        f"{percent(row.loop_share)} of them in the main loop. The blocks streamed {number(launch.streamed)} bytes, which is what the weights have.",
        f"- The fullest multiprocessor executes {number(issued)}: " + ", ".join(f"{name} {number(pipes[name])}" for name in sorted(pipes, key=pipes.get, reverse=True)) + ".",
        f"- Issue: {number(issued)} / 4 schedulers / {mhz} = {limits.issue * 1e6:.2f} µs.",
        f"- ALU: {number(pipes.get('alu', 0))} x 32 / 64 lanes / {mhz} = {limits.alu * 1e6:.2f} µs. f32 and IMAD: the longer of "
        f"({number(pipes.get('fma', 0))} + {number(pipes.get('imad', 0))}) x 32 / 128 and {number(pipes.get('imad', 0))} x 32 / 64 = {limits.fma * 1e6:.2f} µs. "
        f"Loads, stores, shuffles: {number(pipes.get('lsu', 0))} x 32 / 32 = {limits.lsu * 1e6:.2f} µs.",
        f"- Tensor cores: {number(pipes.get(tensor, 0))} instructions, {limits.tensor * 1e6:.2f} µs.",
        f"- Chain: {row.waves} turn{'s' if row.waves > 1 else ''} of blocks x ({number(row.longest)} instructions x {card.CHAIN_CYCLES} cycles / {mhz} + {card.MEMORY_LATENCY * 1e6:.1f} µs) = {limits.chain * 1e6:.2f} µs.",
        f"- Bytes: {number(launch.bytes)} / 936 GB/s = {launch.bytes / card.BANDWIDTH * 1e6:.2f} µs; at {percent(card.READ_SHARE)} of that {limits.bytes * 1e6:.2f} µs.",
        f"- In flight at most: {number(row.flying)} bytes per multiprocessor; 936 GB/s over {card.MULTIPROCESSORS} of them with {card.MEMORY_LATENCY * 1e6:.1f} µs of latency need "
        f"{number(card.BANDWIDTH * card.MEMORY_LATENCY / card.MULTIPROCESSORS)}.",
        f"- The longest is {row.bound}: {getattr(limits, row.bound) * 1e6:.2f} + {card.LAUNCH * 1e6:.0f} µs for the launch = {row.predicted * 1e6:.2f} µs, predicted; "
        f"{launch.bytes / card.BANDWIDTH * 1e6:.2f} / {row.predicted * 1e6:.2f} = {100 * row.share:.1f}% of 936 GB/s.",
    ]
    return "\n".join(lines) + "\n"


def spilled(rows):
    seen = {}
    for row in rows:
        if row.resources.stack or row.spills:
            seen.setdefault((row.launch.kernel, row.launch.format, row.resources.stack), row.spills)
    if not seen:
        return "No kernel above has a stack or executes a load or store of local memory."
    return "Stack of a thread, and share of the executed instructions that load or store it: " + "; ".join(
        f"{kernel}, {form}: {stack} B, {100 * share:.1f}%" for (kernel, form, stack), share in seen.items()
    ) + ". Nothing else has a stack or touches local memory."  # fmt: skip


HEAD = """# RTX 3090 (sm_86) without the card

Made by `scripts/sm86-report` with nvcc {version} from {commit}; no figure is from elsewhere. No such card was measured: the times
and shares are predictions. The kernels are compiled for sm_86, the backend's own code chooses the launches for {multiprocessors}
multiprocessors, and the blocks of each launch are followed through their machine code, warp by warp with the launch's real arguments, so
that executed instructions are counted and not estimated: of more than 32 blocks in a row the first, the second, the last and where the
count changes. Coefficients are bf16. Where a kernel streams its weights (`__ldcs`), the bytes that its blocks requested are compared with
the weights' bytes; a difference, an unknown instruction or a branch whose way is not known ends the run. So what stands here uses no
instruction that the script has no sm_86 rate for.

What the limits are, as shares of the time that the launch's bytes take at 936 GB/s (100%: as long as the bytes), for the multiprocessor
that has most to do:

- issue: 4 warp instructions per cycle at {clock:.3f} GHz. ALU: 64 lanes per cycle. f32: 128, of which integer multiplication (IMAD) has
  64. Loads, stores and shuffles: 32 lanes, 128 bytes of shared memory, bank conflicts left out. Conversions and special functions: 16.
  (CUDA C++ Programming Guide, throughput of native arithmetic instructions, 8.6; which instruction takes which pipe:
  `scripts/sm86/sass.py`.)
- tensor: cycles of a multiprocessor for one instruction: HMMA.16816 with f32 sums 8 (71 TFLOP/s), HMMA.1688 4, IMMA.16832 4 (284 TOPS;
  whitepaper of the GA102), BMMA.168128 2 and BMMA.168256 4. NVIDIA states no 1-bit rate of this card; assumed is eight times the operations of int8, as
  on the A100.
- chain: turns of blocks x (instructions of the longest warp x {chain} cycles + {latency:.1f} µs), what a warp takes when nothing hides
  its latency ({chain} cycles: H200, [log.md](log.md)).
- bytes: {bandwidth:.0f} GB/s x {read}, as far as a plain read reaches (assumed), plus {launch:.0f} µs for a launch, which is not
  overlapped below sm_90.

The longest of them and the launch are the predicted time. Where that is bytes, the share follows from the two assumptions in the last
line alone, and what the count shows is how far everything else is from being the limit; "in the loop": share of the instructions of a
block in the middle that its loop with most of them has; spills: stack of a thread. [sm86.csv](sm86.csv) has every launch.

"""


def one_bit_risk(rows):
    """What the bit-serial rows would be with 1-bit products at int8's operations per cycle."""
    slower = [(row.tensor_slow * card.BANDWIDTH / row.launch.bytes, row) for row in pick(rows, "bit-serial")]
    worst, over = max(slower, key=lambda each: each[0]), [row for share, row in slower if share > 1]
    text = f"Were the 1-bit rate only that of int8, an eighth of what is assumed, the tensor column of bit-serial rows would be at most {percent(worst[0])} "
    text += f"({worst[1].launch.format}, {worst[1].launch.shape})"
    if not over:
        return text + ", so that bytes would still be the limit.\n"
    return text + f", and over 100% for {len(over)} of {len(slower)} launches: " + ", ".join(sorted({row.launch.format for row in over})) + ".\n"


def markdown(rows, version, commit):
    values = dict(version=version, commit=commit, multiprocessors=card.MULTIPROCESSORS, clock=card.CLOCK / 1e9, chain=card.CHAIN_CYCLES, latency=card.MEMORY_LATENCY * 1e6,
                  bandwidth=card.BANDWIDTH / 1e9, read=card.READ_SHARE, launch=card.LAUNCH * 1e6)  # fmt: skip
    gate_up, written = "7B gate_up", "k=2 g=128, 8 bit"

    def of_format(launch):
        return launch.format

    def of_shape(launch):
        return launch.shape

    parts = [HEAD.format(**values), "## One launch in full\n\n", arithmetic(pick(rows, "bit-serial", gate_up, lambda launch: launch.format == written)[0])]
    parts += ["\n## One row: the bit-serial product\n\n7B gate_up, 37888 x 3584:\n\n", product_table(pick(rows, "bit-serial", gate_up), "", of_format)]
    parts += ["\n", one_bit_risk(rows)]
    for text, test in (("k=2, g=128, 8 bit", "k=2 g=128, 8 bit"), ("k=2, g=128, 16 bit", "k=2 g=128, 16 bit"), ("k=2, g=64, 8 bit", "k=2 g=64, 8 bit")):
        parts += [f"\n{text}:\n\n", product_table(pick(rows, "bit-serial", "7B", lambda launch: launch.format == test), "", of_shape)]
    for text, test in (("k=2, g=256, 8 bit", "k=2 g=256, 8 bit"),):
        parts += [f"\n{text}:\n\n", product_table(pick(rows, "bit-serial", None, lambda launch: launch.format == test), "", of_shape)]
    parts += ["\n## Two to sixteen rows: levels as bytes\n\n7B gate_up; the bytes are read once for all rows:\n\n", product_table(pick(rows, "levels", gate_up), "", of_format)]
    parts += ["\nk=2, g=128, 8 rows:\n\n", product_table(pick(rows, "levels", "7B", lambda launch: launch.format == "k=2 g=128, 8 rows"), "", of_shape)]
    parts += ["\n## Two to sixteen rows: f16\n\n7B gate_up:\n\n", product_table(pick(rows, "f16 batch", gate_up), "", of_format)]
    parts += ["\n## Exact f32 activations\n\n7B gate_up:\n\n", product_table(pick(rows, "exact f32"), "", of_format)]
    heads = pick(rows, "dense 8 bit") + pick(rows, "dense bf16")
    parts += ["\n## Output head, 152064 x 3584\n\n", product_table(heads, "", lambda launch: f"{launch.kernel}, {launch.format}")]
    parts += ["\n## Attention\n\n28 heads over 4 of 128, one token, rotation included; weights are the numbers of the cache:\n\n"]
    parts += [product_table(pick(rows, "attention"), "", lambda launch: f"{launch.format}, {launch.shape}")]
    small = [row for row in rows if row.launch.kernel.startswith(("prepare", "merge", "top k", "start"))]
    parts += ["\n## Preparations, merging, sampling, start\n\nOf these a chain of instructions is the limit, not bytes; no share of 936 GB/s would say anything:\n\n", small_table(small)]
    parts += ["\n## Spills\n\n", spilled(rows), "\n"]
    return wrapped("".join(parts))


def comma(rows):
    heads = "kernel,format,shape,registers,stack_bytes,shared_static,shared_dynamic,blocks,threads,blocks_per_multiprocessor,warps_per_multiprocessor,occupancy,limited_by,"
    heads += "warp_instructions,unit,lane_instructions_per_unit,loop_share,spill_share,tensor_instructions,bytes,bytes_per_unit,bytes_in_flight,longest_warp,turns,"
    heads += "us_bytes,us_issue,us_alu,us_fma,us_xu,us_lsu,us_tensor,us_chain,longest_limit,us_predicted,share_of_936\n"
    lines = [heads]
    for row in rows:
        launch = row.launch
        cells = [f'"{launch.kernel}"', f'"{launch.format}"', f'"{launch.shape}"', row.resources.registers, row.resources.stack, row.resources.shared, launch.dynamic,
                 launch.grid[0] * launch.grid[1] * launch.grid[2], launch.threads, row.occupancy.blocks, row.occupancy.warps, f"{row.occupancy.share:.3f}",
                 row.occupancy.limit, row.total, f'"{launch.unit}"', f"{row.per_weight:.4f}", f"{row.loop_share:.3f}", f"{row.spills:.4f}", row.tensor_total,
                 f"{launch.bytes:.0f}", f"{launch.bytes / launch.weights:.4f}", row.flying, row.longest, row.waves,
                 *(f"{value * 1e6:.3f}" for value in row.limits), row.bound, f"{row.predicted * 1e6:.3f}", f"{row.share:.4f}"]  # fmt: skip
        lines.append(",".join(map(str, cells)) + "\n")
    return "".join(lines)
