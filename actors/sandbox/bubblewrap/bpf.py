"""A small assembler of seccomp filters: decisions about system calls become a program of classic BPF."""

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

_LOAD, _AND, _RETURN, _JUMP = 0x20, 0x54, 0x06, 0x05
_JUMP_EQUAL, _JUMP_AT_LEAST = 0x15, 0x35
_NUMBER_AT, _ARCHITECTURE_AT, _ARGUMENTS_AT = 0, 4, 16
_LONGEST_JUMP = 255
_MOST_INSTRUCTIONS = 4096

ALLOW = 0x7FFF0000
KILL = 0x80000000
_ERRNO = 0x00050000
WORD = 0xFFFFFFFF

Instruction = tuple[int, int, int, int]
"""Code, jump when true, jump when false, constant."""


def refuse(errno: int) -> int:
    return _ERRNO | errno


@dataclass(frozen=True)
class Condition:
    """Whether the low 32 bits of one argument, masked, are a value. All the kernel reads of an `int` is these."""

    argument: int
    value: int
    mask: int = WORD
    is_equal: bool = True


@dataclass(frozen=True)
class Rule:
    """`hit` when all conditions of one of the alternatives are true, else `miss`."""

    alternatives: tuple[tuple[Condition, ...], ...]
    hit: int
    miss: int


Verdict = int | Rule


def assemble(architecture: int, verdicts: Mapping[int, Verdict], unknown: int, *, first_foreign: int) -> bytes:
    """The program for system calls by number. Another architecture, and numbers from `first_foreign` on, kill.

    `architecture` is an AUDIT_ARCH constant of a little-endian machine (linux/audit.h).
    """
    numbers = sorted(verdicts)
    # Each run of numbers with one verdict becomes one leaf of a search tree.
    starts: list[tuple[int, Verdict]] = [(0, verdicts.get(0, unknown))]
    for number in numbers:
        for at in (number, number + 1):
            verdict = verdicts.get(at, unknown)
            if at > starts[-1][0] and verdict != starts[-1][1]:
                starts.append((at, verdict))
    starts.append((first_foreign, KILL))
    program = [
        (_LOAD, 0, 0, _ARCHITECTURE_AT),
        (_JUMP_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, KILL),
        (_LOAD, 0, 0, _NUMBER_AT),
        *_search(starts),
    ]
    if len(program) > _MOST_INSTRUCTIONS:
        raise ValueError(f"a filter of {len(program)} instructions is longer than the kernel takes")
    return b"".join(struct.pack("<HBBI", *instruction) for instruction in program)


def _search(starts: Sequence[tuple[int, Verdict]]) -> list[Instruction]:
    if len(starts) == 1:
        return _decide(starts[0][1])
    middle = len(starts) // 2
    below, above = _search(starts[:middle]), _search(starts[middle:])
    pivot = starts[middle][0]
    if len(below) <= _LONGEST_JUMP:
        return [(_JUMP_AT_LEAST, len(below), 0, pivot), *below, *above]
    return [(_JUMP_AT_LEAST, 0, 1, pivot), (_JUMP, 0, 0, len(below)), *below, *above]


def _decide(verdict: Verdict) -> list[Instruction]:
    if isinstance(verdict, int):
        return [(_RETURN, 0, 0, verdict)]
    program: list[Instruction] = []
    for conditions in verdict.alternatives:
        program += _all_of(conditions, verdict.hit)
    return [*program, (_RETURN, 0, 0, verdict.miss)]


def _all_of(conditions: Iterable[Condition], hit: int) -> list[Instruction]:
    """Returns `hit` when all are true, else goes on behind its end."""
    program: list[Instruction] = [(_RETURN, 0, 0, hit)]
    for condition in reversed(list(conditions)):
        past = len(program)
        jumps = (0, past) if condition.is_equal else (past, 0)
        test: list[Instruction] = [(_LOAD, 0, 0, _ARGUMENTS_AT + 8 * condition.argument)]
        if condition.mask != WORD:
            test.append((_AND, 0, 0, condition.mask))
        program = [*test, (_JUMP_EQUAL, *jumps, condition.value), *program]
    return program
