"""What the page says of the model behind it."""

from __future__ import annotations

from starlette.routing import Route

from minillm.version import __version__
from minillm.web.play.answers import answer
from minillm.web.play.studio import Studio


def routes(studio: Studio) -> list[Route]:
    """POST /about"""
    return [answer("/about", studio, about)]


def about(studio: Studio, arguments: dict) -> dict:
    """The model's name, size and context, and the version of minillm."""
    model = studio.model
    return {
        "model": studio.name,
        "weights": sum(parameter.value.size for parameter in model.parameters().values()),
        "context": model.config.context_length,
        "vocabulary": model.config.vocab_size,
        "version": __version__,
    }
