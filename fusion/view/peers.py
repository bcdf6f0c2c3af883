"""Which user of this machine is at the other end of a connection."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))  # of all connections, by proc(5)
_LOCAL, _REMOTE, _USER = 1, 2, 7  # columns


def user_of(client: tuple[str, int], server: tuple[str, int]) -> int | None:
    """Returns the id of the user who opened a connection within this machine; None where the system does not tell.

    Linux lists it; on other systems, and for a connection from outside of this network namespace, there is none.

    Args:
        client: IPv4 address and port of the other end.
        server: those of ours.
    """
    ends = _written(*client), _written(*server)
    for table in TABLES:
        try:
            rows = [line.split() for line in table.read_text(encoding="ascii").splitlines()[1:]]
        except OSError:
            continue
        for row in rows:
            if row[_LOCAL].endswith(ends[0]) and row[_REMOTE].endswith(ends[1]):
                return int(row[_USER])
    return None


def _written(address: str, port: int) -> str:
    """An address as the tables have it: the bytes as a number of this machine, in hexadecimal digits."""
    return f"{int.from_bytes(socket.inet_aton(address), sys.byteorder):08X}:{port:04X}"
