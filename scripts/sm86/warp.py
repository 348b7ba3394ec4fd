"""Follows the warps of one block through a kernel's instructions, to count what is executed.

Only what decides which way a warp goes has to be known (decode.py); numbers that come from memory without a value declared for them are
unknown. A branch that depends on something unknown ends the count with an error that names it, so a count is never a guess.
"""

import re
import struct

from decode import ALL, LANES, MASK, Decoder, lane_of, next_register, predicate
from sass import Unreadable, loops, pipe_of

FLOW = ("BRA", "EXIT", "BSSY", "BSYNC", "BREAK", "CALL", "RET", "BAR", "WARPSYNC", "NOP")
LIMIT = 2_000_000  # instructions of a warp
EMPTY = {f"{kind}{i}": 0 for kind, count in (("R", 255), ("UR", 63), ("P", 7), ("UP", 7)) for i in range(count)}


class Unknown(Unreadable):
    """A decision depends on a value that is not known."""


class Apart(Exception):
    """A warp whose lanes are not together came to a place that has a way of its own for that."""


class Step:
    """An instruction as a warp takes it. `run` is None where its result decides nothing and no memory is touched."""

    def __init__(self, one, follower):
        self.one, self.follower, self.address = one, follower, one.address
        self.decoder = Decoder(one)
        base = self.decoder.base
        self.flow = base if base in FLOW else None
        self.guard = predicate(one.guard) if one.guard else None
        self.writes = [] if self.flow else self.decoder.results()
        self.registers_read = [name for text in one.operands for name in re.findall(r"\bU?R\d+", text)]
        self.apart = base == "BRA" and (".DIV" in one.opcode or ".CONV" in one.opcode)
        self.run = None

    def successors(self, returns, together):
        base, guarded = self.flow, self.one.guard is not None or len(self.one.operands) > 1
        if base == "EXIT":
            return [self.follower] if guarded else []
        if base == "RET":
            return returns
        if base in ("BRA", "CALL"):
            conditional = guarded or self.apart
            if self.apart and together:
                return [self.follower]
            return [int(self.one.operands[-1], 16)] + ([self.follower] if conditional and self.follower is not None else [])
        return [self.follower] if self.follower is not None else []

    def reads(self):
        """Registers and predicates that the result is computed from."""
        decoder = self.decoder
        if self.flow is None and not decoder.known():
            return set()
        names = set(re.findall(r"\bU?P\d\b", " ".join(self.one.operands)))
        if "PR" in self.one.operands:
            names.update(f"P{i}" for i in range(7))
        pairs = decoder.base == "IMAD" and ("WIDE" in decoder.kinds or "HI" in decoder.kinds) or "U64" in decoder.kinds or "S64" in decoder.kinds
        for text in self.one.operands:
            for name in re.findall(r"\bU?R\d+", text):
                width = 2 if pairs or f"{name}.64" in text else 1
                if decoder.base in ("STS", "STL") and "[" not in text:
                    width = max(1, decoder.size() // 4)
                names.update(next_register(name, i) for i in range(width))
        return names


class Program:
    """A kernel's instructions, ready to be followed: only those that can decide which way a warp goes are computed, found by going backwards
    from branches and guards through everything that they depend on. `together`: ways for warps that are not together are left out (Apart)."""

    def __init__(self, instructions, together=True):
        self.together = together
        self.instructions, self.loops = instructions, loops(instructions)
        followers = [one.address for one in instructions[1:]] + [None]
        self.steps = {one.address: Step(one, follower) for one, follower in zip(instructions, followers)}
        deciding = self.deciding()
        loaded = {name for step in self.steps.values() if step.decoder.base in ("LDG", "LD") for name in step.writes}
        for step in self.steps.values():
            pipe_of(step.one.opcode)
            if step.flow is None:
                step.run = step.decoder.step() if step.address in deciding else step.decoder.light()
            step.waits = [name for name in step.registers_read if name in loaded]
        self.segments = {}

    def deciding(self):
        """Addresses of the instructions whose results matter."""
        steps = list(self.steps.values())
        numbers = {name: i for i, name in enumerate(EMPTY)}

        def bits(names):
            return sum(1 << numbers[name] for name in set(names) if name in numbers)

        returns = [step.follower for step in steps if step.flow == "CALL" and step.follower is not None]
        facts = {}
        for step in steps:
            guard = bits(re.findall(r"U?P\d", step.one.guard or ""))
            always = guard | (bits(step.reads()) if step.flow else 0)
            facts[step.address] = always, bits(step.writes), bits(step.reads()), step.one.guard is None, step.successors(returns, self.together)
        reached, edge = set(), [steps[0].address]
        while edge:
            address = edge.pop()
            if address not in reached:
                reached.add(address)
                edge += facts[address][4]
        steps = [step for step in steps if step.address in reached]
        asked = set()  # (LDS or LDL, bytes of a piece) of loads that matter: then so do the stores of such pieces
        while True:
            before = dict.fromkeys(self.steps, 0)
            matter = set()
            changed = True
            while changed:
                changed = False
                for step in reversed(steps):
                    always, writes, reads, certain, successors = facts[step.address]
                    after = 0
                    for address in successors:
                        after |= before.get(address, 0)
                    matters = writes & after or (step.decoder.base in ("STS", "STL") and ("LD" + step.decoder.base[2], step.decoder.piece()) in asked)
                    result = (after & ~writes if certain else after) | always | (reads if matters else 0)
                    if matters:
                        matter.add(step.address)
                    if result != before[step.address]:
                        before[step.address] = result
                        changed = True
            decoders = [self.steps[address].decoder for address in matter]
            needed = {(decoder.base, decoder.piece()) for decoder in decoders if decoder.base in ("LDS", "LDL")}
            if needed <= asked:
                return matter
            asked |= needed

    def segment(self, address):
        """What there is to do from an address to the next instruction that may go elsewhere (its address), and how many instructions that is."""
        if address not in self.segments:
            active, at, count = [], address, 0
            while self.steps[at].flow is None:
                step = self.steps[at]
                count += 1
                if step.run or step.waits:
                    active.append(step)
                at = step.follower
            self.segments[address] = active, at, count
        return self.segments[address]


class Warp:
    def __init__(self, block, number):
        self.block, self.number = block, number
        lanes = min(LANES, block.threads - number * LANES)
        self.alive = (1 << lanes) - 1
        self.at = {block.program.instructions[0].address: self.alive}  # where the lanes are: address -> mask
        self.joins, self.waiting = {}, {}  # BSSY's masks; lanes that wait at a BSYNC: barrier -> (mask, where they go on)
        self.registers, self.local = dict(EMPTY), {}  # what no instruction has written decides nothing in a correct program
        self.loads, self.open, self.groups, self.group, self.flying, self.landed = {}, [], [], 0, 0, 0
        self.executed = 0

    def special(self, name):
        x, y, z = self.block.index
        if name == "SR_TID.X":
            return [self.number * LANES + lane for lane in range(LANES)]
        values = {"SR_CTAID.X": x, "SR_CTAID.Y": y, "SR_CTAID.Z": z, "SR_TID.Y": 0, "SR_TID.Z": 0, "SR_EQMASK": [1 << lane for lane in range(LANES)],
                  "SR_LTMASK": [(1 << lane) - 1 for lane in range(LANES)], "SR_LANEID": list(range(LANES))}
        return values.get(name)

    def write(self, name, value, mask):
        if name in ("RZ", "URZ", "PT", "UPT"):
            return
        if mask != self.alive and name[0] != "U":
            old = self.registers.get(name)
            value = [lane_of(value if mask >> lane & 1 else old, lane) for lane in range(LANES)]
        self.registers[name] = value

    # Loads on their way: one that is used has arrived, and so have those before it.
    def requested(self, names, size):
        self.block.moved += size
        self.flying += size
        self.open.append(size)
        for name in names:
            self.loads[name] = len(self.open)
        self.block.most_flying[self.number] = max(self.block.most_flying[self.number], self.flying)

    def copying(self, size):
        self.block.moved += size
        self.group += size
        self.flying += size
        self.block.most_flying[self.number] = max(self.block.most_flying[self.number], self.flying)

    def committed(self):
        self.groups.append(self.group)
        self.group = 0

    def awaited(self, pending):
        while len(self.groups) > pending:
            self.flying -= self.groups.pop(0)

    def decide(self, condition, mask, one):
        """Which of the lanes meet the condition."""
        if condition is None:
            raise Unknown(f"{self.block.name} at {one.address:#x}: '{one.text}' depends on a number that is not known")
        if condition.__class__ is int:
            return mask if condition else 0
        taken = 0
        for lane in range(LANES):
            if mask >> lane & 1:
                if condition[lane] is None:
                    raise Unknown(f"{self.block.name} at {one.address:#x}: '{one.text}' depends on a number that is not known")
                taken |= condition[lane] << lane
        return taken

    def go(self, address, mask):
        if mask:
            self.at[address] = self.at.get(address, 0) | mask

    def leave(self, mask):
        self.alive &= ~mask
        for name in list(self.joins):
            self.joins[name] &= ~mask
            self.release(name)

    def release(self, name):
        if name in self.waiting:
            mask, address = self.waiting[name]
            if mask == self.joins.get(name, 0) & self.alive:
                del self.waiting[name]
                self.go(address, mask)

    def run(self):
        """Goes on until a barrier of the block (True) or the end (False)."""
        program = self.block.program
        while self.at:
            address = min(self.at)
            mask = self.at.pop(address)
            if self.at:  # apart: step by step, so that lanes come together where they can
                step = program.steps[address]
                self.counted(address, 1)
                if step.flow is None:
                    self.take(step, mask)
                    self.go(step.follower, mask)
                    continue
            else:
                active, end, count = program.segment(address)
                self.counted(address, count + 1)
                for step in active:
                    self.take(step, mask)
                step = program.steps[end]
            if self.jump(step.flow, step.one, step.guard, mask, step.follower):
                return True
        if self.waiting:
            raise Unknown(f"{self.block.name}: lanes wait for others that never come")
        return False

    def counted(self, first, count):
        self.executed += count
        runs = self.block.runs
        runs[first, count] = runs.get((first, count), 0) + 1
        if self.executed > LIMIT:
            raise Unknown(f"{self.block.name}: a warp does not come to its end")

    def take(self, step, mask):
        if step.waits and self.loads:
            latest = max((self.loads.pop(name, 0) for name in step.waits), default=0)
            while self.landed < latest:
                self.flying -= self.open[self.landed]
                self.landed += 1
        if step.run is None:
            return
        if step.guard is not None:
            condition = step.guard(self)
            if condition.__class__ is list and any(condition[lane] is None for lane in range(LANES) if mask >> lane & 1):
                condition = None
            if condition is None:
                if step.decoder.base in ("LDG", "LDGSTS", "LDS", "STS"):
                    raise Unknown(f"{self.block.name} at {step.address:#x}: '{step.one.text}' depends on a number that is not known")
                for name in step.writes:
                    self.write(name, None, mask)
                return
            mask = self.decide(condition, mask, step.one)
            if not mask:
                return
        step.run(self, mask)

    def jump(self, flow, one, guard, mask, follower):
        taken = self.decide(guard(self), mask, one) if guard else mask
        if flow in ("NOP", "WARPSYNC"):
            self.go(follower, mask)
        elif flow == "BAR":
            self.go(follower, mask)
            return bool(taken)
        elif flow == "EXIT":
            self.go(follower, mask & ~taken)
            self.leave(taken)
        elif flow == "BSSY":
            self.joins[one.operands[0]] = mask
            self.go(follower, mask)
        elif flow == "BREAK":
            self.joins[one.operands[-1]] = self.joins.get(one.operands[-1], 0) & ~taken
            self.go(follower, mask)
            self.release(one.operands[-1])
        elif flow == "BSYNC":
            name = one.operands[0]
            self.go(follower, mask & ~taken)
            there = self.waiting.get(name, (0, follower))[0] | taken
            self.waiting[name] = there, follower
            self.release(name)
        elif flow == "RET":
            target = self.registers.get(one.operands[0].split()[0])
            if target.__class__ is not int:
                raise Unknown(f"{self.block.name} at {one.address:#x}: returns to an address that is not known")
            self.go(target, taken)
            self.go(follower, mask & ~taken)
        else:  # BRA, CALL
            if ".DIV" in one.opcode or ".CONV" in one.opcode:  # taken where a warp is not together
                taken = 0 if mask == ALL else taken
                if taken and self.block.program.together:
                    raise Apart
            elif len(one.operands) > 1:
                taken &= self.decide(predicate(one.operands[0])(self), mask, one)
            self.go(int(one.operands[-1], 16), taken)
            self.go(follower, mask & ~taken)
        return False


class Block:
    """One block of a launch. `memory`: address -> 32-bit value; `number`: what any other load gives, or None."""

    def __init__(self, name, program, launch, index, memory, number):
        self.name, self.program, self.index = name, program, index
        self.grid, self.threads, self.memory, self.number = launch.grid, launch.threads, memory, number
        self.bank = dict(enumerate(struct.pack("<3I", launch.threads, 1, 1) + struct.pack("<3I", *launch.grid)))
        self.bank.update({0x160 + i: byte for i, byte in enumerate(launch.parameters)})  # sm_86's first parameter
        self.shared = {}
        self.moved = 0  # bytes between registers, shared memory and the L1 cache
        self.runs = {}  # (first address, instructions in a row) -> times
        self.streamed = 0  # bytes of loads that say they are read once (__ldcs)
        warps = (launch.threads + LANES - 1) // LANES
        self.most_flying = [0] * warps
        self.warps = [Warp(self, i) for i in range(warps)]

    def constant(self, number, offset, size):
        if number or offset + size > 0x160 and offset not in self.bank:
            return None
        return sum(self.bank.get(offset + i, 0) << 8 * i for i in range(size))

    def load(self, address, size):
        if address in self.memory:
            return self.memory[address] & MASK
        return self.number if self.number is None or size == 4 else self.number >> 16

    def arrived(self):
        axis = 1 if self.grid[1] > 1 else 0
        return self.grid[axis] - 1 if self.index[axis] == self.grid[axis] - 1 else 0

    def touch_shared(self, size, mask):
        self.moved += size * bin(mask).count("1")

    def run(self):
        going = list(self.warps)
        while going:
            going = [warp for warp in going if warp.run()]
        self.counts, self.pipes = {}, {}
        place = {one.address: i for i, one in enumerate(self.program.instructions)}
        for (first, count), times in self.runs.items():
            for one in self.program.instructions[place[first] : place[first] + count]:
                self.counts[one.address] = self.counts.get(one.address, 0) + times
                pipe = pipe_of(one.opcode)
                self.pipes[pipe] = self.pipes.get(pipe, 0) + times
        return self
