"""The parts of a conversation: its system message, questions, and turns.

system | user assistant | user assistant tool assistant | user
         turn             turn                            turn
"""

from __future__ import annotations

SYSTEM_ROLES = ("system", "developer")


def system_message(messages: list[dict]) -> list[dict]:
    """The system message, as a list of one; empty where there is none."""
    return messages[:1] if messages and messages[0]["role"] in SYSTEM_ROLES else []


def questions(messages: list[dict]) -> list[int]:
    """The places of the user's messages."""
    return [at for at, message in enumerate(messages) if message["role"] == "user"]


def turns(messages: list[dict]) -> list[int]:
    """Where turns begin, counted without the system message: at its end, and with each message of
    the user.

    >>> turns([{"role": role} for role in ("system", "user", "assistant", "user")])
    [0, 2]
    """
    start = len(system_message(messages))
    return sorted({0, *(at - start for at in questions(messages))})
