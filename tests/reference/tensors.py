"""safetensors files and bit-plane weights in numpy. bfloat16 arrays are kept as uint16 and named by dtype 'BF16'."""

import json
import struct

import numpy as np

DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4", "U8": "u1"}


def read_safetensors(path):
    """{name: (dtype name, array)} of one file; BF16 arrays hold the bit patterns."""
    with open(path, "rb") as file:
        data = file.read()
    (length,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + length])
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, end = (8 + length + offset for offset in entry["data_offsets"])
        array = np.frombuffer(data[begin:end], DTYPES[entry["dtype"]]).reshape(entry["shape"])
        tensors[name] = (entry["dtype"], array)
    return tensors


def write_safetensors(path, tensors):
    """tensors: {name: (dtype name, array)} as read_safetensors returns them."""
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, (dtype, array) in tensors.items():
        size = array.size * np.dtype(DTYPES[dtype]).itemsize
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)))
        file.write(text)
        for dtype, array in tensors.values():
            file.write(np.ascontiguousarray(array, DTYPES[dtype]).tobytes())


def to_stored(values, dtype):
    """float array -> (dtype name, array) rounded to nearest even."""
    if dtype != "BF16":
        return dtype, values.astype(DTYPES[dtype])
    bits = values.astype("<f4").view("<u4").astype(np.uint64)
    return dtype, ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")


def to_float(stored):
    """(dtype name, array) -> float64 array."""
    dtype, array = stored
    if dtype == "BF16":
        return (array.astype("<u4") << 16).view("<f4").astype(np.float64)
    return array.astype(np.float64)


def unpack_planes(packed):
    """B int32 [T, k, N] -> bits uint8 [N, k, 32 T]; bit i of B[t, p, n] is column 32 t + i."""
    words, planes, rows = packed.shape
    shifted = packed.view("<u4")[..., None] >> np.arange(32, dtype="<u4")
    return (shifted & 1).astype(np.uint8).transpose(2, 1, 0, 3).reshape(rows, planes, words * 32)


def pack_planes(bits):
    """bits [N, k, K_pad] of 0 and 1 -> int32 [T, k, N]."""
    rows, planes, columns = bits.shape
    words = bits.reshape(rows, planes, columns // 32, 32).astype("<u4")
    packed = (words << np.arange(32, dtype="<u4")).sum(axis=3, dtype="<u4")
    return np.ascontiguousarray(packed.transpose(2, 1, 0)).view("<i4")


def dequantize(coefficients, packed, columns):
    """c float [G, k+1, N] and B [T, k, N] -> W' float64 [N, K]; the padded columns are cut off."""
    bits = unpack_planes(packed)
    groups, terms, rows = coefficients.shape
    group = bits.shape[2] // groups
    weight = np.repeat(coefficients[:, terms - 1, :].T, group, axis=1)
    for plane in range(terms - 1):
        weight = weight + np.repeat(coefficients[:, plane, :].T, group, axis=1) * bits[:, plane, :]
    return weight[:, :columns]
