"""The view train."""

from __future__ import annotations

from starlette.routing import Route

from minillm.web.play.studio import Studio


def routes(studio: Studio) -> list[Route]:
    """The routes of this view."""
    return []
