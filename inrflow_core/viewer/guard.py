"""What a page's server refuses: other hosts' names, other origins, addresses without the token.

Without these checks any page in the user's browser could make this server sample, and one whose name was made to lead
here could read the result.
"""

from __future__ import annotations

import ipaddress
import secrets
import socket
from collections.abc import Collection
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
WILDCARDS = ("0.0.0.0", "::", "")
"""Addresses that listen on every interface."""
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' blob: data:; connect-src 'self' "
    "blob: data:; worker-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Nothing but this server's own files, and what the page itself makes of them."""
HEADERS = {
    "content-security-policy": POLICY,
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
}


def new_token() -> str:
    """A token that cannot be guessed, for an address."""
    return secrets.token_urlsafe(16)


def own_names() -> set[str]:
    """The names under which this machine knows itself, the short one and the full one."""
    return {name.lower() for name in (socket.gethostname(), socket.getfqdn()) if name}


class Guard:
    """Pass on what the user's own page requests; the token, if there is one, is the first part of the path."""

    def __init__(self, app: ASGIApp, *, host: str = "127.0.0.1", token: str | None = None) -> None:
        self.app, self.token = app, token
        self.allows_addresses = host in WILDCARDS
        """Of a server on every interface any address without a name: a foreign page's host is a name."""
        self.names: Collection[str] = LOOPBACK | ({host.lower()} if host not in WILDCARDS else own_names())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 403 with a reason, or pass the request on without the token in its path."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        problem = self._problem(scope, Headers(scope=scope))
        if problem is not None:
            body = {"error": problem[0], "hint": problem[1]}
            await JSONResponse(body, 403)(scope, receive, send_with_headers)
            return
        if self.token is not None:
            scope = {**scope, "root_path": scope.get("root_path", "") + f"/{self.token}"}
        await self.app(scope, receive, send_with_headers)

    def _problem(self, scope: Scope, headers: Headers) -> tuple[str, str] | None:
        """What is refused, and what to do; None for what passes."""
        host = headers.get("host", "")
        if not self._is_own_name(_name(host)):
            return f"the host `{host[:100]}` is refused", "open the address that `inrflow view` printed"
        origin = headers.get("origin")
        if origin is not None and _netloc(origin) != host.lower():
            return f"the origin `{origin[:100]}` is refused", "this server answers its own page alone"
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin") and not self._is_visit(scope, headers):
            return "another page's request is refused", "this server answers its own page alone"
        if self.token is not None and not self._has_token(scope["path"]):
            return "the address lacks the token", "open the address that `inrflow view` printed"
        return None

    def _is_visit(self, scope: Scope, headers: Headers) -> bool:
        """Whether a link leads here: to the page itself, for any other address may sample."""
        is_index = scope["path"] == ("/" if self.token is None else f"/{self.token}/")
        return is_index and (headers.get("sec-fetch-mode"), headers.get("sec-fetch-dest")) == ("navigate", "document")

    def _is_own_name(self, name: str) -> bool:
        return name in self.names or (self.allows_addresses and _is_address(name))

    def _has_token(self, path: str) -> bool:
        first = path.split("/")[1] if path.startswith("/") else ""
        return secrets.compare_digest(first.encode(), str(self.token).encode())


def _name(host: str) -> str:
    """The name in a Host header, without port and brackets; empty if there is none."""
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""


def _netloc(origin: str) -> str | None:
    """Host and port of an origin, in lower case; None without one."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return None


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def own_address(host: str, port: int, token: str | None) -> str:
    """The address of a page to open on this machine."""
    name: Any = "127.0.0.1" if host in WILDCARDS else host
    name = f"[{name}]" if ":" in name else name
    return f"http://{name}:{port}/" + (f"{token}/" if token is not None else "")
