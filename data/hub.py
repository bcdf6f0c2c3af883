"""The model hub: no waiting for one that cannot be reached, and its errors as one line.

The hub's client repeats each request five times with pauses that grow, and loading a model makes several requests: on a
machine without a network that is minutes. So one connection is tried first.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from .errors import InputError
from .shared_setting import SharedSetting

CONNECT_S = 1.5  # for the name of the server and the connection together
PORTS = {"http": 80, "https": 443}


_switch = SharedSetting()  # of the client: each decoder thread opens a face detector of its own


@contextlib.contextmanager
def offline_if_unreachable() -> Iterator[None]:
    """Lets the hub's client read its local cache alone inside the block, if the hub does not answer.

    What the cache holds is still loaded; for the rest, the client raises at once. The last thread to leave restores
    what was set before the first came.
    """
    from huggingface_hub import constants

    offline = constants.HF_HUB_OFFLINE or not answers(constants.ENDPOINT)

    def put(value: bool) -> None:
        constants.HF_HUB_OFFLINE = value

    with _switch.changed(lambda: constants.HF_HUB_OFFLINE, lambda: put(constants.HF_HUB_OFFLINE or offline), put):
        yield


def answers(url: str, timeout_s: float = CONNECT_S) -> bool:
    """Returns True if the server of an address, or the proxy before it, accepts a connection in time."""
    parts = urlsplit(_proxy_of(url) or url)
    accepted = threading.Event()

    def connect() -> None:
        with contextlib.suppress(OSError):
            port = parts.port or PORTS.get(parts.scheme, 443)
            socket.create_connection((parts.hostname or "", port), timeout_s).close()
            accepted.set()

    thread = threading.Thread(target=connect, daemon=True)  # looking up a name has no limit of its own
    thread.start()
    thread.join(timeout_s)
    return accepted.is_set()


def _proxy_of(url: str) -> str | None:
    parts = urlsplit(url)
    if proxy_bypass(parts.hostname or ""):
        return None
    proxies = getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    return proxy if proxy is None or "://" in proxy else f"http://{proxy}"


def hub_error(name: str, option: str, error: Exception) -> InputError:
    """Returns the error for weights that could not be downloaded.

    Args:
        name: of the model.
        option: the flag that takes local weights instead.
        error: raised by the hub's client or its transport.
    """
    todo = f"Check the name and the network, or pass {option} with a local path, or random weights for a trial."
    return InputError(name, expected="weights from the model hub", got=reason_of(error), todo=todo)


def reason_of(error: BaseException) -> str:
    """Returns the first line of an error's message, at most 200 characters; its class where the message is empty."""
    cause: BaseException | None = error
    while cause is not None:
        if type(cause).__name__ in ("LocalEntryNotFoundError", "OfflineModeIsEnabled"):
            return "no connection to it, and no copy in its local cache"
        cause = cause.__cause__ or cause.__context__
    return (f"{error}".strip() or type(error).__name__).splitlines()[0][:200]
