"""Starts the page: a port, a token, a browser; ends it at Ctrl-C."""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
import threading
import time
import webbrowser
from collections.abc import Callable

import uvicorn

from minillm.errors import UserError
from minillm.web.play.app import create_app
from minillm.web.play.studio import Studio

HOST, USUAL_PORT = "127.0.0.1", 8000
PATIENCE = 0.7  # seconds in which everything ends after Ctrl-C


def serve(studio: Studio, port: int | None, browser: bool, say: Callable[[str], None]) -> None:
    """Serve until Ctrl-C, which raises KeyboardInterrupt here after everything has ended.

    port: None for USUAL_PORT, or any other where that is taken; 0 for any. browser: open the page
    in one. say is given the address. Raises UserError where the port cannot be had.
    """
    listening = listen_somewhere() if port is None else listen(port)
    port, token = listening.getsockname()[1], secrets.token_urlsafe(16)
    address = f"http://{HOST}:{port}/{token}/"
    say(f"open {address}  (Ctrl-C ends it)")
    if browser:
        threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
    try:
        uvicorn_server(create_app(studio, token, port)).run(sockets=[listening])
    finally:
        studio.end(time.monotonic() + PATIENCE)


def uvicorn_server(app) -> uvicorn.Server:
    """A server that ends at once when it is asked to, and logs errors only."""
    logging.getLogger("uvicorn.error").addFilter(_not_cancelled)
    settings = uvicorn.Config(app, log_level="error", access_log=False, lifespan="off", timeout_graceful_shutdown=0)
    return uvicorn.Server(settings)


def listen_somewhere() -> socket.socket:
    """A socket at the usual port, or at any other where that is taken."""
    try:
        return listen(USUAL_PORT)
    except UserError:
        return listen(0)


def listen(port: int) -> socket.socket:
    """A socket that listens on this machine only. Raises UserError where the port is taken."""
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((HOST, port))
        listening.listen()
    except OSError as error:
        listening.close()
        raise UserError(f"port {port}: {error.strerror}: choose another, or --port 0 for any that is free") from None
    return listening


def _not_cancelled(record: logging.LogRecord) -> bool:
    """False for what uvicorn logs of answers that Ctrl-C cuts off: that is as it should be."""
    cut_off = record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError)
    return not (cut_off or record.getMessage().startswith("Cancel "))
