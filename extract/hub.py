"""Errors of the model hub as one line."""

from __future__ import annotations

from ..data.errors import InputError


def hub_error(name: str, option: str, error: Exception) -> InputError:
    """Returns the error for weights that could not be downloaded.

    Args:
        name: of the model.
        option: the flag that takes local weights instead.
        error: raised by the hub's client or its transport.
    """
    todo = f"Check the name and the network, or pass {option} with a local path, or random weights for a trial."
    return InputError(name, expected="weights from the model hub", got=reason_of(error), todo=todo)


def reason_of(error: Exception) -> str:
    """Returns the first line of an error's message, at most 200 characters; its class where the message is empty."""
    return (f"{error}".strip() or type(error).__name__).splitlines()[0][:200]
