"""What stands before gradio: it lets in what the page needs and nothing else, and says so in plain words.

Gradio serves far more than a page uses: uploads, files of the machine, proxies, run histories, documentation. Paths
that the page does not ask for do not exist here; requests are small, of plain values, and from this page; answers may
load nothing from elsewhere.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from dmgan_fast.files import parse_json

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_log = logging.getLogger("dmgan_fast.web")
BODY = 64 * 1024  # bytes of a request; the longest that is answered in plain words has some 5,000 words
JOIN, CANCEL = "/gradio_api/queue/join", "/gradio_api/cancel"
PAGE = ("/", "/config", "/theme.css", "/gradio_api/theme.css", "/gradio_api/startup-events", "/favicon.ico")
FILES = re.compile(r"/(assets|static/(fonts|img|js))/[\w.@/ -]+")
EVENTS = re.compile(r"/gradio_api/(queue/data|heartbeat/[\w-]{1,64})")
SESSION = re.compile(r"session_hash=[\w-]{1,64}")
HEADERS = {
    "content-security-policy": "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; "
    "object-src 'none'; base-uri 'self'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}


class Refusal(Exception):
    """A status, and what to say."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


class Guard:
    """An ASGI application around another one.

    Args:
        app: gradio's.
        calls: functions that may be asked for, and how many values each takes.
        hosts: names by which the server is called; None: any.
    """

    def __init__(self, app: Any, calls: Mapping[int, int], hosts: frozenset[str] | None = None) -> None:
        self.app, self.calls, self.hosts = app, calls, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":
            return await send({"type": "websocket.close", "code": 1008})
        reply = _Reply(send)
        try:
            await self._pass_on(scope, receive, reply)
        except Refusal as refusal:
            await reply.plain(refusal.status, refusal.message)
        except Exception as error:
            if reply.begun:  # as gradio does for events of a session that it does not know; the connection closes
                return _log.warning("an answer to %s broke off: %s", scope["path"], error)
            await reply.plain(500, "The server could not answer. Its log says why.")
            raise

    async def _pass_on(self, scope: Scope, receive: Receive, reply: _Reply) -> None:
        method, path = scope["method"], scope["path"]
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        host = headers.get("host", "")
        if self.hosts is not None and _name(host) not in self.hosts:
            raise Refusal(421, "This server answers only on the machine that it runs on.")
        if method in ("GET", "HEAD") and (path in PAGE or (FILES.fullmatch(path) and ".." not in path)):
            scope = {**scope, "query_string": b""}
        elif method == "GET" and EVENTS.fullmatch(path):
            query = scope["query_string"].decode("latin-1")
            if query and not SESSION.fullmatch(query):
                raise Refusal(400, "This request is not one that the page sends.")
        elif method == "POST" and path in (JOIN, CANCEL):
            if "origin" in headers and urlsplit(headers["origin"]).netloc != host:
                raise Refusal(403, "Requests come from this page only.")
            if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
                raise Refusal(415, "This request is not one that the page sends.")  # forms of other pages can't send it
            body = await _body(receive)
            _check(body, self.calls if path == JOIN else None)
            receive = _again(body, receive)
            scope = {**scope, "query_string": b""}
        else:
            raise Refusal(404, "There is nothing here.")
        await self.app(scope, receive, reply)


class _Reply:
    """``send`` with headers of our own; knows whether an answer has begun."""

    def __init__(self, send: Send) -> None:
        self.send, self.begun = send, False

    async def __call__(self, message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.begun = True
            kept = [(name, value) for name, value in message["headers"] if name.lower().decode() not in HEADERS]
            ours = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
            message = {**message, "headers": [*kept, *ours]}
        await self.send(message)

    async def plain(self, status: int, message: str) -> None:
        """A message as JSON, in the words that gradio's page shows."""
        body = json.dumps({"detail": message}).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await self({"type": "http.response.start", "status": status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})


async def _body(receive: Receive) -> bytes:
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Refusal(400, "The request ended early.")
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > BODY:
            raise Refusal(413, "The request is too large. Write a shorter caption.")
        if not message.get("more_body"):
            return b"".join(parts)


def _check(body: bytes, calls: Mapping[int, int] | None) -> None:
    """Only what the page itself sends passes: plain values, as many as a function takes."""
    odd = Refusal(400, "This request is not one that the page sends.")
    try:
        given = parse_json(body)
    except ValueError:
        raise odd from None
    if not isinstance(given, dict) or not _is_id(given.get("session_hash")):
        raise odd
    number = given.get("fn_index")
    if not isinstance(number, int) or isinstance(number, bool):
        raise odd
    if calls is None:
        if not _is_id(given.get("event_id")):
            raise odd
        return
    data = given.get("data")
    if number not in calls or not isinstance(data, list) or len(data) != calls[number]:
        raise odd
    if not all(value is None or isinstance(value, (str, int, float)) for value in data):
        raise odd
    if given.get("event_data") is not None or not isinstance(given.get("trigger_id"), (int, type(None))):
        raise odd
    if set(given) - {"session_hash", "fn_index", "data", "event_data", "trigger_id"}:
        raise odd


def _is_id(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[\w-]{1,64}", value) is not None


def _name(host: str) -> str:
    """``localhost:7860`` → ``localhost``; ``[::1]:7860`` → ``[::1]``."""
    return re.sub(r":\d*$", "", host).lower()


def _again(body: bytes, receive: Receive) -> Receive:
    """``receive`` that gives the body that was read, then reads on."""
    given = False

    async def next_message() -> MutableMapping[str, Any]:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return next_message
