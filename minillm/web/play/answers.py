"""Functions as JSON over HTTP: `answer` for one that returns, `stream` for one that yields.

Both are functions of (studio, arguments), where `arguments` is the JSON object that the page sent.
A UserError is sent as {"error": its text} with status 400. What is streamed is a line of JSON each.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from minillm.errors import UserError
from minillm.web.play.studio import Studio, Worker

END = object()
LARGEST = 4 * 2**20  # bytes of a request


def answer(
    path: str, studio: Studio, function: Callable[[Studio, dict], object], worker: Worker | None = None
) -> Route:
    """POST `path`: function(studio, arguments) in the worker -> its result as JSON."""

    async def endpoint(request: Request) -> Response:
        try:
            arguments = await arguments_of(request)
            result = await asyncio.wrap_future((worker or studio.worker).submit(function, studio, arguments))
        except UserError as error:
            return refused(error)
        return Response(text_of(result), media_type="application/json")

    return Route(path, endpoint, methods=["POST"])


def stream(
    path: str, studio: Studio, function: Callable[[Studio, dict], Iterator], worker: Worker | None = None
) -> Route:
    """POST `path`: each value that function(studio, arguments) yields as a line of JSON.

    The worker makes one value at a time and serves others in between. A page that goes away closes
    the iterator.
    """

    async def endpoint(request: Request) -> Response:
        run = (worker or studio.worker).submit
        try:
            values = function(studio, await arguments_of(request))
            first = await asyncio.wrap_future(run(next, values, END))
        except UserError as error:
            return refused(error)

        async def lines():
            value = first
            try:
                while value is not END:
                    yield text_of(value) + b"\n"
                    value = await asyncio.wrap_future(run(next, values, END))
            except UserError as error:
                yield text_of({"error": str(error)}) + b"\n"
            except Exception:
                yield text_of({"error": "an error of the program, which is in the terminal"}) + b"\n"
                raise
            finally:
                run(values.close)

        return StreamingResponse(lines(), media_type="application/x-ndjson")

    return Route(path, endpoint, methods=["POST"])


async def arguments_of(request: Request) -> dict:
    """The JSON object that a request carries, whose texts can be written as UTF-8. Raises UserError
    for anything else.
    """
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > LARGEST:
            raise UserError(f"the page sent more than {LARGEST:,} bytes: use a shorter text")
    try:
        arguments = json.loads(body or b"{}")
        json.dumps(arguments, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise UserError("the page sent half of a character (a lone surrogate): take it out of the text") from None
    except (ValueError, RecursionError):
        raise UserError("the page sent what is no JSON, or is nested too deeply: reload it") from None
    if not isinstance(arguments, dict):
        raise UserError("the page sent JSON that is no object: reload it")
    return arguments


def refused(error: UserError) -> Response:
    """The answer to what the user can mend."""
    return Response(text_of({"error": str(error)}), status_code=400, media_type="application/json")


def text_of(value) -> bytes:
    """JSON, with null for numbers that JSON does not have (infinity, not a number), and "?" for
    what is no character (names of files have such bytes).
    """
    try:
        text = json.dumps(value, allow_nan=False, ensure_ascii=False)
    except ValueError:
        text = json.dumps(_finite(value), allow_nan=False, ensure_ascii=False)
    return text.encode("utf-8", "replace")


def _finite(value):
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and value - value != 0 else value
