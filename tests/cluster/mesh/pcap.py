"""Reads what tcpdump wrote: the bytes of each TCP connection and direction, and whether they are TLS records."""

import struct
from collections import defaultdict

ETHERNET, IPV4, TCP = 1, 0x0800, 6


def streams(data):
    """(source, source port, destination, destination port) -> the bytes that were sent, in their order."""
    packets = defaultdict(dict)
    first = {}
    for frame in frames(data):
        segment = tcp(frame)
        if segment is None:
            continue
        flow, sequence, syn, payload = segment
        if syn:
            first[flow] = sequence + 1
        elif payload and flow in first:
            packets[flow][(sequence - first[flow]) % 2**32] = payload
    return {flow: in_order(found) for flow, found in packets.items()}


def frames(data):
    order = "<" if data[:4] == b"\xd4\xc3\xb2\xa1" else ">"
    if len(data) < 24 or struct.unpack(order + "I", data[20:24])[0] != ETHERNET:
        raise ValueError("no capture of Ethernet frames")
    at = 24
    while at + 16 <= len(data):
        length = struct.unpack(order + "I", data[at + 8:at + 12])[0]
        yield data[at + 16:at + 16 + length]
        at += 16 + length


def tcp(frame):
    if len(frame) < 34 or struct.unpack("!H", frame[12:14])[0] != IPV4 or frame[23] != TCP:
        return None
    ip = frame[14:14 + struct.unpack("!H", frame[16:18])[0]]
    segment = ip[(ip[0] & 15) * 4:]
    source, destination, sequence = struct.unpack("!HHI", segment[:8])
    address = [".".join(map(str, ip[at:at + 4])) for at in (12, 16)]
    flow = (address[0], source, address[1], destination)
    return flow, sequence, bool(segment[13] & 2), segment[(segment[12] >> 4) * 4:]


def in_order(packets):
    """Joins segments up to the first gap; what was sent twice counts once."""
    joined = b""
    for offset in sorted(packets):
        if offset > len(joined):
            break
        joined += packets[offset][len(joined) - offset:]
    return joined


def is_tls(stream):
    """Whether all of it is TLS records (RFC 8446 section 5.1): type, version, length, and so on to the end."""
    at = 0
    while at + 5 <= len(stream):
        kind, version, length = struct.unpack("!BHH", stream[at:at + 5])
        if kind not in (20, 21, 22, 23) or version not in (0x0301, 0x0303) or length > 2**14 + 256:
            return False
        at += 5 + length
    return at > 0
