"""Addresses of caches: what may not stand in one."""

from __future__ import annotations

import re

from ..errors import InputError


def check_no_credentials(url: str) -> None:
    """Refuses an address with a key, a password or a signature: runs record addresses, and messages show them.

    Raises:
        InputError: without what it refuses.
    """
    scheme, _, place = url.removeprefix("icechunk://").rpartition("://")
    if scheme and scheme != "hf" and ("@" in place.partition("/")[0] or "?" in place):
        shown = re.sub(r"^[^/]*@|\?.*$", "", place)
        todo = "Give the address alone, and credentials as AWS, Google or Hugging Face keep them."
        raise InputError(f"{scheme}://{shown}", "the address holds credentials, or a signature", todo=todo)
