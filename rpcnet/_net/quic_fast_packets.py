"""The bytes of a 1-RTT packet: numbers of variable length, protection taken off and put on.

The rules of this file:

* Only packets with a short header and the current key phase are opened here. Everything else, and whatever looks odd,
  is answered with None before anything has changed, and the engine's own code decides what it is.
* The ciphers are the engine's own objects, asked without the layers between: one call to seal or open, one for the mask
  of the header. They are fetched anew whenever the engine has changed its keys.
* Numbers are read without checks: a truncated one raises ``IndexError`` or comes out short, and whoever reads a frame
  compares its end with the packet's.
"""

# ruff: noqa: SLF001 - this file knows the private names of the engine

from __future__ import annotations

from collections.abc import Callable

from aioquic.quic.crypto import CryptoPair
from aioquic.quic.packet import decode_packet_number
from cryptography.exceptions import InvalidTag

__all__ = ["TAG_BYTES", "PacketKeys", "read_varint", "write_varint"]

TAG_BYTES = 16
_SAMPLE_BYTES = 16
_LONGEST_NUMBER = 4
_SHORT_HEADER = 0x40
_SENT_NUMBER_BYTES = 2  # as the engine sends them
_PHASE_AND_RESERVED = 0x1C
_BYTES = [bytes((value,)) for value in range(256)]

Seal = Callable[[bytes, bytes, bytes], bytes]
"""Nonce, data and associated data in, the result out."""


def read_varint(data: bytes, position: int) -> tuple[int, int]:
    """Return the number at a position and the position behind it (RFC 9000, 16)."""
    first = data[position]
    if first < 0x40:
        return first, position + 1
    if first < 0x80:
        return (first & 0x3F) << 8 | data[position + 1], position + 2
    size = 4 if first < 0xC0 else 8
    end = position + size
    data[end - 1]  # a truncated number is no number
    return int.from_bytes(data[position:end], "big") & ((1 << (8 * size - 2)) - 1), end


def write_varint(value: int) -> bytes:
    """Return a number in as few bytes as it fits."""
    if value < 0x40:
        return _BYTES[value]
    if value < 0x4000:
        return (value | 0x4000).to_bytes(2, "big")
    if value < 0x4000_0000:
        return (value | 0x8000_0000).to_bytes(4, "big")
    return (value | 0xC000_0000_0000_0000).to_bytes(8, "big")


class PacketKeys:
    """Protects and unprotects the packets of one connection.

    Args:
        pair: the engine's 1-RTT keys of both directions, which must be there.
    """

    __slots__ = (
        "_decrypt",
        "_encrypt",
        "_iv_in",
        "_iv_out",
        "_mask_in",
        "_mask_out",
        "_opens",
        "_phase",
        "_seals",
        "pair",
    )

    def __init__(self, pair: CryptoPair) -> None:
        self.pair = pair
        """The engine's keys."""
        self._fetch()

    def _fetch(self) -> None:
        """Take the ciphers from the engine, whose keys have changed."""
        recv, send = self.pair.recv, self.pair.send
        if recv.aead is None or send.aead is None or recv.hp is None or send.hp is None:
            raise ValueError("the connection has no keys")
        self._opens, self._seals = recv.aead, send.aead
        self._decrypt: Seal = recv.aead._aead.decrypt
        self._encrypt: Seal = send.aead._aead.encrypt
        self._iv_in, self._iv_out = recv.aead._iv, send.aead._iv
        self._mask_in: Callable[[bytes], bytes] = recv.hp._mask if recv.hp._is_chacha20 else recv.hp._encryptor.update
        self._mask_out: Callable[[bytes], bytes] = send.hp._mask if send.hp._is_chacha20 else send.hp._encryptor.update
        self._phase = recv.key_phase << 2

    def open(self, data: bytes, offset: int, expected: int) -> tuple[int, int, bytes] | None:
        """Open a datagram that holds one packet with a short header.

        Args:
            data: the datagram, long enough to take the sample from.
            offset: where the packet number begins.
            expected: the next packet number.

        Returns:
            The first byte as it was before protection, the packet number and the frames; None if the packet is not
            authentic, of another key phase or breaks a rule: the engine finds out which.
        """
        if self.pair.recv.aead is not self._opens:
            self._fetch()
        sample = offset + _LONGEST_NUMBER
        mask = self._mask_in(data[sample : sample + _SAMPLE_BYTES])
        first = data[0] ^ (mask[0] & 0x1F)
        if first & _PHASE_AND_RESERVED != self._phase:
            return None
        size = (first & 3) + 1
        end = offset + size
        truncated = int.from_bytes(data[offset:end], "big") ^ int.from_bytes(mask[1 : 1 + size], "big")
        number = decode_packet_number(truncated, size * 8, expected)
        header = b"".join((_BYTES[first], data[1:offset], truncated.to_bytes(size, "big")))
        try:
            return first, number, self._decrypt((self._iv_in ^ number).to_bytes(12, "big"), data[end:], header)
        except InvalidTag:
            return None

    def seal(self, frames: bytes, peer_cid: bytes, number: int, *, spin: bool) -> bytes:
        """Return the datagram of one packet.

        Args:
            frames: at least two bytes of frames.
            peer_cid: the connection id that the peer goes by.
            number: the packet number.
            spin: the bit by which observers measure round trips (RFC 9000, 17.4).
        """
        if self.pair.send.aead is not self._seals:
            self._fetch()
        first = _SHORT_HEADER | spin << 5 | self._phase | (_SENT_NUMBER_BYTES - 1)
        truncated = number & 0xFFFF
        header = b"".join((_BYTES[first], peer_cid, truncated.to_bytes(2, "big")))
        sealed = self._encrypt((self._iv_out ^ number).to_bytes(12, "big"), frames, header)
        mask = self._mask_out(sealed[2:18])  # the sample begins four bytes behind the start of the number
        number_out = truncated ^ (mask[1] << 8 | mask[2])
        return b"".join((_BYTES[first ^ (mask[0] & 0x1F)], peer_cid, number_out.to_bytes(2, "big"), sealed))
