"""A visitor's pseudonym: the only form in which its id is stored."""

from __future__ import annotations

import hmac
from functools import lru_cache


def pseudonym(salt: bytes, visitor: str) -> str:
    """The only form in which a visitor (or session) is stored: a keyed hash, 128 bits, as hex."""
    keyed = _keyed(salt).copy()
    keyed.update(visitor.encode("utf-8", "surrogatepass"))
    return keyed.hexdigest()[:32]


@lru_cache(maxsize=8)
def _keyed(salt: bytes) -> hmac.HMAC:
    """The hash with only its key in it: taking that in costs more than a visitor does."""
    return hmac.new(salt, digestmod="sha256")
