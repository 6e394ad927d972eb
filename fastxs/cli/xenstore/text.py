"""Values as Xen's commands show and take them, and numbers as C reads them.

Owns these forms, found by giving Debian's commands every byte, and escapes of every kind.
"""

from __future__ import annotations

from typing import Final

__all__ = ["escaped", "to_int", "unescaped"]


def _shown(byte: int) -> bytes:
    if byte in b"\t\n\r\\":
        return {9: b"\\t", 10: b"\\n", 13: b"\\r", 92: b"\\\\"}[byte]
    if 32 <= byte < 127:
        return b"%c" % byte
    return b"\\%03o" % byte if byte < 8 else b"\\x%02x" % byte


_SHOWN: Final = [_shown(byte) for byte in range(256)]


def escaped(value: bytes) -> bytes:
    """A value in printable ASCII."""
    return b"".join([_SHOWN[byte] for byte in value])


def unescaped(text: bytes) -> bytes:
    """The value that a word of the command line stands for: `escaped` backwards, and whatever else people type.

    `\\x` takes one or two digits, in the form of scanf's `%2x`: after blanks, with a sign, and `0x` alone is a number,
    too.  A backslash before anything else stands for that, a last one for NUL.
    """
    if b"\\" not in text:
        return text
    import re

    escape = rb"\\(?:x\s*(0[xX]|[+-][0-9a-fA-F]|[0-9a-fA-F]{1,2})|([0-7]{1,3})|(.?))"
    return re.sub(escape, lambda found: _meant(*found.groups()), text, flags=re.DOTALL)


def _meant(hexadecimal: bytes | None, octal: bytes | None, other: bytes) -> bytes:
    if hexadecimal is not None:
        return bytes([int(hexadecimal.rstrip(b"xX"), 16) & 0xFF])
    if octal is not None:
        return bytes([int(octal, 8) & 0xFF])
    return {b"t": b"\t", b"n": b"\n", b"r": b"\r", b"": b"\0"}.get(other, other)


def to_int(text: bytes) -> int:
    """An int as atoi makes it: decimal digits after blanks and a sign; 0 without any, and of 64 bits the lower half."""
    text = text.lstrip(b" \t\n\v\f\r")
    sign = -1 if text[:1] == b"-" else 1
    digits = text[1:] if text[:1] in (b"-", b"+") else text
    digits = digits[: len(digits) - len(digits.lstrip(b"0123456789"))]
    number = max(-(1 << 63), min(sign * int(digits or b"0"), (1 << 63) - 1))
    return (number + (1 << 31)) % (1 << 32) - (1 << 31)
