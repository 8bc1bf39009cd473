"""A server that answers chats over HTTP, with all that can go wrong on the way: the transport of the captioner `api`.

What passes is tried again after a while that doubles each time; what does not pass is told at once. The key is sent to this server alone,
to no other by a redirect, and stands in no message.
"""

from __future__ import annotations

import datetime
import email.utils
import http.client
import ipaddress
import json
import random
import socket
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from typing import Any

from tracekit import __version__
from tracekit.backends.captioning.bounded_http import BoundedHTTP, BoundedHTTPS
from tracekit.errors import ResumableError, TracekitError, UnavailableError, UsageError
from tracekit.extract.caption import clean

MOST_BYTES = 8 << 20
"""Longest answer that is read."""
LONGEST_WAIT = 60.0
"""Seconds between two tries, unless the server asks for more."""
LONGEST_ASKED_WAIT = 300.0
"""Seconds that a server may have us wait (Retry-After); asked for more, we stop."""
LEAST_SECRET = 16
"""Characters of a key below which it is no secret but a word, like those that servers of one's own are given; answers may say it."""
_PASSING = {408, 409, 425, 429, 500, 502, 503, 504, 529}
_HELD_BACK = {"content_filter", "content_policy_violation"}
"""Codes of Azure's and of OpenAI's own filters: about these pictures or words alone, the next event may pass."""
_LOCAL_ENDINGS = (".localhost", ".local", ".lan", ".internal", ".home.arpa")


class Rejected(Exception):
    """The server does not take the request in this form (HTTP 400 or 422)."""


class TooLarge(ValueError):
    """The server takes no request of this size (HTTP 413): its form is not what is wrong, and a smaller one may pass."""

    def __init__(self, num_bytes: int, said: str) -> None:
        super().__init__(f"a request of {num_bytes / 1e6:.2f} MB is too large (413{': ' if said else ''}{said})")


class _Passing(Exception):
    """Something that may go better the next time."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        """`wait` is how many seconds the server asks for, if it does."""
        super().__init__(reason)
        self.reason = reason
        self.wait = wait


class ChatServer:
    """`post` may be called from several threads."""

    def __init__(self, url: str, key: str, *, timeout: float, tries: int, patience: float = 600.0, first_wait: float = 1.0) -> None:
        """`url` is checked by `check_url`; an empty `key` is not sent. No request is waited for longer than `timeout` seconds, and no answer
        longer than `patience`, all tries together. Waits begin at `first_wait` seconds."""
        self.url = url
        self._key = key
        self._timeout = timeout
        self._tries = tries
        self._patience = patience
        self._first_wait = first_wait
        # A server on this network is not reached by way of a proxy; others are where the environment says so.
        proxies = urllib.request.ProxyHandler({}) if is_local(url) else urllib.request.ProxyHandler()
        self._opener = urllib.request.build_opener(proxies, _NoRedirects(), BoundedHTTP(), BoundedHTTPS())

    def post(self, content: Mapping[str, Any]) -> Any:
        """What the server answers, as JSON.

        Raises Rejected when the request has a form that it does not take, TooLarge, ValueError when the answer is no JSON or too long, or
        held back by a filter, UnavailableError when asking again would not help, ResumableError when it was asked often enough in vain.
        """
        body = json.dumps(content).encode()
        began = time.monotonic()
        for attempt in range(self._tries):
            try:
                return self._try(body)
            except _Passing as passing:
                reason, asked = passing.reason, passing.wait
            if asked is not None and asked > LONGEST_ASKED_WAIT:
                raise self._given_up(f"{reason}; it asks to be left alone for {asked:.0f} seconds")
            # A random share, so that those who were turned away together do not come back together.
            doubled = min(LONGEST_WAIT, self._first_wait * 2**attempt) * random.uniform(0.75, 1.25)
            wait = max(doubled, asked or 0.0)
            if attempt + 1 == self._tries or time.monotonic() + wait > began + self._patience:
                raise self._given_up(f"{reason} ({attempt + 1} tries)")
            time.sleep(wait)
        raise AssertionError

    def _try(self, body: bytes) -> Any:
        headers = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": f"tracekit/{__version__}"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        try:
            with self._opener.open(urllib.request.Request(self.url, body, headers), timeout=self._timeout) as response:
                answer = self._withheld(_read(response))
        except urllib.error.HTTPError as error:
            with error:
                self._refused(error, len(body))
        except urllib.error.URLError as error:
            self._unreached(error.reason)
        except (OSError, http.client.HTTPException) as error:
            self._unreached(error)
        if len(answer) > MOST_BYTES:
            raise ValueError(f"the server's answer is longer than {MOST_BYTES >> 20} MiB")
        try:
            return json.loads(answer)
        except (ValueError, RecursionError):
            raise ValueError(f"the server's answer is no JSON: {self._shown(_decoded(answer))}") from None

    def _refused(self, error: urllib.error.HTTPError, num_bytes: int) -> None:
        """Raise what an HTTP status other than success means, after a request of so many bytes."""
        try:
            answer = self._withheld(_read(error)[:MOST_BYTES])
        except (OSError, http.client.HTTPException):
            answer = b""
        message = self._message(answer)
        said = f"{self.url} answers {error.code}" + (f": {message}" if message else "")
        if error.code in (301, 302, 303, 307, 308):
            target = clean(self._without_key(error.headers.get("Location", "nowhere")), 200)
            raise UnavailableError(
                f"{self.url} sends us on to {target}; redirects are not followed", hint="if you trust it, give it as --api-url"
            )
        if error.code == 429 and b"insufficient_quota" in answer:
            raise UnavailableError(said, hint="the account has no credit left: see the bills of the server's owner")
        if error.code in _PASSING:
            raise _Passing(said, _seconds(error.headers.get("Retry-After")))
        if error.code == 400 and _holds_back(answer):
            raise ValueError(f"the server will not look at it: {message}")
        if error.code == 413:
            raise TooLarge(num_bytes, message)
        if error.code in (400, 422):
            raise Rejected(said)
        hints = {
            401: "the key is missing or wrong: set TRACEKIT_API_KEY in the environment",
            403: "the key may not use this model: see what the account allows, or take another --api-model",
            404: "no such address or model: --api-url ends in /v1 mostly, and --api-model is the server's own name",
        }
        raise UnavailableError(said, hint=hints.get(error.code, "see --api-url and --api-model"))

    def _unreached(self, reason: Any) -> None:
        """Raise what it means that no HTTP answer came."""
        if isinstance(reason, ssl.SSLCertVerificationError):
            raise UnavailableError(f"{self.url} cannot prove who it is: {reason.verify_message}", hint="see --api-url")
        if isinstance(reason, socket.gaierror) and reason.errno == socket.EAI_NONAME:
            raise UnavailableError(f"there is no server of the name in {self.url}", hint="see --api-url, and the network of this machine")
        if isinstance(reason, TimeoutError):
            raise _Passing(f"{self.url} did not answer within {self._timeout:g} seconds")
        if isinstance(reason, ConnectionRefusedError):
            raise _Passing(f"nobody listens at {self.url}")
        raise _Passing(f"the connection to {self.url} broke: {self._shown(str(reason) or type(reason).__name__)}")

    def _given_up(self, reason: str) -> TracekitError:
        return ResumableError(reason, hint="the same command goes on from here later: answers that have come are kept in --caption-cache")

    def _message(self, answer: bytes) -> str:
        """What the body of a refusal says, wherever it says it."""
        try:
            content = json.loads(answer)
        except (ValueError, RecursionError):
            return self._shown(_decoded(answer))
        error = content.get("error", content) if isinstance(content, dict) else content
        message = error.get("message", error) if isinstance(error, dict) else error
        return self._shown(message if isinstance(message, str) else json.dumps(message))

    def _shown(self, text: str) -> str:
        """What a server says, without the key and without anything that a terminal would obey."""
        return clean(self._without_key(text), 300)

    def _withheld(self, answer: bytes) -> bytes:
        """An answer without the key, should the server say it (one that shows headers for debugging): answers go into files."""
        return answer.replace(self._key.encode(), b"(key)") if len(self._key) >= LEAST_SECRET else answer

    def _without_key(self, text: str) -> str:
        return text.replace(self._key, "(key)") if self._key else text


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect is an answer like any other, and not ours to follow: it could lead the key and the pictures to anybody."""

    def redirect_request(self, *_: Any) -> None:
        return None


def check_url(url: str) -> str:
    """The address of chats under the base address `url`. Raises UsageError for one that is none or that would be no secret in a history."""
    if "@" in url:  # whether or not the rest can be made sense of
        raise UsageError("--api-url holds a name or a password", hint="keys are read from TRACEKIT_API_KEY in the environment")
    if "?" in url or "#" in url:
        raise UsageError("--api-url has something behind the path", hint="give the address up to /v1")
    try:
        parts = urllib.parse.urlsplit(url)
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
        # The opener would read "%2e" in a name as a dot, and go elsewhere than `is_local` says. Of an IPv6 address "%" begins the zone.
        is_address = is_address and ("%" not in str(parts.hostname) or ":" in str(parts.hostname))
    except ValueError:
        is_address = False
    if not is_address or not url.isascii() or any(character.isspace() or not character.isprintable() for character in url):
        raise UsageError(f"--api-url is no address of a server: {url!r}", hint="for example http://localhost:8000/v1")
    return url.rstrip("/") + "/chat/completions"


def is_local(url: str) -> bool:
    """Whether a server is on this machine or its own network, by its address alone; no name is looked up.

    That are loopback, private and link-local IP addresses, names without a dot, and names under .localhost, .local, .lan, .internal and
    .home.arpa.
    """
    host = (urllib.parse.urlsplit(url).hostname or "").rstrip(".")
    address: ipaddress.IPv4Address | ipaddress.IPv6Address
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        try:  # "0x08080808" and bare numbers are addresses, too, for those who connect
            address = ipaddress.IPv4Address(socket.inet_aton(host))
        except OSError:
            return "." not in host or host.endswith(_LOCAL_ENDINGS)
    return address.is_loopback or address.is_private or address.is_link_local


def _read(response: Any) -> bytes:
    """At most one byte more than MOST_BYTES."""
    chunks, length = [], 0
    while length <= MOST_BYTES and (chunk := response.read1(1 << 16)):
        chunks.append(chunk)
        length += len(chunk)
    expected = response.headers.get("Content-Length", "")
    if length <= MOST_BYTES and expected.isdigit() and length < int(expected):  # read1 does not tell
        raise http.client.IncompleteRead(b"", int(expected) - length)
    return b"".join(chunks)


def _decoded(answer: bytes) -> str:
    """As much of an answer as is ever shown."""
    return answer[:400].decode("utf-8", "replace")


def _holds_back(answer: bytes) -> bool:
    """Whether an error says that the request was taken for something that the server's rules forbid: its code, in OpenAI's form."""
    try:
        error = json.loads(answer)["error"]
        return error["code"] in _HELD_BACK
    except (ValueError, RecursionError, TypeError, KeyError):
        return False


def _seconds(retry_after: str | None) -> float | None:
    """Of the header Retry-After: a number, or a date."""
    if retry_after is None:
        return None
    try:
        seconds = float(retry_after)
    except ValueError:
        try:
            moment = email.utils.parsedate_to_datetime(retry_after)
        except ValueError:
            return None
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=datetime.UTC)
        seconds = (moment - datetime.datetime.now(datetime.UTC)).total_seconds()
    return max(0.0, seconds) if seconds == seconds else None
