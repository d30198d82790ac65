"""Greets, echoes messages, and closes with the code that a message names."""

import asyncio
import sys

from websockets.asyncio.server import serve


async def handle(socket):
    await socket.send(f"hello {socket.request.path} {socket.subprotocol}")
    async for message in socket:
        if isinstance(message, str) and message.startswith("close "):
            _, code, reason = message.split(" ", 2)
            await socket.close(int(code), reason)
        else:
            await socket.send(message)


async def main():
    async with serve(handle, "", int(sys.argv[1]), subprotocols=["chat"], max_size=1 << 27) as server:
        await server.serve_forever()


asyncio.run(main())
