import asyncio
import os
import socket

import uvicorn

# The first descriptor of LISTEN_FDS.
SOCKET = 3


class Server(uvicorn.Server):
    """Serves on the socket that thead passes in, says when, and asks its clients to leave before it does."""

    leaving = False

    async def startup(self, sockets=None):
        await super().startup(sockets)
        self.loop = asyncio.get_running_loop()
        if path := os.environ.get("NOTIFY_SOCKET"):
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
                notify.sendto(b"READY=1", path)

    def handle_exit(self, sig, frame):
        self.loop.call_soon_threadsafe(self.leave, sig, frame)

    def leave(self, sig, frame):
        # uvicorn closes what is idle at once, and a request may just be on its way on it: for a second clients are told first,
        # and no more connections are taken. (A server that is closed loses those that it has just taken.)
        self.loop.remove_reader(SOCKET)
        self.leaving = True
        self.loop.call_later(1, super().handle_exit, sig, frame)


async def app(scope, receive, send):
    assert scope["type"] == "http"
    headers = [(b"content-length", b"18"), (b"x-worker", str(os.getpid()).encode())]
    if server.leaving:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"hello from Python\n"})


server = Server(uvicorn.Config(app, loop="asyncio", lifespan="off"))
if __name__ == "__main__":
    server.run(sockets=[socket.socket(fileno=SOCKET)])
