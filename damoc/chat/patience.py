"""How long to wait before the next request: rate limit, exponential back-off, and what the server asks for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime

_FIRST_PAUSE, _LONGEST_PAUSE, _LONGEST_ASKED = 0.5, 30.0, 120.0


class RateLimit:
    """A token bucket that holds one token: requests start evenly spaced, from whatever thread.

    Args:
        per_minute: requests a minute; None is no limit.
        clock: seconds, never going back.
    """

    def __init__(self, per_minute: int | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._spacing = 60.0 / per_minute if per_minute else 0.0
        self._clock = clock
        self._next = float("-inf")
        self._lock = threading.Lock()

    def reserve(self) -> float:
        """Takes the next free start; returns the seconds until then."""
        with self._lock:
            now = self._clock()
            start = max(now, self._next)
            self._next = start + self._spacing
            return start - now


def pause_seconds(failures: int, jitter: float, asked: float | None = None) -> float:
    """The pause before the next try.

    Args:
        failures: tries that failed so far, at least 1.
        jitter: in [0, 1); spreads clients that failed together over half of the pause.
        asked: seconds that the server asked for; they are waited in full, up to two minutes.
    """
    if asked is not None:
        return min(max(asked, 0.0), _LONGEST_ASKED)
    return float(min(_FIRST_PAUSE * 2 ** min(failures - 1, 10), _LONGEST_PAUSE) * (0.5 + jitter / 2))


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds that a ``Retry-After`` header asks for (RFC 9110, 10.2.3: seconds or a date), or None.

    Args:
        headers: of the response.
        now: seconds since the epoch.
    """
    value = headers.get("retry-after", "").strip()
    try:
        return float(value) if value.replace(".", "", 1).isdecimal() else parsedate_to_datetime(value).timestamp() - now
    except ValueError:
        return None
