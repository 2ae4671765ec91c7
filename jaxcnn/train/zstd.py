"""The size of zstd data after decompression, from its headers alone (RFC 8878)."""

BLOCK = 2**17  # bytes that one compressed block can decode to
FRAME, SKIPPED = 0xFD2FB528, 0x184D2A5  # magic numbers; the second without its lowest four bits


def decoded_size(raw: bytes) -> int:
    """Return the largest number of bytes that zstd frames can decode to, from the headers of their blocks.

    Args:
        raw: the compressed data. If it is not zstd, the result is its own length.

    Returns:
        An upper bound, computed without decompressing anything.

    """
    at = total = 0
    if int.from_bytes(raw[:4], "little") != FRAME:
        return len(raw)  # stored without compression, or rejected by TensorStore
    while at < len(raw):
        magic = int.from_bytes(raw[at : at + 4], "little")
        if magic >> 4 == SKIPPED:
            at += 8 + int.from_bytes(raw[at + 4 : at + 8], "little")
            continue
        if magic != FRAME or at + 5 > len(raw):
            break
        flags = raw[at + 4]
        single, size_field = flags >> 5 & 1, flags >> 6
        at += 6 - single + (0, 1, 2, 4)[flags & 3] + (single if size_field == 0 else 1 << size_field)
        last = 0
        while not last and at < len(raw):
            head = int.from_bytes(raw[at : at + 3], "little")
            last, kind, size = head & 1, head >> 1 & 3, head >> 3
            at += 3 + (1 if kind == 1 else size)
            total += BLOCK if kind == 2 else size
        at += 4 * (flags >> 2 & 1)  # a checksum
    return total
