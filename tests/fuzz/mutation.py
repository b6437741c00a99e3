"""Mutations of checkpoint files: of bytes, of zip archives, and of pickles inside them."""

import io
import pickletools
import random
import struct
import zipfile
from collections import Counter

__all__ = ["Mutator"]

_NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1)
_OPCODES = [ord(opcode.code) for opcode in pickletools.opcodes]
_GLOBALS = (
    *(b"cos\nsystem\n", b"cbuiltins\neval\n", b"cbuiltins\ngetattr\n", b"cbuiltins\nbytes\n"),
    *(b"cbuiltins\nset\n", b"ccollections\nOrderedDict\n", b"ctorch._utils\n_rebuild_tensor_v2\n"),
    *(b"cnumpy\nndarray\n", b"cnumpy\ndtype\n", b"cnumpy.core.multiarray\n_reconstruct\n"),
    *(b"ctorch\nFloatStorage\n", b"ctorch\nfloat32\n", b"c_codecs\nencode\n"),
    *(b"cargparse\nNamespace\n", b"cmmengine.config\nConfigDict\n", b"ccopyreg\n_reconstructor\n"),
)
_ZIP_SIGNS = (
    b"PK\x01\x02",
    b"PK\x03\x04",
    b"PK\x05\x06",
    b"PK\x06\x06",
    b"PK\x06\x07",
    b"PK\x07\x08",
)


class Mutator:
    """An endless source of mutated files.

    Args:
        files: sound files by name.
        chance: the source of randomness.
    """

    def __init__(self, files: dict[str, bytes], chance: random.Random):
        self.files = files
        self.chance = chance
        self.used: Counter[str] = Counter()

    def next(self) -> tuple[bytes, str]:
        """A mutated file, and a description of it."""
        name = self.chance.choice(list(self.files))
        data = self.files[name]
        kinds = [self.flip, self.number, self.cut, self.splice, self.repeat, self.pickle_bytes]
        if data.startswith(b"PK"):
            kinds += [self.zip_field, self.zip_member, self.zip_member, self.zip_member]
        kind = self.chance.choice(kinds)
        self.used[kind.__name__] += 1
        data = kind(data)
        while self.chance.random() < 0.25:
            data = self.chance.choice(kinds[:5])(data)
        return data, f"{kind.__name__} of {name}"

    def kinds_used(self) -> str:
        return ",".join(f"{kind}={count}" for kind, count in sorted(self.used.items()))

    def _at(self, data: bytes) -> int:
        """A place; the ends, where headers and directories are, more often than the middle."""
        if self.chance.random() < 0.5:
            near = self.chance.randrange(min(len(data), 2048) or 1)
            return near if self.chance.random() < 0.5 else max(0, len(data) - 1 - near)
        return self.chance.randrange(len(data) or 1)

    def flip(self, data: bytes) -> bytes:
        changed = bytearray(data)
        for _ in range(self.chance.choice((1, 1, 2, 8))):
            if changed:
                changed[self._at(changed)] ^= 1 << self.chance.randrange(8)
        return bytes(changed)

    def number(self, data: bytes) -> bytes:
        size = self.chance.choice((1, 2, 4, 8))
        value = self.chance.choice(_NUMBERS) & (2 ** (8 * size) - 1)
        at = self._at(data)
        return data[:at] + value.to_bytes(size, "little") + data[at + size :]

    def cut(self, data: bytes) -> bytes:
        at = self._at(data)
        if self.chance.random() < 0.5:
            return data[:at]
        return data[:at] + data[at + self.chance.randrange(1, 64) :]

    def splice(self, data: bytes) -> bytes:
        other = self.chance.choice(list(self.files.values()))
        at, begin = self._at(data), self._at(other)
        return data[:at] + other[begin : begin + self.chance.choice((8, 64, 1024, len(other)))]

    def repeat(self, data: bytes) -> bytes:
        at = self._at(data)
        piece = data[at : at + self.chance.randrange(1, 32)]
        return data[:at] + piece * self.chance.choice((2, 100, 10_000)) + data[at:]

    def pickle_bytes(self, data: bytes) -> bytes:
        """Operations put into, or in the place of, other ones."""
        changed = bytearray(data)
        for _ in range(self.chance.randrange(1, 6)):
            at = self._at(changed)
            roll = self.chance.random()
            if roll < 0.4 and changed:
                changed[at] = self.chance.choice(_OPCODES)
            elif roll < 0.6:
                changed[at:at] = self.chance.choice(_GLOBALS)
            elif roll < 0.8:
                changed[at:at] = bytes(
                    self.chance.choice(_OPCODES) for _ in range(self.chance.randrange(1, 8))
                )
            else:
                changed[at:at] = self.chance.choice(
                    (b"h\x00", b"q\x00", b")R", b"\x85R", b"b", b"}b", b"0", b"2", b"(", b"Q")
                )
        return bytes(changed)

    def zip_field(self, data: bytes) -> bytes:
        """A field of a header or of the directory."""
        places = [at for sign in _ZIP_SIGNS if (at := self._find(data, sign)) >= 0]
        if not places:
            return data
        at = self.chance.choice(places) + self.chance.randrange(4, 46)
        size = self.chance.choice((1, 2, 4, 8))
        old = int.from_bytes(data[at : at + size], "little")
        new = self.chance.choice((old + 1, old - 1, 0, *_NUMBERS)) & (2 ** (8 * size) - 1)
        return data[:at] + new.to_bytes(size, "little") + data[at + size :]

    def _find(self, data: bytes, sign: bytes) -> int:
        return data.find(sign, self.chance.randrange(len(data)))

    def zip_member(self, data: bytes) -> bytes:
        """A mutated member of an archive that is sound, checksums included."""
        buffer = io.BytesIO()
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as source:
                contents = {name: source.read(name) for name in source.namelist()}
        except (zipfile.BadZipFile, struct.error, OSError, NotImplementedError):
            return data
        pickles = [name for name in contents if name.endswith((".pkl", ".npy"))]
        names = pickles if pickles and self.chance.random() < 0.7 else list(contents)
        name = self.chance.choice(names)
        mutate = self.chance.choice((self.flip, self.number, self.cut, self.repeat))
        if name.endswith(".pkl") and self.chance.random() < 0.7:
            mutate = self.pickle_bytes
        contents[name] = mutate(contents[name])
        method = self.chance.choice((zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
        with zipfile.ZipFile(buffer, "w", method) as target:
            for member, content in contents.items():
                target.writestr(member, content)
        return buffer.getvalue()
