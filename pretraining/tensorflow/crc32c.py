"""CRC-32C (Castagnoli, RFC 3720), fast enough in NumPy for the tensors of a checkpoint."""

import math

import numpy as np

TABLE = np.arange(256, dtype=np.uint32)
for _ in range(8):
    TABLE = TABLE >> 1 ^ (TABLE & 1) * np.uint32(0x82F63B78)
BITS = np.uint32(1) << np.arange(32, dtype=np.uint32)


def crc32c(data: np.ndarray) -> int:
    """Checksum of (n,) uint8.

    About √n stretches are summed side by side, then joined. 32 more lanes, of one bit each, see
    nothing but zeros: what becomes of each bit while a stretch goes by.
    """
    length = math.isqrt(len(data)) or 1
    lanes = len(data) // length
    columns = np.zeros((length, lanes + 32), np.uint8)
    columns[:, :lanes] = data[: lanes * length].reshape(lanes, length).T
    registers = np.concatenate([np.zeros(lanes, np.uint32), BITS])
    for column in columns:
        registers = TABLE[(registers ^ column) & 255] ^ registers >> 8
    total = np.uint32(0xFFFFFFFF)
    for register in registers[:lanes]:
        total = np.bitwise_xor.reduce(registers[lanes:][total & BITS > 0]) ^ register
    for byte in data[lanes * length :]:
        total = TABLE[(total ^ byte) & 255] ^ total >> 8
    return int(~total)
