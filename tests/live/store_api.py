"""A StoreAPI client written from the contract alone: grpcio for the calls, protobuf by hand, XOR
chunks by the format's description. It shares no code with what it reads from.

Usage: store_api.py HOST:PORT. Prints one line per series, in the order they come:

    name=value<0x1f>name=value...|time:bits time:bits ...

where bits is the value's IEEE 754 pattern in hexadecimal.
"""

import struct
import sys

import grpc


def uvarint(data, at):
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at


def fields(data):
    """(number, value) of each field: ints for varints, bytes for records."""
    at = 0
    while at < len(data):
        key, at = uvarint(data, at)
        number, wire_type = key >> 3, key & 7
        if wire_type == 0:
            value, at = uvarint(data, at)
        elif wire_type == 1:
            value, at = data[at : at + 8], at + 8
        elif wire_type == 2:
            length, at = uvarint(data, at)
            value, at = data[at : at + length], at + length
        elif wire_type == 5:
            value, at = data[at : at + 4], at + 4
        else:
            raise ValueError(f"wire type {wire_type}")
        yield number, value


def record(number, content):
    return bytes([number << 3 | 2]) + encode_uvarint(len(content)) + content


def encode_uvarint(value):
    value &= (1 << 64) - 1
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


class Bits:
    """Bits of a chunk, most significant first."""

    def __init__(self, data):
        self.number = int.from_bytes(data, "big")
        self.left = 8 * len(data)

    def take(self, count):
        self.left -= count
        if self.left < 0:
            raise ValueError("a chunk that ends early")
        return self.number >> self.left & (1 << count) - 1

    def uvarint(self):
        value = shift = 0
        while True:
            byte = self.take(8)
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    def varint(self):
        value = self.uvarint()
        return value >> 1 ^ -(value & 1)


def samples(chunk):
    """The samples of an XOR chunk."""
    (count,) = struct.unpack(">H", chunk[:2])
    bits = Bits(chunk[2:])
    time = delta = value = leading = trailing = 0
    for number in range(count):
        if number == 0:
            time, value = bits.varint(), bits.take(64)
            yield time, value
            continue
        if number == 1:
            delta = bits.uvarint()
        else:
            delta += delta_of_delta(bits)
        time += delta
        if bits.take(1):
            if bits.take(1):
                leading = bits.take(5)
                width = bits.take(6) or 64
                trailing = 64 - leading - width
            width = 64 - leading - trailing
            value ^= bits.take(width) << trailing
        yield time, value


def delta_of_delta(bits):
    for width in (0, 14, 17, 20):
        if width == 0:
            if not bits.take(1):
                return 0
        elif not bits.take(1):
            return signed(bits.take(width), width)
    return signed(bits.take(64), 64)


def signed(value, width):
    # A value is positive up to and with 2^(width-1): the range is not two's complement's.
    return value - (1 << width) if value > 1 << width - 1 else value


def main():
    channel = grpc.insecure_channel(sys.argv[1])
    matcher = b"\x08\x02" + record(2, b"__name__") + record(3, b".+")
    minimum, maximum = -(1 << 63), (1 << 63) - 1
    request = b"\x08" + encode_uvarint(minimum) + b"\x10" + encode_uvarint(maximum)
    request += record(3, matcher) + b"\x30\x01\x38\x01"
    raw = lambda message: message
    info = channel.unary_unary(
        "/thanos.info.Info/Info", request_serializer=raw, response_deserializer=raw
    )
    kinds = [value for number, value in fields(info(b"", timeout=10)) if number == 2]
    if kinds != [b"receive"]:
        raise ValueError(f"component {kinds}")
    select = channel.unary_stream(
        "/thanos.Store/Series", request_serializer=raw, response_deserializer=raw
    )
    lines = {}
    for frame in select(request, timeout=30):
        for number, content in fields(frame):
            if number == 2:
                raise ValueError(f"warning {content!r}")
            if number == 1:
                labels, found = series(content)
                lines.setdefault(labels, []).extend(found)
    for labels, found in lines.items():
        print(labels + "|" + " ".join(f"{time}:{value:016x}" for time, value in found))


def series(content):
    labels, found = [], []
    for number, value in fields(content):
        if number == 1:
            pair = dict(fields(value))
            labels.append(f"{pair.get(1, b'').decode()}={pair.get(2, b'').decode()}")
        elif number == 2:
            chunk = dict(fields(dict(fields(value))[3]))
            if chunk.get(1, 0) != 0:
                raise ValueError(f"encoding {chunk[1]}")
            found.extend(samples(chunk[2]))
    return "\x1f".join(labels), found


main()
