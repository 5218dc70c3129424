"""Unpacks streams that gzip, bzip2, xz or zstd has packed."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import sys
import zlib
from typing import IO, Any

from rigbench.core.errors import RigbenchError

MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz"}
PACKED_BYTES = 1 << 14  # that are unpacked at once: at most 32,768 times as many
SUFFIXES = (".gz", ".zst", ".bz2", ".xz")


def packed_by(head: bytes) -> str | None:
    """The program that packed what begins with these bytes; None where none did."""
    return next((how for magic, how in MAGIC.items() if head.startswith(magic)), None)


def unpacked(source: IO[bytes], how: str, name: str) -> io.BufferedIOBase:
    """What is in it, as a stream. What reading it may raise is in `broken()`.

    Raises:
        RigbenchError: zstd's, and no library for it is here.
    """
    if how == "gzip":
        return gzip.GzipFile(fileobj=source)
    if how == "bzip2":
        return bz2.BZ2File(source)
    if how == "xz":
        return lzma.LZMAFile(source)
    try:
        from compression import zstd  # type: ignore[import-not-found, unused-ignore]  # Python 3.14

        return zstd.ZstdFile(source)  # type: ignore[no-any-return, unused-ignore]
    except ImportError:
        pass
    try:
        import zstandard
    except ImportError:
        cure = f"`zstd -d {name}`, or pip install 'rigbench[zstd]'"
        raise RigbenchError(f"{name} is packed by zstd, which this Python does not unpack", cure) from None
    return io.BufferedReader(_Zstd(source, zstandard))


class _Zstd(io.RawIOBase):
    """Frame after frame. The library's own reader takes a frame that is cut short for the end."""

    def __init__(self, source: IO[bytes], library: Any) -> None:
        self._source, self._library = source, library
        self._frame: Any = None  # that has begun and not ended
        self._packed = self._ready = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """
        Raises:
            EOFError: it ends within a frame.
        """
        while not self._ready:
            packed = self._packed or self._source.read(PACKED_BYTES)
            self._packed = b""
            if not packed:
                if self._frame is not None:
                    raise EOFError("it ends within a frame")
                return 0
            self._frame = self._frame or self._library.ZstdDecompressor().decompressobj()
            self._ready = self._frame.decompress(packed)
            if self._frame.eof:
                self._packed, self._frame = self._frame.unused_data, None
        count = min(len(buffer), len(self._ready))
        buffer[:count], self._ready = self._ready[:count], self._ready[count:]
        return count


def broken() -> tuple[type[Exception], ...]:
    """What reading a packed file raises that is damaged, cut short, or not to be read."""
    modules = [sys.modules[name] for name in ("compression.zstd", "zstandard") if name in sys.modules]
    return OSError, ValueError, EOFError, zlib.error, lzma.LZMAError, *(module.ZstdError for module in modules)
