"""What the page's server refuses, and what every answer says to the browser."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from inrflow_core.viewer import guard
from inrflow_core.viewer.guard import Guard, new_token, own_address

OWN = {"host": "127.0.0.1:8420"}


def client(host: str = "127.0.0.1", token: str | None = None) -> TestClient:
    routes = [
        Route("/", lambda request: PlainTextResponse("page")),
        Route("/api/x", lambda request: PlainTextResponse("x")),
    ]
    return TestClient(Guard(Starlette(routes=routes), host=host, token=token), base_url="http://127.0.0.1:8420")


async def status_of(app: Any, path: str) -> int:
    """The status of the answer to a path as it is."""
    statuses: list[int] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    scope = {
        **{"type": "http", "method": "GET", "path": path, "raw_path": path.encode(), "http_version": "1.1"},
        **{"query_string": b"", "headers": [(b"host", b"localhost")], "scheme": "http", "root_path": ""},
    }
    await app(scope, receive, send)
    return statuses[0]


@pytest.mark.parametrize("host", ["127.0.0.1:8420", "localhost:9000", "LOCALHOST", "[::1]:8420"])
def test_this_machine_s_own_names_pass(host: str):
    assert client().get("/api/x", headers={"host": host}).text == "x"


@pytest.mark.parametrize(
    "host", ["evil.example:8420", "127.0.0.1.evil.example", "192.168.0.9", "", "[::1", "localhost.evil"]
)
def test_another_host_is_refused(host: str):
    response = client().get("/api/x", headers={"host": host})
    assert response.status_code == 403
    assert "is refused" in response.json()["error"]


def test_a_server_on_every_interface_answers_addresses_and_no_foreign_names():
    assert client("0.0.0.0").get("/api/x", headers={"host": "192.168.0.9:8420"}).status_code == 200
    assert client("0.0.0.0").get("/api/x", headers={"host": "evil.example"}).status_code == 403
    assert client("node7").get("/api/x", headers={"host": "node7:8420"}).status_code == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:9999", "http://localhost:8420"])
def test_another_origin_is_refused(origin: str):
    assert client().get("/api/x", headers={**OWN, "origin": origin}).status_code == 403


def test_the_own_origin_passes():
    assert client().get("/api/x", headers={**OWN, "origin": "http://127.0.0.1:8420"}).status_code == 200


@pytest.mark.parametrize("origin", ["http://[", "http://[::1", "//", ""])
def test_an_origin_without_an_address_is_refused(origin: str):
    assert client().get("/api/x", headers={**OWN, "origin": origin}).status_code == 403


def test_a_server_on_every_interface_answers_this_machine_s_own_name(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(guard.socket, "gethostname", lambda: "Node7")
    monkeypatch.setattr(guard.socket, "getfqdn", lambda: "node7.cluster.example")
    for name, status in [("node7:8420", 200), ("node7.cluster.example", 200), ("node8", 403), ("", 403)]:
        assert client("0.0.0.0").get("/api/x", headers={"host": name}).status_code == status, name
    assert client().get("/api/x", headers={"host": "node7:8420"}).status_code == 403


@pytest.mark.parametrize("token", [None, "secret"])
@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_another_page_may_link_here_and_no_more(site: str, token: str | None):
    asks = {**OWN, "sec-fetch-site": site, "sec-fetch-mode": "no-cors", "sec-fetch-dest": "image"}
    head = "" if token is None else f"/{token}"
    assert client(token=token).get(f"{head}/api/x", headers=asks).status_code == 403
    visits = {**OWN, "sec-fetch-site": site, "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    assert client(token=token).get(f"{head}/", headers=visits).status_code == 200
    assert client(token=token).get(f"{head}/api/x", headers=visits).status_code == 403, "a link may not sample"
    frames = {**visits, "sec-fetch-dest": "iframe"}
    assert client(token=token).get(f"{head}/", headers=frames).status_code == 403


def test_the_address_needs_the_token():
    token = new_token()
    guarded = client(token=token)
    for path in ("/", "/api/x", f"/{token[:-1]}/", f"/{token}x/api/x"):
        response = guarded.get(path)
        assert response.status_code == 403, path
        assert response.json()["error"] == "the address lacks the token"
    for path in ("//", f"//{token}/", f"/./{token}/", f"/x/../{token}/", "", token):  # httpx would send others
        assert asyncio.run(status_of(guarded.app, path)) == 403, path
    assert asyncio.run(status_of(guarded.app, f"/{token}/")) == 200
    assert guarded.get(f"/{token}/").text == "page"
    assert guarded.get(f"/{token}/api/x").text == "x"
    assert len(token) >= 20 and new_token() != token


def test_every_answer_forbids_what_is_not_this_server_s():
    for response in (client().get("/"), client().get("/", headers={"host": "evil"}), client().get("/none")):
        policy = response.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy and "http" not in policy
        assert response.headers["cross-origin-resource-policy"] == "same-origin"
        assert "access-control-allow-origin" not in response.headers


def test_an_address_can_be_opened():
    assert own_address("127.0.0.1", 8420, "abc") == "http://127.0.0.1:8420/abc/"
    assert own_address("0.0.0.0", 8, None) == "http://127.0.0.1:8/"
    assert own_address("::1", 8, None) == "http://[::1]:8/"
