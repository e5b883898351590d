"""Messages to chats and webhooks through apprise, one thread a channel.

Rules of this file: an address holds passwords: it is never printed, logged or stored, only its
scheme and a digest of it are; a message is tried once here, the outbox decides what follows.
"""

from __future__ import annotations

import hashlib
import logging
import warnings
from concurrent.futures import Future, ThreadPoolExecutor

import apprise

# What apprise says of a failed try names hosts and paths; our own line says enough.
logging.getLogger("apprise").setLevel(logging.CRITICAL)


class ChannelError(Exception):
    """An address is none; the message says which, without it."""


class Channel:
    """One address. Sending happens in a thread, so that a slow one holds up nothing.

    url : of apprise, such as json://host/path, slack://... or mailto://...
    """

    def __init__(self, url: str) -> None:
        scheme = url.partition(":")[0] if "://" in url else "?"
        self.key = hashlib.sha256(url.encode()).hexdigest()[:16]
        self.name = f"{scheme}:{self.key[:6]}"
        self._apprise = apprise.Apprise()
        # The first address makes apprise load all its plugins, some of which load old modules.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            known = self._apprise.add(url)
        if not known:
            raise ChannelError(
                f"{scheme}://..: expected an address that apprise knows, such as json://host/path"
                " or slack://.., found another or one with parts missing"
            )
        self._threads = ThreadPoolExecutor(1, thread_name_prefix=self.name)
        self._sending: Future[bool] | None = None

    def send(self, title: str, body: str, *, urgent: bool) -> None:
        """Start to send; `result` tells how it went."""
        kind = apprise.NotifyType.WARNING if urgent else apprise.NotifyType.INFO
        self._sending = self._threads.submit(self._notify, title, body, kind)

    def result(self) -> bool | None:
        """Return, once, whether it was taken; None while it is under way, or when nothing is."""
        if self._sending is None or not self._sending.done():
            return None
        ok = self._sending.result()
        self._sending = None
        return ok

    def close(self) -> None:
        """Give up what has not begun; apprise's own timeouts end what has."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _notify(self, title: str, body: str, kind: apprise.NotifyType) -> bool:
        try:
            return bool(
                self._apprise.notify(
                    body,
                    title,
                    kind,
                    body_format=apprise.NotifyFormat.TEXT,
                    interpret_escapes=False,
                )
            )
        except Exception:  # a plugin may raise anything; the outbox counts it
            return False
