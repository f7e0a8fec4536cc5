"""Who can see the pages, whatever a browser is made to send."""

from __future__ import annotations

import re
import sqlite3
from typing import TYPE_CHECKING, Any

import pytest

from agentpipe.cli import main
from agentpipe.connections.url import is_loopback
from agentpipe.errors import ConfigError
from agentpipe.settings import Settings
from agentpipe.web.access import WebAccess
from agentpipe.web.app import application
from agentpipe.web.server import LEAST_TOKEN, Place, access_of, refuse_open
from tests.web_client import BEARER, TOKEN, ask

if TYPE_CHECKING:
    from pathlib import Path

    from starlette.types import ASGIApp

HOST = {"host": "127.0.0.1:9809"}


def site(tmp_path: Path, access: WebAccess) -> ASGIApp:
    settings = Settings.from_env(
        {
            "AGENTPIPE_BROKER": f"sqlite:///{tmp_path}/broker.db",
            "AGENTPIPE_SINK": f"sqlite:///{tmp_path}/results.db",
        }
    )
    return application(settings, access)


@pytest.fixture
def app(tmp_path: Path) -> ASGIApp:
    return site(tmp_path, WebAccess(9809, TOKEN, hosts=frozenset({"fleet.example"})))


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "GETX"])
@pytest.mark.parametrize("path", ["/", "/runs", "/static/style.css", "/nowhere"])
def test_no_method_changes_anything(app: ASGIApp, method: str, path: str) -> None:
    answer = ask(app, path, method=method)
    assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")


def test_head_is_answered(app: ASGIApp) -> None:
    assert ask(app, "/runs", method="HEAD").status == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:9809",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "",
        "127.0.0.1@evil.example:9809",
        "[::1",
        "fleet.example.evil.example",
        "a b",
        "evil.example@127.0.0.1",
        "127.0.0.1/evil.example",
        "127.0.0.1:9809#evil.example",
        "localhost?evil.example",
        "evil.example\\@localhost",
        "127.0.0.1:port",
    ],
)
def test_a_name_that_was_bound_to_this_machine_is_refused(app: ASGIApp, host: str) -> None:
    """DNS rebinding: the browser believes that it talks to the attacker's own site."""
    for path in ("/", "/static/style.css", f"/?token={TOKEN}"):
        assert ask(app, path, {**BEARER, "host": host}).status == 403


@pytest.mark.parametrize(
    "host", ["localhost:1", "127.0.0.1", "[::1]:9809", "10.0.0.7:80", "FLEET.example"]
)
def test_its_own_names_and_addresses_are_let_in(app: ASGIApp, host: str) -> None:
    assert ask(app, "/runs", {**BEARER, "host": host}).status == 200


@pytest.mark.parametrize(
    "foreign",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:8000"},
        {"origin": "http://127.0.0.1:9809.evil.example"},
        {"origin": "http://127.0.0.1:9809@evil.example"},
        {"origin": "http://["},
        {"origin": ""},
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "cors"},
        {"sec-fetch-site": "same-site", "sec-fetch-mode": "no-cors"},
    ],
)
def test_scripts_of_other_sites_are_refused(app: ASGIApp, foreign: dict[str, str]) -> None:
    assert ask(app, "/events", {**BEARER, **foreign}).status == 403


def test_requests_of_its_own_pages_pass(app: ASGIApp) -> None:
    own = {"origin": "http://127.0.0.1:9809", "sec-fetch-site": "same-origin"}
    assert ask(app, "/runs", {**BEARER, **own}).status == 200


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"authorization": "Bearer wrong"},
        {"authorization": f"Basic {TOKEN}"},
        {"cookie": "agentpipe-9809="},
        {"cookie": f"agentpipe-9809={TOKEN}"},
        {"x-forwarded-user": "somebody"},
    ],
)
def test_without_the_token_nothing_is_shown(app: ASGIApp, wrong: dict[str, str]) -> None:
    for path in ("/", "/runs", "/run?name=v1", "/task?id=x", "/raw?id=x", "/events", "/nowhere"):
        answer = ask(app, path, {**HOST, **wrong})
        assert answer.status == 401
        assert "agentpipe web printed" in answer.text
        assert "results.db" not in answer.text.split("<main", 1)[1].split("</main", 1)[0]


def test_the_token_of_the_address_becomes_a_cookie_and_leaves_the_address(app: ASGIApp) -> None:
    answer = ask(app, f"/task?id=a%2Fb&token={TOKEN}", HOST)
    assert answer.status == 200
    assert TOKEN not in answer.text
    assert 'content="0; url=/task?id=a%2Fb"' in answer.text
    assert 'rel="icon" href="/static/icon.svg"' in answer.text, "or browsers ask for a favicon"
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "samesite=strict" in cookie.lower()
    assert TOKEN not in cookie
    assert ask(app, "/runs", {**HOST, "cookie": cookie.partition(";")[0]}).status == 200


@pytest.mark.parametrize("path", ["//evil.example/x", "/\\evil.example", "///evil.example"])
def test_the_way_in_leads_to_no_other_site(app: ASGIApp, path: str) -> None:
    text = ask(app, f"{path}?token={TOKEN}", HOST).text
    assert "url=/evil.example" in text


def test_every_answer_forbids_inline_script_and_frames(app: ASGIApp) -> None:
    for path in ("/", "/runs", "/nowhere", "/static/pages.js", "/raw?id=x"):
        for headers in (BEARER, HOST, {"host": "evil.example"}):
            fields = ask(app, path, headers).headers
            policy = fields["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            assert fields["x-content-type-options"] == "nosniff"
            assert fields["x-frame-options"] == "DENY"
            assert fields["referrer-policy"] == "no-referrer"


def test_pages_have_no_inline_script_or_style(app: ASGIApp) -> None:
    for path in ("/", "/runs", "/nowhere"):
        text = ask(app, path).text
        assert "<style" not in text
        assert " style=" not in text
        assert "<script>" not in text
        assert "http://" not in text.replace("http://127.0.0.1", "")


def test_a_proxy_vouches_for_its_users(tmp_path: Path) -> None:
    app = site(tmp_path, access_of(Place("0.0.0.0", 9809, header="X-Forwarded-User"), 9809))
    named = {**HOST, "x-forwarded-user": "ada"}
    assert ask(app, "/runs", named).status == 200
    assert ask(app, "/runs", {**HOST, "x-forwarded-user": " "}).status == 401
    assert ask(app, "/runs", {**named, "host": "evil.example"}).status == 403
    assert ask(app, "/?token=", HOST).status == 401


def test_a_server_for_others_wants_a_token_or_a_proxy() -> None:
    for host in ("0.0.0.0", "::", "192.168.1.7", "fleet.example"):
        with pytest.raises(ConfigError, match="--trust-header"):
            refuse_open(Place(host, 1))
        refuse_open(Place(host, 1, token="x" * LEAST_TOKEN))
        refuse_open(Place(host, 1, header="x-user"))
    with pytest.raises(ConfigError, match="at least 16"):
        refuse_open(Place("127.0.0.1", 1, token="short"))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"header": "a b"}, "'a b': not the name of a header"),
        ({"header": "x-user:"}, "not the name of a header"),
        ({"header": "x-üser"}, "not the name of a header"),
        ({"header": "x\r\ny"}, "not the name of a header"),
        ({"header": "Cookie"}, "every browser sends it"),
        ({"header": "user-agent"}, "every browser sends it"),
        ({"header": "Sec-Fetch-Site"}, "every browser sends it"),
        ({"hosts": ("fleet.example", "a b")}, "'a b': give a name alone"),
        ({"hosts": ("fleet.example:443",)}, "without a port"),
        ({"hosts": ("https://fleet.example",)}, "give a name alone"),
    ],
)
def test_names_that_no_request_has_or_each_one_are_refused(
    given: dict[str, Any], said: str
) -> None:
    """They would admit nobody, or everybody."""
    with pytest.raises(ConfigError, match=re.escape(said)):
        refuse_open(Place("127.0.0.1", 1, **given))


def test_the_token_of_an_empty_file_is_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Otherwise a random token would replace it, which nobody knows."""
    file = tmp_path / "token"
    file.write_text(" \n")
    assert main(["web", "--port", "0", "--token-file", str(file)]) == 2
    assert capsys.readouterr().err == f"--token-file {file}: it is empty: write the token into it\n"


def test_loopback_gets_a_random_token() -> None:
    assert is_loopback("127.0.0.1")
    assert is_loopback("localhost")
    tokens = {access_of(Place("127.0.0.1", 1), 1).token for _ in range(9)}
    assert len(tokens) == 9
    assert min(map(len, tokens)) >= 32


def test_a_token_is_in_no_representation() -> None:
    assert TOKEN not in repr(WebAccess(1, TOKEN))


def test_absent_files_are_said_and_not_made(app: ASGIApp, tmp_path: Path) -> None:
    assert ask(app, "/runs").status == 200
    assert "no file" in ask(app, "/task?id=x").text or ask(app, "/task?id=x").status == 404
    assert ask(app, "/run?name=v1").status in (404, 503)
    assert list(tmp_path.iterdir()) == []


def test_passwords_of_addresses_are_masked(tmp_path: Path) -> None:
    settings = Settings.from_env(
        {
            "AGENTPIPE_BROKER": "redis://:hunter2-secret@127.0.0.1:1/0",
            "AGENTPIPE_SINK": f"sqlite:///{tmp_path}/results.db",
        }
    )
    app = application(settings, WebAccess(9809, TOKEN))
    for path in ("/", "/runs", "/nowhere", "/task?id=x"):
        assert "hunter2" not in ask(app, path).text


def test_files_of_other_programs_are_a_sentence(app: ASGIApp, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "results.db") as db:
        db.execute("CREATE TABLE strange (x)")
    db.close()
    answer = ask(app, "/task?id=x")
    assert answer.status in (404, 503)
    assert "Traceback" not in answer.text
