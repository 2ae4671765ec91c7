"""Changes to intact files, for the fuzzer: of bytes, of JSON, and of the structure that a format checks first."""

import gzip
import io
import json
import os
import shutil
import struct
import zipfile
import zlib

NUMBERS = (0, 1, 127, 128, 255, 256, 32767, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1)
VALUES = (
    None, True, -1, 0, 1, 2**63, 10**30, 1e308, -0.5, float("nan"), float("inf"), "", "x", "../../etc/passwd",
    "a\x1b[2J\n<b>", "é\udce9",
    [], {}, [1, "a"], {"a": {"b": []}}, ["x"] * 1000, "9" * 5000, "data.payload.Image", [[[[[[1]]]]]],
)  # fmt: skip


def flip(data, rng):
    at = int(rng.integers(len(data)))
    return data[:at] + bytes([data[at] ^ 1 << int(rng.integers(8))]) + data[at + 1 :]


def overwrite(data, rng):
    at, n = int(rng.integers(len(data))), int(rng.integers(1, 17))
    return data[:at] + rng.bytes(n) + data[at + n :]


def write_number(data, rng):
    """Put a number that a header might hold at some place, most often near the beginning."""
    at = int(rng.integers(min(len(data), 64) if rng.random() < 0.7 else len(data)))
    kind = str(rng.choice(["<I", ">I", "<Q", ">Q", "<H", ">H"]))
    value = NUMBERS[int(rng.integers(len(NUMBERS)))] & (2 ** (8 * struct.calcsize(kind)) - 1)
    return data[:at] + struct.pack(kind, value) + data[at + struct.calcsize(kind) :]


def cut(data, rng):
    return data[: int(rng.integers(len(data)))]


def cut_a_little(data, rng):
    return data[: -int(rng.integers(1, 20))]


def insert(data, rng):
    at = int(rng.integers(len(data) + 1))
    return data[:at] + rng.bytes(int(rng.integers(1, 40))) + data[at:]


def remove(data, rng):
    at, n = int(rng.integers(len(data))), int(rng.integers(1, 40))
    return data[:at] + data[at + n :]


def repeat(data, rng):
    at, n = int(rng.integers(len(data))), int(rng.integers(1, 200))
    return data[: at + n] + data[at : at + n] * int(rng.integers(1, 50)) + data[at + n :]


BYTES = (flip, overwrite, write_number, cut, cut_a_little, insert, remove, repeat)


def _places(value, path=()):
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inside in items:
        yield from _places(inside, (*path, key))


def _changed_value(value, rng):
    """Replace, remove, wrap or copy one part of a JSON value."""
    places = list(_places(value))
    path = places[int(rng.integers(len(places)))]
    new = VALUES[int(rng.integers(len(VALUES)))]
    if not path:
        return new if rng.random() < 0.3 else value
    inside = value
    for key in path[:-1]:
        inside = inside[key]
    key, kind = path[-1], rng.integers(5)
    if kind == 0 and isinstance(inside, dict):
        del inside[key]
    elif kind == 1:
        inside[key] = [inside[key]]
    elif kind == 2 and isinstance(inside, dict):
        inside[f"{key}x"] = inside.pop(key)
    else:
        inside[key] = new
    return value


def json_changed(data, rng):
    """Change a JSON file, or one line of a file of JSON lines, as JSON."""
    lines = data.split(b"\n") if data.count(b"\n{") > 1 else [data]
    k = int(rng.integers(len(lines)))
    try:
        value = json.loads(lines[k])
    except ValueError:
        return flip(data, rng)
    if rng.random() < 0.02:
        lines[k] = b'{"a":' * 100_000 + b"1" + b"}" * 100_000
    else:
        lines[k] = json.dumps(_changed_value(value, rng)).encode()
    return b"\n".join(lines)


def npz_changed(data, rng):
    """Write an archive again with one member changed, its checksums right."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as old:
            members = [(name, old.read(name)) for name in old.namelist()]
    except Exception:
        return overwrite(data, rng)
    k = int(rng.integers(len(members)))
    name, content = members[k]
    kind = rng.integers(5)
    if kind == 0:
        members[k] = (("../" if rng.random() < 0.5 else "x") + name, content)
    elif kind == 1:
        members.append(members[k])
    elif kind == 2:
        shape = str(rng.choice(["(1000000000000,)", "(99999, 99999, 3)", "(-1, 4)", "()", "(2, 2)"]))
        kind = str(rng.choice(["|u1", "<f8", "|O", "<U9999999"]))
        header = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
        members[k] = (name, b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + content[-64:])
    elif kind == 3:
        members[k] = (name, content[:128] + BYTES[int(rng.integers(len(BYTES)))](content[128:] or b"x", rng))
    else:
        members[k] = (name, content + bytes(int(rng.integers(1, 10**7))))
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as new:
        names = set()
        for name, content in members:
            if name not in names:
                new.writestr(name, content)
            names.add(name)
    return out.getvalue()


def png_changed(data, rng):
    """Change the head of a PNG, its checksum right."""
    if data[:4] != b"\x89PNG":
        return write_number(data, rng)
    head = bytearray(data[16:29])
    struct.pack_into(">I", head, int(rng.integers(2)) * 4, int(rng.choice([0, 1, 7, 9, 60_000, 2**31 - 1])))
    if rng.random() < 0.3:
        head[8 + int(rng.integers(5))] = int(rng.integers(256))
    return data[:16] + bytes(head) + struct.pack(">I", zlib.crc32(b"IHDR" + bytes(head))) + data[33:]


def safetensors_changed(data, rng):
    """Change the header of a safetensors file as JSON, its length right."""
    try:
        n = struct.unpack("<Q", data[:8])[0]
        header = json_changed(data[8 : 8 + n], rng)
    except Exception:
        return overwrite(data, rng)
    return struct.pack("<Q", len(header)) + header + data[8 + n :]


def gzip_changed(data, rng):
    """Change the content of a gzip file; other files become a compression bomb."""
    try:
        inside = gzip.decompress(data)
    except Exception:
        return write_number(data, rng)
    kind = rng.integers(3)
    inside = write_number(inside, rng) if kind == 0 else inside + bytes(3 * 10**7) if kind == 1 else cut(inside, rng)
    return gzip.compress(inside, 1)


def csv_changed(data, rng):
    """Change one cell, line or the head of a CSV file."""
    lines = data.decode("utf-8", "replace").split("\n")
    k = int(rng.integers(len(lines)))
    cells = lines[k].split(",")
    cells[int(rng.integers(len(cells)))] = str(VALUES[int(rng.integers(len(VALUES)))])
    lines[k] = ",".join(cells) if rng.random() < 0.8 else '"' + ",".join(cells)
    return "\n".join(lines).encode("utf-8", "backslashreplace")


def apply(path, rng, special):
    """Change a file in place; `special` are the changes of its format, used half of the time."""
    data = path.read_bytes()
    kinds = special if special and rng.random() < 0.5 else BYTES
    try:
        new = kinds[int(rng.integers(len(kinds)))](data or b"x", rng)
    # an earlier change left no head, or one that is nested too deeply
    except (
        struct.error,
        ValueError,
        RecursionError,
    ):
        new = flip(data or b"x", rng)
    path.write_bytes(new)


# Functions that leave no file of the kind: (path, rng) -> None.


def empty(path, rng):
    path.write_bytes(b"")


def noise(path, rng):
    path.write_bytes(rng.bytes(int(rng.integers(1, 3000))))


def missing(path, rng):
    path.unlink()


def pipe(path, rng):
    path.unlink()
    os.mkfifo(path)


def directory(path, rng):
    path.unlink()
    path.mkdir()


def to_zero(path, rng):
    path.unlink()
    path.symlink_to("/dev/zero")


def dangling(path, rng):
    path.unlink()
    path.symlink_to("nowhere")


def sparse(path, rng):
    os.truncate(path, 10**12)


def swapped(path, rng):
    other = sorted(p for p in path.parent.rglob("*") if p.is_file() and p != path)
    if other:
        shutil.copy(other[int(rng.integers(len(other)))], path)


UNSOUND = (empty, noise, missing, pipe, directory, to_zero, dangling, sparse, swapped)
