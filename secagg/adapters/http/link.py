"""A node's line to its server: TLS, a token, and no more bytes than were asked for."""

import http.client
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from secagg.errors import InputError, NodeError
from secagg.files import read_file

TOKEN_FILE_SIZE: Final = 256  # bytes
TIMEOUT: Final = 60.0  # seconds without a byte; the server answers every 20
_LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")


class Link:
    """One connection to the server, made anew when it breaks. Follows nothing, unpacks nothing."""

    def __init__(self, url: str, home: Path) -> None:
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError:
            parts, host, port = urlsplit(""), None, None
        if parts.scheme not in ("http", "https") or not host or parts.query or parts.username:
            raise InputError(f"{url!r:.80} is no address of a server: https://HOST:PORT")
        if parts.scheme == "http" and host not in _LOOPBACK:
            raise InputError(f"{url!r:.80} would send the token in clear: use https")
        token = read_file(home / "token", TOKEN_FILE_SIZE, private=True).decode("ascii", "replace")
        if not token.strip().isalnum():
            raise InputError(f"{home / 'token'} holds no token: put there what the operator gave")
        self._headers = {"Authorization": f"Bearer {token.strip()}"}
        self._path = parts.path.rstrip("/")
        if parts.scheme == "http":
            self._wire = http.client.HTTPConnection(host, port, timeout=TIMEOUT)
        else:
            self._wire = http.client.HTTPSConnection(
                host, port, timeout=TIMEOUT, context=_trust(home)
            )

    def call(
        self, method: str, path: str, most: int, body: Sequence[bytes] = ()
    ) -> tuple[int, bytes]:
        """The status and the body of what the server answers.

        Raises:
          ConnectionError: there is no server, or the line broke.
          NodeError: the answer is longer than ``most``, or packed.
        """
        used = self._wire.sock is not None
        try:
            return self._call(method, path, most, body)
        except ConnectionError:
            if not used:
                raise
            # A server, or what stands between, closes lines that were not used for a while. Every
            # call may be made twice: a task is handed out again, and taken once.
            return self._call(method, path, most, body)

    def _call(self, method: str, path: str, most: int, body: Sequence[bytes]) -> tuple[int, bytes]:
        headers = dict(self._headers)
        if method == "POST":
            headers["Content-Type"] = "application/octet-stream"
            headers["Content-Length"] = str(sum(map(len, body)))
        try:
            content = iter(body) if method == "POST" else None
            self._wire.request(method, self._path + path, content, headers)
            with self._wire.getresponse() as answer:
                if answer.getheader("Content-Encoding"):
                    raise NodeError("the server's answer is packed, which none of ours is")
                data = answer.read(most + 1)
                if len(data) > most:
                    raise NodeError(f"the server's answer has more than {most} bytes")
                if (length := answer.length) is not None and length > 0:
                    raise ConnectionError("the line broke in an answer")
                return answer.status, data
        except (http.client.HTTPException, OSError) as error:
            self.close()
            if isinstance(error, ssl.SSLCertVerificationError):
                raise InputError(
                    f"the server's certificate is not to be trusted: {error.verify_message}; "
                    "put the certificate of who signed it into ca.pem"
                ) from None
            raise ConnectionError(str(error) or type(error).__name__) from None
        except NodeError:
            self.close()
            raise

    def close(self) -> None:
        self._wire.close()


def _trust(home: Path) -> ssl.SSLContext:
    own, mine = home / "ca.pem", home / "client.pem"
    try:
        context = ssl.create_default_context(cafile=str(own) if own.exists() else None)
        if mine.exists():
            context.load_cert_chain(mine, home / "client.key")
    except (OSError, ssl.SSLError) as error:
        raise InputError(f"a certificate or key in {home} cannot be used: {error}") from None
    return context
