"""TLS on the gateway's port: one certificate, reloaded in place when its files change.

The boundary: files in, an `ssl.SSLContext` out. Connections that are open keep the certificate they began with; the
next handshake has the new one. A pair that does not load, because it is half written say, changes nothing.
"""

from __future__ import annotations

import logging
import ssl
from pathlib import Path

log = logging.getLogger("trimtab.gateway")


class Certificate:
    """A certificate chain and its key, both PEM, as files that somebody renews.

    Raises OSError, naming the files and the fix, when they do not load at first.
    """

    def __init__(self, chain: Path, key: Path) -> None:
        self._chain, self._key = chain, key
        self._seen = self._status()
        self.context = _load(chain, key)

    def refresh(self, force: bool = False) -> bool:
        """Load the files again if they changed, or if `force`; True when there is a new certificate."""
        try:
            seen = self._status()
            if seen == self._seen and not force:
                return False
            self._seen = seen
            _load(self._chain, self._key)  # into a context of its own first: a failure would spoil the one in use
            self.context.load_cert_chain(self._chain, self._key)
        except OSError as error:
            log.error("the TLS certificate was not reloaded, the one before it stays: %s", error)
            return False
        log.info("the TLS certificate was reloaded")
        return True

    def _status(self) -> tuple[int, ...]:
        found = [path.stat() for path in (self._chain, self._key) if path.exists()]
        return tuple(number for status in found for number in (status.st_mtime_ns, status.st_ino, status.st_size))


def _load(chain: Path, key: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    for name, path in (("--tls-cert", chain), ("--tls-key", key)):
        if not path.is_file():
            raise OSError(f"{name} {path} is not there; give the path of a PEM file")
    try:
        context.load_cert_chain(chain, key, password=_no_password)
    except (ssl.SSLError, ValueError) as error:
        raise OSError(
            f"--tls-cert {chain} and --tls-key {key} are not a PEM certificate chain and its key, without a password: "
            f"{getattr(error, 'reason', None) or error}; give files that belong together"
        ) from error
    return context


def _no_password() -> str:
    """Without this OpenSSL would ask for the password of an encrypted key on the terminal."""
    raise ValueError("the key has a password")
