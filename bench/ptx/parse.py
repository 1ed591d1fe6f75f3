"""PTX text to kernels of basic blocks. Operands are resolved; what instructions mean is left to others."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, field
from functools import cached_property

from bench.ptx.faults import Fault

BITS = {"pred": 1, "b8": 8, "u8": 8, "s8": 8, "b16": 16, "u16": 16, "s16": 16, "f16": 16, "bf16": 16} | {
    prefix + str(bits): bits for prefix in "busf" for bits in (32, 64)
}
BITS["f32x2"] = 64


@dataclass(frozen=True)
class Register:
    name: str
    negated: bool = False


@dataclass(frozen=True)
class Immediate:
    value: int | float
    is_bits: bool = True  # an integer, or else a floating-point number


@dataclass(frozen=True)
class Special:
    name: str  # %tid.x and the like


@dataclass(frozen=True)
class Symbol:
    name: str


@dataclass(frozen=True)
class Address:
    base: Register | Symbol | None
    offset: int


@dataclass(frozen=True)
class Vector:
    items: tuple[Operand, ...]


Operand = Register | Immediate | Special | Symbol | Address | Vector


@dataclass(frozen=True)
class Instruction:
    opcode: str
    operands: tuple[Operand, ...]
    guard: Register | None
    text: str

    @cached_property
    def parts(self) -> list[str]:
        return self.opcode.split(".")

    @cached_property
    def name(self) -> str:
        return self.opcode.split(".", 1)[0]


@dataclass
class Block:
    """Instructions that are executed together. Those that wait for other threads stand alone in theirs."""

    instructions: list[Instruction] = field(default_factory=list)
    target: int | None = None  # of the branch at the end
    falls: bool = True  # whether the next block may follow
    wait: str = ""  # "warp", "group" (of four warps), "barrier", or nothing


@dataclass(frozen=True)
class Variable:
    """A parameter, or a variable in shared or local memory."""

    name: str
    offset: int
    size: int


@dataclass(eq=False)
class Kernel:
    name: str
    target: str
    registers: dict[str, int]  # bits
    parameters: list[Variable]
    shared: dict[str, Variable]  # those of dynamic size lie behind the others
    shared_bytes: int
    local: dict[str, Variable]
    local_bytes: int
    blocks: list[Block]
    registers_at_most: int = (
        255  # of a thread, so that as many blocks as the kernel demands lie on a multiprocessor
    )


def entries(text: str) -> list[str]:
    return re.findall(r"\.entry\s+([\w$]+)", text)


def alone(text: str, name: str) -> str:
    """The text with that kernel as its only one."""
    first = text.index(".entry")
    begins = re.search(rf"(?:\.visible\s+)?\.entry\s+{re.escape(name)}\b", text)
    if begins is None:
        raise ValueError(f"the PTX has no kernel {name}")
    ends = text.index("\n}", begins.start()) + 2
    return f"{text[: text.rindex(chr(10), 0, first)]}\n{text[begins.start() : ends]}\n"


def kernel(text: str, name: str) -> Kernel:
    """The kernel of that name."""
    found = re.search(rf"\.entry\s+{re.escape(name)}\s*\(", text)
    if found is None:
        raise ValueError(f"the PTX has no kernel {name}")
    header = _without_comments(text[: text.index(".entry")])
    ends = text.find("\n}", found.end())
    head, _, body = _without_comments(text[found.end() : ends]).partition("{")
    parameters = _layout(re.findall(r"\.param\s+([^,)]*)", head))
    target = re.search(r"\.target\s+(\w+)", text)
    assert target is not None
    module_shared = re.findall(r"\.shared\s+([^;]*);", header)
    made = _Body(body)
    shared, shared_bytes = _shared(module_shared + made.shared)
    local = _layout(made.local)
    return Kernel(
        name,
        target[1],
        made.registers,
        parameters,
        shared,
        shared_bytes,
        {v.name: v for v in local},
        max([0, *(v.offset + v.size for v in local)]),
        _blocks(made.statements),
        _registers_at_most(head),
    )


def _registers_at_most(head: str) -> int:
    """By the directives between the parameters and the body. A multiprocessor has 65536 registers."""
    threads = re.search(r"\.(?:maxntid|reqntid)\s+(\d+)", head)
    blocks = re.search(r"\.minnctapersm\s+(\d+)", head)
    each = 65536 // (int(threads[1]) if threads else 1) // (int(blocks[1]) if blocks else 1)
    return min(each, 255)


def _without_comments(text: str) -> str:
    text = re.sub(r"//[^\n]*|/\*.*?\*/", "", text, flags=re.S)
    return re.sub(r"^\s*\.(?:loc|file|pragma|section)\b[^\n]*$", "", text, flags=re.M)


def _declared(text: str) -> tuple[str, int, int]:
    """Name, alignment and bytes of a declaration like `.align 8 .b8 name[16]`; -1 bytes where the size is dynamic."""
    aligned = re.search(r"\.align\s+(\d+)\s+\.\w+\s+\S+$|\.align\s+(\d+)\s+\.b8", text)
    kind = re.search(r"\.([busf]\d+)\b", text)
    name = re.search(r"([\w$]+)\s*(\[\s*(\d*)\s*\])?\s*$", text)
    if kind is None or name is None:
        raise Fault("unknown declaration", text)
    item = BITS[kind[1]] // 8
    count = 1 if name[2] is None else int(name[3] or -1)
    pointer = ".ptr" in text
    align = int(aligned[1] or aligned[2]) if aligned and not pointer else item
    return name[1], align, item * count if count > 0 else -1


def _layout(declarations: list[str]) -> list[Variable]:
    found, offset = [], 0
    for text in declarations:
        name, align, size = _declared(text)
        offset = -(-offset // align) * align
        found.append(Variable(name, offset, size))
        offset += size
    return found


def _shared(declarations: list[str]) -> tuple[dict[str, Variable], int]:
    named = [_declared(text) for text in declarations]
    found, offset = {}, 0
    for name, align, size in sorted(named, key=lambda v: v[2] < 0):
        offset = -(-offset // align) * align
        found[name] = Variable(name, offset, max(size, 0))
        offset += max(size, 0)
    return found, offset


class _Body:
    """The statements of a body: labels (strings that end with a colon) and instructions."""

    def __init__(self, text: str) -> None:
        self.registers: dict[str, int] = {}
        self.shared: list[str] = []
        self.local: list[str] = []
        self.statements: list[str | Instruction] = []
        self._scopes: list[dict[str, str]] = [{}]
        self._opened = 0
        for piece in text.split(";"):
            self._statement(piece)

    def _statement(self, text: str) -> None:
        text = text.strip()
        while text:
            if text[0] == "{":
                self._scopes.append({})
                self._opened += 1
            elif text[0] == "}":
                self._scopes.pop()
            else:
                label = re.match(r"([\w$]+):(?!:)", text)
                if label is None:
                    break
                self.statements.append(self._local_label(label[1]) + ":")
                text = text[label.end() - 1 :]
            text = text[1:].lstrip()
        if not text:
            return
        if text.startswith(".reg"):
            self._declare(text)
        elif text.startswith(".shared"):
            self.shared.append(text.removeprefix(".shared"))
        elif text.startswith(".local"):
            self.local.append(text.removeprefix(".local"))
        elif text.startswith("."):
            raise Fault("unknown directive", text)
        else:
            self.statements.append(self._instruction(" ".join(text.split())))

    def _local_label(self, name: str) -> str:
        # Labels of nested scopes come from inline assembly, which may be there more than once.
        return name if len(self._scopes) == 1 else f"{name}@{self._opened}"

    def _declare(self, text: str) -> None:
        _, kind, names = text.split(None, 2)
        bits = BITS[kind.removeprefix(".")]
        scope = self._scopes[-1]
        for name in names.replace(" ", "").split(","):
            counted = re.fullmatch(r"(.*)<(\d+)>", name)
            for each in [f"{counted[1]}{i}" for i in range(int(counted[2]))] if counted else [name]:
                unique = each if len(self._scopes) == 1 else f"{each}@{self._opened}"
                scope[each] = unique
                self.registers[unique] = bits

    def _instruction(self, text: str) -> Instruction:
        guard: Register | None = None
        rest = text
        if text[0] == "@":
            written, rest = text[1:].split(None, 1)
            named = self._operand(written)
            assert isinstance(named, Register)
            guard = named
        opcode, _, operands = rest.partition(" ")
        return Instruction(opcode, tuple(self._operand(x) for x in _split(operands)), guard, text)

    def _operand(self, text: str) -> Operand:
        if text[0] == "{":
            return Vector(tuple(self._operand(x) for x in _split(text[1:-1])))
        if text[0] == "[":
            inner = [part.strip() for part in re.split(r"\+", text[1:-1])]
            base = self._operand(inner[0])
            offset = int(inner[1], 0) if len(inner) > 1 else 0
            if isinstance(base, Immediate):
                return Address(None, int(base.value) + offset)
            assert isinstance(base, Register | Symbol)
            return Address(base, offset)
        if "|" in text:  # two destinations
            return Vector(tuple(self._operand(x.strip()) for x in text.split("|")))
        if text[0] == "!":
            inner_register = self._operand(text[1:])
            assert isinstance(inner_register, Register)
            return Register(inner_register.name, True)
        if re.fullmatch(r"-?(0[xX][0-9a-fA-F]+|\d+)U?", text):
            return Immediate(_integer(text.rstrip("U")))
        if text[:2] in ("0f", "0F"):
            return Immediate(struct.unpack(">f", bytes.fromhex(text[2:]))[0], False)
        if text[:2] in ("0d", "0D"):
            return Immediate(struct.unpack(">d", bytes.fromhex(text[2:]))[0], False)
        for scope in reversed(self._scopes):
            if text in scope:
                return Register(scope[text])
        if text[0] == "%":
            return Special(text)
        if text == "_":
            return Symbol("_")
        if len(self._scopes) > 1 and re.fullmatch(r"[\w$]+", text):
            return Symbol(self._local_label(text) if not text.startswith("$") else text)
        return Symbol(text)


def _integer(text: str) -> int:
    sign, digits = (-1, text[1:]) if text[0] == "-" else (1, text)
    # A leading zero is an octal number in PTX.
    return sign * int(digits, 8 if re.fullmatch(r"0[0-7]+", digits) else 0)


def _split(text: str) -> list[str]:
    """The operands of a list, whose vectors have commas of their own."""
    return [part.strip() for part in re.findall(r"(?:\{[^}]*\}|\[[^]]*\]|[^,{\[])+", text) if part.strip()]


_WARP = re.compile(r"(mma|ldmatrix|stmatrix|shfl|vote|redux|match|elect|bar\.warp|movmatrix)\b")


def waits_for(opcode: str) -> str:
    """Which threads an instruction needs together: those of a "warp", a "group" of four warps, or of a "barrier"."""
    if opcode.startswith("wgmma."):
        return "group"
    if _WARP.match(opcode) or ".sync.aligned" in opcode:
        return "warp"
    if opcode.split(".")[0] in ("bar", "barrier"):
        return "barrier"
    return ""


def _blocks(statements: list[str | Instruction]) -> list[Block]:
    blocks: list[Block] = [Block()]
    labels: dict[str, int] = {}
    branches: list[tuple[Block, str]] = []

    def fresh() -> None:
        if blocks[-1].instructions:
            blocks.append(Block())

    for statement in statements:
        if isinstance(statement, str):
            fresh()
            labels[statement[:-1]] = len(blocks) - 1
            continue
        wait = waits_for(statement.opcode)
        if wait:
            fresh()
            blocks[-1].wait = wait
        blocks[-1].instructions.append(statement)
        if statement.name == "bra":
            (target,) = statement.operands
            assert isinstance(target, Symbol)
            branches.append((blocks[-1], target.name))
            blocks[-1].falls = statement.guard is not None
        elif statement.name in ("ret", "exit"):
            blocks[-1].falls = statement.guard is not None
        if wait or statement.name in ("bra", "ret", "exit"):
            blocks.append(Block())
    if not blocks[-1].instructions:
        blocks[-1].instructions.append(Instruction("ret", (), None, "ret"))
        blocks[-1].falls = False
    for block, name in branches:
        block.target = labels[name]
    return blocks
