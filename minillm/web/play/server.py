"""Starts the page: a port, a token, a browser; ends it at Ctrl-C."""

from __future__ import annotations

import secrets
import socket
import threading
import webbrowser

import uvicorn

from minillm.errors import UserError
from minillm.web.play.app import create_app
from minillm.web.play.studio import Studio

HOST = "127.0.0.1"


def serve(studio: Studio, port: int, browser: bool, say) -> None:
    """Serve until Ctrl-C. port: 0 for a free one. say: is given the address, one line."""
    listening = listen(port)
    port = listening.getsockname()[1]
    token = secrets.token_urlsafe(16)
    address = f"http://{HOST}:{port}/{token}/"
    settings = uvicorn.Config(
        create_app(studio, token, port), log_level="warning", access_log=False, timeout_graceful_shutdown=0
    )
    say(f"minillm play: {address}")
    if browser:
        threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
    uvicorn.Server(settings).run(sockets=[listening])


def listen(port: int) -> socket.socket:
    """A socket that listens on this machine only. Raises UserError where the port is taken."""
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((HOST, port))
    except (OSError, OverflowError) as error:
        raise UserError(f"port {port}: {getattr(error, 'strerror', error)}: choose another with --port") from None
    listening.listen()
    return listening
