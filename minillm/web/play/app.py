"""The routes of Play, and who may use them.

Only this machine, and only who has the token: the server listens on 127.0.0.1; every address begins
with the token; a Host or Origin header of another place is refused, so that no web page on the
internet can reach it through the browser (DNS rebinding, cross-site requests).
"""

from __future__ import annotations

import mimetypes
import secrets
from pathlib import Path

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

from minillm.web.page import LOOK
from minillm.web.play import about, backward, kernel, search, tokens, train, write
from minillm.web.play.studio import Studio

STATIC = LOOK.parent / "play" / "static"
VIEWS = (about, write, search, backward, train, kernel, tokens)
HEADERS = {
    "content-security-policy": "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


def create_app(studio: Studio, token: str, port: int) -> Starlette:
    """The application. token: the first part of every path. port: where it is served."""
    routes = [route for view in VIEWS for route in view.routes(studio)]
    routes += [Mount("/look", Files(directory=LOOK)), Mount("/", Files(directory=STATIC, html=True))]
    return Starlette(routes=[Mount("/{token}", routes=routes)], middleware=[Middleware(Gate, token=token, port=port)])


class Files(StaticFiles):
    """The files of a folder, each sent whole.

    Starlette's own answer opens a file in another thread; a browser that leaves at that moment, or
    the end of the server, leaves the file open. These files are small, so they are read at once.
    """

    def file_response(self, full_path, stat_result, scope, status_code=200) -> Response:
        """The answer with the file's bytes."""
        kind, _ = mimetypes.guess_type(full_path)
        return Response(Path(full_path).read_bytes(), status_code, media_type=kind)


class Gate:
    """Refuses requests without the token, or on behalf of another place."""

    def __init__(self, app, token: str, port: int):
        self.app, self.token = app, token
        self.hosts = {f"127.0.0.1:{port}", f"localhost:{port}"}

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        if problem := self.problem(scope):
            await PlainTextResponse(problem, 403)(scope, receive, send)
            return

        async def send_with_headers(message):
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *((n.encode(), v.encode()) for n, v in HEADERS.items())]
            await send(message)

        await self.app(scope, receive, send_with_headers)

    def problem(self, scope) -> str:
        """Why a request is refused, or ""."""
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        origin = headers.get("origin")
        if headers.get("host") not in self.hosts:
            return "minillm play answers 127.0.0.1 and localhost only"
        if origin is not None and origin not in {f"http://{host}" for host in self.hosts}:
            return "minillm play answers its own page only"
        given = scope["path"].split("/")[1]
        if not secrets.compare_digest(given.encode(), self.token.encode()):
            return "open the address that minillm play printed: it has a token in it"
        return ""
