"""GGUF files changed piece by piece, where a lie is worth telling: every length, count, type, dimension and offset.

A file is cut into its entries, and each entry into its fields, so that a change hits what it is meant to hit and leaves
the rest readable; a byte changed at random nearly always breaks the same few things.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from halfbyte.checkpoint.checkpoint import Checkpoint
from halfbyte.checkpoint.open import open_source
from halfbyte.checkpoint.tokenizer import Tokenizer
from halfbyte.errors import HalfbyteError

if TYPE_CHECKING:
    from pathlib import Path
    from random import Random

HURTFUL = [0, 1, 2, 127, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 32, 2**64 - 1]
SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # of a value, by type
STRING, ARRAY = 8, 9
ALIGNMENT = 32
TEXTS = [b"", b"\xff\xfe", b"\x1b[2J\n", b"A" * 70_000, "\u2581".encode() * 3000, b"{{", b"{% for a in range(9**9) %}"]
LONGEST_MESSAGE = 4000


class Field(NamedTuple):
    """Bytes of one meaning: "number", "text" or "data"."""

    kind: str
    raw: bytes


class Cut:
    """A file as entries of fields: the head, one entry a key, one entry a tensor, the data."""

    def __init__(self, data: bytes):
        self.data, self.at = data, 0
        self.head = [self.field("text", 4), self.field("number", 4)]
        tensors, keys = (self.field("number", 8) for _ in range(2))
        self.head += [tensors, keys]
        self.keys = [self.key() for _ in range(number(keys))]
        self.tensors = [self.tensor() for _ in range(number(tensors))]
        self.rest = data[self.at + -self.at % ALIGNMENT :]

    def field(self, kind: str, size: int) -> Field:
        self.at += size
        return Field(kind, self.data[self.at - size : self.at])

    def string(self) -> list[Field]:
        length = self.field("number", 8)
        return [length, self.field("text", number(length))]

    def key(self) -> list[Field]:
        name, kind = self.string(), self.field("number", 4)
        return [*name, kind, *self.value(number(kind))]

    def value(self, kind: int) -> list[Field]:
        if kind == STRING:
            return self.string()
        if kind != ARRAY:
            return [self.field("number", SIZES[kind])]
        of, length = self.field("number", 4), self.field("number", 8)
        if number(of) == STRING:
            return [of, length, *(field for _ in range(number(length)) for field in self.string())]
        return [of, length, self.field("data", SIZES[number(of)] * number(length))]

    def tensor(self) -> list[Field]:
        name, dimensions = self.string(), self.field("number", 4)
        shape = [self.field("number", 8) for _ in range(number(dimensions))]
        return [*name, dimensions, *shape, self.field("number", 4), self.field("number", 8)]


def number(field: Field) -> int:
    """What a field of little-endian bytes says."""
    return int.from_bytes(field.raw, "little")


def mutated(file: Cut, random: Random) -> bytes:
    """One to three changes, mostly with counts and padding that fit what is there; one file in six ends early.

    The end is that of a field, or within a byte of one.
    """
    keys, tensors = ([list(entry) for entry in entries] for entries in (file.keys, file.tensors))
    head = list(file.head)
    for _ in range(random.choice((1, 1, 2, 3))):
        entries = random.choice((keys, keys, tensors))
        random.choice((change_number, change_number, change_text, change_fields, change_entries, change_value))(
            entries, random
        )
    if random.random() < 0.8:
        head[2:] = [Field("number", struct.pack("<Q", len(entries))) for entries in (tensors, keys)]
    if random.random() < 0.05:
        change_number([head], random)
    fields = [field.raw for entry in (head, *keys, *tensors) for field in entry]
    written = sum(len(raw) for raw in fields)
    fields += [bytes(-written % ALIGNMENT), file.rest]
    if random.random() < 1 / 6:
        fields = fields[: random.randrange(len(fields) + 1)]
        return b"".join(fields)[: -1 if random.random() < 0.3 else None]
    return b"".join(fields)


def change_number(entries: list[list[Field]], random: Random) -> None:
    entry, at = pick(entries, random, "number")
    size, was = len(entry[at].raw), number(entry[at])
    value = random.choice(
        [*HURTFUL, was + 1, was - 1, was * 2, was // 2, -was, random.randrange(45), 2**64 // (was or 1)]
    )
    entry[at] = Field("number", (value % 2 ** (8 * size)).to_bytes(size, "little"))


def change_text(entries: list[list[Field]], random: Random) -> None:
    """Another text, its length told as it is."""
    entry, at = pick(entries, random, "text")
    raw = random.choice([*TEXTS, entry[at].raw[:-1], entry[at].raw[::-1]])
    entry[at] = Field("text", raw)
    if at:
        entry[at - 1] = Field("number", struct.pack("<Q", len(raw)))


def change_fields(entries: list[list[Field]], random: Random) -> None:
    entry, at = pick(entries, random, random.choice(("number", "text", "data")))
    entry[at : at + 1] = random.choice(([], [entry[at]] * 2, [entry[at], random.choice(entry)]))


def change_entries(entries: list[list[Field]], random: Random) -> None:
    """One left out, twice there, or in the place of another; the counts say what they said."""
    one, other = random.randrange(len(entries)), random.randrange(len(entries))
    how = random.choice(("drop", "double", "swap"))
    if how == "swap":
        entries[one], entries[other] = entries[other], entries[one]
    else:
        entries[one : one + 1] = [] if how == "drop" else [entries[one], list(entries[one])]


def change_value(entries: list[list[Field]], random: Random) -> None:
    """A key with a well-formed value of another type, or in arrays of arrays."""
    entry = random.choice(entries)
    if len(entry) < 4:
        return
    depth = random.choice((1, 3, 2000))
    nested = struct.pack("<I", ARRAY) + struct.pack("<IQ", ARRAY, 1) * depth + struct.pack("<IQ", 0, 1) + b"\0"
    pairs = [(0, b"\0"), (7, b"\2"), (5, struct.pack("<i", -1)), (11, struct.pack("<q", -(2**63)))]
    pairs += [(6, struct.pack("<f", value)) for value in (float("nan"), float("inf"), -0.0, 1e-45, 3e38)]
    pairs += [(12, struct.pack("<d", 1e308)), (10, struct.pack("<Q", 2**64 - 1)), (STRING, struct.pack("<Q", 1) + b"x")]
    pairs += [(ARRAY, struct.pack("<IQ", kind, 0)) for kind in (0, 6, STRING)]
    pairs += [(ARRAY, struct.pack("<IQ", 4, 2) + struct.pack("<II", 2**31, 0))]
    options = [nested, *(struct.pack("<I", kind) + raw for kind, raw in pairs)]
    entry[2:] = [Field("data", random.choice(options))]


def pick(entries: list[list[Field]], random: Random, kind: str) -> tuple[list[Field], int]:
    """A field of a kind: first an entry, so that the vocabulary's thousands do not drown the rest."""
    having = [entry for entry in entries if any(field.kind == kind for field in entry)] or [[Field(kind, b"")]]
    entry = random.choice(having)
    return entry, random.choice([at for at, field in enumerate(entry) if field.kind == kind])


def read_all(path: Path) -> str | None:
    """Read all that a user of the file would, and give the error that says why it cannot be done.

    Raises AssertionError for an error that does not say which file, that a terminal would obey, or that floods it.
    """
    try:
        source = open_source(path)
        checkpoint = Checkpoint(source)
        for name in source.files():
            source.file(name)
        for _ in checkpoint.verify():
            pass
        Tokenizer.from_source(source).encode("a text, 12\n")
    except HalfbyteError as error:
        message = str(error)
        assert path.name in message, message[:LONGEST_MESSAGE]
        assert len(message) < LONGEST_MESSAGE, message[:LONGEST_MESSAGE]
        assert all(line.isprintable() for line in message.split("\n")), repr(message)
        assert "MemoryError" not in message
        return message
    return None
