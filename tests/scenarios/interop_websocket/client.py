"""Greeting, echo, fragments, ping and pong, big frames, compression, close codes from either side, many at once."""

import asyncio
import os
import sys

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

URL = sys.argv[1]


def open_socket(**options):
    return connect(URL, subprotocols=["chat"], max_size=1 << 27, **options)


async def greeted(socket):
    assert await socket.recv() == "hello /chat?room=1 chat"


async def echo(compression):
    async with open_socket(compression=compression) as socket:
        await greeted(socket)
        for message in ["", "text ☺", b"", os.urandom(70_000), "x" * 200_000]:
            await socket.send(message)
            assert await socket.recv() == message
        await socket.send(["in ", "three ", "fragments"])
        assert await socket.recv() == "in three fragments"
        big = os.urandom(16 << 20)
        await socket.send(big)
        assert await socket.recv() == big


async def ping():
    async with open_socket() as socket:
        await greeted(socket)
        for data in [b"", b"beat"]:
            latency = await asyncio.wait_for(await socket.ping(data), 5)
            assert latency < 5
        await socket.pong(b"unasked")
        await socket.send("still there")
        assert await socket.recv() == "still there"


async def closes():
    async with open_socket() as socket:
        await greeted(socket)
        await socket.close(4001, "client says so")
        assert (socket.close_code, socket.close_reason) == (4001, "client says so")
    for code, reason in [(1000, "done"), (1011, "broken"), (4999, "own ☺")]:
        async with open_socket() as socket:
            await greeted(socket)
            await socket.send(f"close {code} {reason}")
            try:
                await socket.recv()
                raise AssertionError("still open")
            except ConnectionClosed as closed:
                assert (closed.rcvd.code, closed.rcvd.reason) == (code, reason), closed


async def many():
    async def one(number):
        async with open_socket() as socket:
            await greeted(socket)
            for turn in range(20):
                await socket.send(f"{number} {turn}")
                assert await socket.recv() == f"{number} {turn}"

    await asyncio.gather(*(one(number) for number in range(50)))


async def main():
    await echo(None)
    await echo("deflate")
    await ping()
    await closes()
    await many()


asyncio.run(main())
