"""A strict reader of zip archives.

Zip readers disagree about archives that are not plain: with two directories, with data before or
after the archive, with entries that overlap. A file could show a checker one content and a loader
another. This reader accepts only archives that every reader understands in the same way: local
entries that cover the file from its first byte to the directory, a directory that agrees with them,
and nothing after its end. Every entry that is read is checked against its CRC-32.
"""

import mmap
import struct
import zlib
from typing import NamedTuple

from .errors import CheckpointError

__all__ = ["MAX_ENTRIES", "ZipArchive"]

MAX_ENTRIES = 100_000
# No tensor compresses like this; a decompression bomb does.
_MAX_RATIO = 100
_SMALL = 2**20

_END = struct.Struct("<4s4H2LH")
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR64 = struct.Struct("<4sLQL")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_STORED, _DEFLATED = 0, 8
_HAS_DESCRIPTOR, _UTF8 = 1 << 3, 1 << 11
_KNOWN_FLAGS = _HAS_DESCRIPTOR | _UTF8 | 0b110  # two bits are options of the compressor
_UNSET16, _UNSET32 = 0xFFFF, 0xFFFFFFFF


class _Entry(NamedTuple):
    """Where an entry's bytes are; ``header`` and ``flags`` are those of its local header."""

    raw_name: bytes
    header: int
    flags: int
    method: int
    crc: int
    packed: int
    size: int


class _Range(NamedTuple):
    start: int
    method: int
    crc: int
    packed: int
    size: int


class ZipArchive:
    """The entries of a zip archive, mapped into memory.

    Attributes:
        data: the whole file, as a private mapping: writes to it do not reach the file.
        names: names of the entries, without those of folders.

    Raises:
        CheckpointError: if the archive is truncated, or is not plain.
    """

    def __init__(self, path: str):
        self._path = path
        with open(path, "rb") as file:
            self.data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        try:
            self._ranges = self._read_directory()
        except struct.error as error:
            raise self._error("its directory is damaged") from error
        self.names = list(self._ranges)

    def __contains__(self, name: str) -> bool:
        return name in self._ranges

    def is_stored(self, name: str) -> bool:
        """Whether the entry's bytes are in the file as they are, not compressed."""
        return self._ranges[name].method == _STORED

    def find(self, name: str) -> tuple[int, int]:
        """Offset and size in bytes of a stored entry in ``data``, after a check of its CRC-32."""
        entry = self._ranges[name]
        content = memoryview(self.data)[entry.start : entry.start + entry.size]
        self._check_crc(name, content, entry.crc)
        return entry.start, entry.size

    def read(self, name: str) -> bytes:
        """The content of an entry, after a check of its CRC-32."""
        entry = self._ranges[name]
        content = self.data[entry.start : entry.start + entry.packed]
        if entry.method == _DEFLATED:
            unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
            content = unpacker.decompress(content, entry.size + 1)
            if len(content) != entry.size:
                raise self._error(f"{name} does not have the size in the directory")
        self._check_crc(name, content, entry.crc)
        return content

    def _check_crc(self, name: str, content: bytes | memoryview, wanted: int) -> None:
        found = zlib.crc32(content)
        if found != wanted:
            raise CheckpointError(
                f"{self._path} is damaged: the content of {name} has the CRC-32 {found:08x}, and "
                f"the archive says {wanted:08x}. Copy or download the file again"
            )

    def _error(self, problem: str) -> CheckpointError:
        return CheckpointError(
            f"{self._path} is refused: {problem}. Readers of zip archives could take it for "
            "different files; save it again with torch.save"
        )

    def _find_directory(self) -> tuple[int, int, int]:
        """Number of entries, offset and end of the directory."""
        size = len(self.data)
        at = size - _END.size
        if at < 0 or self.data[at : at + 4] != b"PK\x05\x06":
            if self.data.rfind(b"PK\x05\x06", max(0, size - 2**16 - _END.size)) < 0:
                raise CheckpointError(
                    f"{self._path} ({size:,} bytes) is truncated: it begins as a zip archive (such "
                    "as a PyTorch checkpoint) and its end is missing"
                )
            raise self._error("bytes follow the end of its zip directory")
        _, disk, first_disk, here, count, length, offset, comment = _END.unpack_from(self.data, at)
        if comment:
            raise self._error("its zip directory ends before the file does")
        end = at
        at64 = at - _LOCATOR64.size
        if at64 >= 0 and self.data[at64 : at64 + 4] == b"PK\x06\x07":
            _, disk64, end, disks = _LOCATOR64.unpack_from(self.data, at64)
            if end + _END64.size != at64:
                raise self._error("its zip64 directory is not where it should be")
            old = (here, count, length, offset)
            sign, record, _, _, disk_b, first_b, here, count, length, offset = _END64.unpack_from(
                self.data, end
            )
            unset = (_UNSET16, _UNSET16, _UNSET32, _UNSET32)
            new = (here, count, length, offset)
            agree = all(a in (b, c) for a, b, c in zip(old, new, unset, strict=True))
            if (sign, record, disks) != (b"PK\x06\x06", _END64.size - 12, 1) or not agree:
                raise self._error("its two directory records differ")
            disk, first_disk = disk | disk64 | disk_b, first_disk | first_b
        if disk or first_disk or here != count:
            raise self._error("it is one part of several")
        if offset + length != end:
            raise self._error("its zip directory is not contiguous or not at the end")
        if count > MAX_ENTRIES:
            raise CheckpointError(
                f"{self._path} is refused: it has {count:,} entries, and a checkpoint has at most "
                f"{MAX_ENTRIES:,}"
            )
        return count, offset, end

    def _read_directory(self) -> dict[str, _Range]:
        count, start, end = self._find_directory()
        entries = []
        at = start
        for _ in range(count):
            entry, at = self._read_central(at)
            entries.append(entry)
        if at != end:
            raise self._error("its zip directory has another length than it says")
        ranges: dict[str, _Range] = {}
        at = 0
        for i in sorted(range(count), key=lambda i: entries[i].header):
            entry = entries[i]
            if entry.header != at:
                raise self._error("its entries overlap or leave gaps")
            begin = self._check_local(entry)
            at = begin + entry.packed
            if entry.flags & _HAS_DESCRIPTOR:
                at += self._descriptor(entry, at)
            if at > start:
                raise self._error("an entry reaches into its zip directory")
            name = entry.raw_name.decode("utf-8" if entry.flags & _UTF8 else "cp437")
            if name in ranges:
                raise self._error("it has two entries of one name")
            ranges[name] = _Range(begin, entry.method, entry.crc, entry.packed, entry.size)
        if at != start:
            raise self._error("bytes lie between its entries and its zip directory")
        return {name: entry for name, entry in ranges.items() if not name.endswith("/")}

    def _read_central(self, at: int) -> tuple[_Entry, int]:
        fields = _CENTRAL.unpack_from(self.data, at)
        sign, _, _, flags, method, _, _, crc, packed, size = fields[:10]
        name_length, extra_length, comment_length, disk, _, _, header = fields[10:]
        if sign != b"PK\x01\x02" or disk not in (0, _UNSET16):
            raise self._error("its zip directory is damaged")
        at += _CENTRAL.size
        name = self.data[at : at + name_length]
        at += name_length
        if _UNSET32 in (size, packed, header):
            extra = _zip64_fields(self.data[at : at + extra_length])
            size = extra.pop(0) if size == _UNSET32 and extra else size
            packed = extra.pop(0) if packed == _UNSET32 and extra else packed
            header = extra.pop(0) if header == _UNSET32 and extra else header
        if flags & ~_KNOWN_FLAGS or method not in (_STORED, _DEFLATED) or b"\0" in name:
            raise self._error("an entry is encrypted or packed by an unknown method")
        if method == _STORED and packed != size:
            raise self._error("an entry has two sizes")
        if size > _SMALL and size > _MAX_RATIO * packed:
            raise CheckpointError(
                f"{self._path} is refused: {name.decode('latin1')} is {packed:,} bytes packed and "
                f"{size:,} bytes unpacked, which no tensor is"
            )
        at += extra_length + comment_length
        return _Entry(name, header, flags, method, crc, packed, size), at

    def _check_local(self, entry: _Entry) -> int:
        """Where the entry's content begins."""
        sign, _, flags, method, _, _, crc, packed, size, name_length, extra_length = (
            _LOCAL.unpack_from(self.data, entry.header)
        )
        at = entry.header + _LOCAL.size
        name = self.data[at : at + name_length]
        if (sign, flags, method, name) != (
            b"PK\x03\x04",
            entry.flags,
            entry.method,
            entry.raw_name,
        ):
            raise self._error("its zip directory names entries that are not there")
        at += name_length
        if _UNSET32 in (packed, size):
            extra = _zip64_fields(self.data[at : at + extra_length])
            size = extra.pop(0) if size == _UNSET32 and extra else size
            packed = extra.pop(0) if packed == _UNSET32 and extra else packed
        own = (crc, packed, size)
        # With a descriptor, all three may be left for later.
        later = entry.flags & _HAS_DESCRIPTOR and (crc == 0 or own == (entry.crc, 0, 0))
        if own != (entry.crc, entry.packed, entry.size) and not later:
            raise self._error("the sizes of an entry differ from its zip directory")
        return at + extra_length

    def _descriptor(self, entry: _Entry, at: int) -> int:
        """The length of the record after an entry's content."""
        for sign in (b"PK\x07\x08", b""):
            for sizes in ("<LQQ", "<LLL"):
                try:
                    packed = sign + struct.pack(sizes, entry.crc, entry.packed, entry.size)
                except struct.error:
                    continue
                if self.data[at : at + len(packed)] == packed:
                    return len(packed)
        raise self._error("the record after an entry differs from its zip directory")


def _zip64_fields(extra: bytes) -> list[int]:
    """The sizes and offsets in an extra field that do not fit into 32 bits."""
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        if kind == 1:
            return [
                v for (v,) in struct.iter_unpack("<Q", extra[at + 4 : at + 4 + length // 8 * 8])
            ]
        at += 4 + length
    return []
