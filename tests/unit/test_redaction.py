"""No form of a secret remains in a text; these tests are what the docs promise."""

from __future__ import annotations

import base64
import html
import json
import shlex
import textwrap
from typing import TYPE_CHECKING
from urllib.parse import quote, quote_plus

import orjson
import pytest

from agentpipe.core.redaction import Redactor, passwords_in, without_password

if TYPE_CHECKING:
    from collections.abc import Callable

SECRET = "pa/ss+Wörd\"12'34\\n!?=&<%41>"
LONG = "tok/en+Value-0123456789_abcdefghijklmnopqrstuvwxyz=="
PEM = "-----BEGIN THING-----\n{}\n-----END THING-----".format(
    "\n".join(textwrap.wrap(base64.b64encode(bytes(range(7, 190))).decode(), 64))
)


def every_character_escaped(text: str) -> str:
    return "".join(rf"\u{ord(each):04x}" for each in text)


def percent(text: str) -> str:
    return "".join(f"%{byte:02x}" for byte in text.encode())


def separated(separator: str, prefix: str = "") -> Callable[[str], str]:
    return lambda text: separator.join(f"{prefix}{byte:02x}" for byte in text.encode())


def in_lines(text: str) -> str:
    return "\r\n  ".join(textwrap.wrap(base64.b64encode(b"user:" + text.encode()).decode(), 20))


ENCODINGS: dict[str, Callable[[str], str]] = {
    "plain": str,
    "json": json.dumps,
    "json in json": lambda text: json.dumps(json.dumps({"a": json.dumps([text])})),
    "json with unicode": lambda text: json.dumps(text, ensure_ascii=False),
    "json of PHP": lambda text: json.dumps(text).replace("/", "\\/"),
    "json of Go": lambda text: json.dumps(text).replace("&", "\\u0026").replace("<", "\\u003c"),
    "json of .NET": lambda text: json.dumps(text).replace("+", "\\u002B").replace("'", "\\u0027"),
    "json in escapes": every_character_escaped,
    "json in escapes in json": lambda text: json.dumps(every_character_escaped(text)),
    "repr": repr,
    "repr of bytes": lambda text: repr(text.encode()),
    "url": quote,
    "url, small": lambda text: quote(text, safe="").replace("%2F", "%2f").replace("%2B", "%2b"),
    "form": quote_plus,
    "url in url": lambda text: quote(quote(text, safe=""), safe=""),
    "percent": percent,
    "base64": lambda text: base64.b64encode(text.encode()).decode(),
    "base64 of more": lambda text: base64.b64encode(f"user:{text}:x".encode()).decode(),
    "base64 of URLs": lambda text: base64.urlsafe_b64encode(f"a{text}".encode()).decode(),
    "base64 in lines": in_lines,
    "base64 in lines in json": lambda text: json.dumps(in_lines(text)),
    "hex": separated(""),
    "HEX": lambda text: separated("")(text).upper(),
    "hex:": separated(":"),
    "hex ": separated(" "),
    "hex-": separated("-"),
    "0x": separated(", ", "0x"),
    r"\x": separated("", r"\x"),
    "in lines": lambda text: f"{text[:9]}\n{text[9:]}",
    "in lines in json": lambda text: json.dumps(f"{text[:9]}\n    {text[9:]}"),
}


def in_html(text: str) -> str:
    return html.escape(text).replace("&#x27;", "&#39;")


BACKSLASHED = [
    *(rf"CORP\{letter}oe:passw0rd-0123456789" for letter in "bfnrtuxUz"),
    "quo\"te's\\back\\slash & more-0123456789",
    r"\begins-with-one-0123456789",
    "doubled\\\\back-0123456789",
    "key-\U0001f600-\xfc-0123456789abcdef",
]
OF_LIBRARIES: dict[str, Callable[[str], str]] = {
    "plain": str,
    "json": json.dumps,
    "json as it is": lambda text: json.dumps(text, ensure_ascii=False),
    "json in json in json": lambda text: json.dumps(json.dumps({"a": json.dumps([text])})),
    "repr": repr,
    "repr of repr": lambda text: repr(repr(text)),
    "ascii": ascii,
    "shell": shlex.quote,
    "csv": lambda text: text.replace('"', '""'),
    "sql": lambda text: text.replace("'", "''"),
    "html": html.escape,
    "html of others": in_html,
    "form": quote_plus,
    "in lines": lambda text: f"{text[:9]}\n{text[9:]}",
    "base64": lambda text: base64.b64encode(f"user:{text}".encode()).decode(),
    "base64 of json": lambda text: base64.b64encode(json.dumps([text]).encode()).decode(),
    "hex of json": lambda text: json.dumps([text]).encode().hex(),
}


@pytest.mark.parametrize("encoding", OF_LIBRARIES)
@pytest.mark.parametrize("secret", BACKSLASHED)
def test_a_secret_with_backslashes_and_quotes_is_masked(secret: str, encoding: str) -> None:
    text = OF_LIBRARIES[encoding](secret)
    masked = Redactor([secret]).text(f"before {text} behind")
    assert "***" in masked
    assert not any(part in masked for part in (text[8:-8], secret[8:-8]))
    assert Redactor([secret]).occurs_in(orjson.dumps(text))


@pytest.mark.parametrize("around", ["{}", "before {} behind", '"{}"', "n{}n"])
@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("secret", [LONG, "a" * 20 + "b1" * 9, "nfAB12cd34ef56gh78ij90"])
def test_each_encoding_of_a_secret_is_masked(secret: str, encoding: str, around: str) -> None:
    text = around.format(ENCODINGS[encoding](secret))
    redactor = Redactor([secret, "another-value"])
    shown = redactor.text(text)
    assert "***" in shown
    # Only three characters at either end of a base64, and the surrounding text, can remain.
    assert len(shown) <= len(around) + 3 + 30, shown
    assert redactor.occurs_in(orjson.dumps({"result": text}))


def test_the_password_of_a_secret_url_is_a_secret_of_its_own() -> None:
    redactor = Redactor(["postgres://app:se%2Fcret-47@db:5432/x", "amqp://guest:guest@mq"])
    assert redactor.text("app, se%2Fcret-47, se/cret-47, guest") == "app, ***, ***, guest"
    assert redactor.text("amqp://guest:guest@mq") == "***"


def test_passwords_are_found_in_urls_anywhere_in_a_config() -> None:
    config = {"llms": [{"url": "HTTP://u:first@h/v1", "n": 1}], "x": "a:b@c", "y": "http://h/:z@"}
    assert set(passwords_in(config)) == {"first"}


@pytest.mark.parametrize(
    "url",
    [
        "http://u:s3cret@h?mail=a@b",
        "http://u:s3cret@h/p?mail=a@b",
        "http://u:s3cret@h#a@b",
        "http://u:s3cret@h belongs to a@b",
        "--db=postgres://u:s3cret@h/d",
        "DB=postgres://u:s3cret@h/d",
        "redis://:s3cret@h/1",
    ],
)
def test_the_password_is_found_alone_in_any_url(url: str) -> None:
    assert "s3cret" in set(passwords_in(url))


@pytest.mark.parametrize(
    "password", ["p@ss", "a/b", "a/b@c", "p?q", "p#q", "p q", "p@q?r", "12?34", "x%2Fy"]
)
def test_a_password_that_should_be_escaped_is_found(password: str) -> None:
    assert password in set(passwords_in(f"redis://u:{password}@h:6379/1"))


@pytest.mark.parametrize(
    "text",
    [
        "http://h:8080/pkg@1.2",
        "http://h:8080/a:b@c",
        "http://h:/a@b",
        "http://h/a:b@c",
        "see http://u:word@h",
        "http://guest:guest@h",
        "http://u:@h",
        "a=b:c@d",
    ],
)
def test_other_texts_hold_no_password(text: str) -> None:
    assert set(passwords_in(text)) == set()


@pytest.mark.parametrize("before", ["%", "\\", "\\n", "\\\\", "%4", "\\u00"])
@pytest.mark.parametrize(
    "secret", [LONG, "nfAB12cd34ef56gh78ij90", "41f-9876-5432-1012", "n0t-l0n"]
)
def test_nothing_before_a_secret_hides_it(before: str, secret: str) -> None:
    text = f"{before}{secret}"
    assert secret not in Redactor([secret]).text(text)
    assert Redactor([secret]).occurs_in(orjson.dumps([text]))


@pytest.mark.parametrize(
    "encoding",
    [
        "plain",
        "json",
        "json in json",
        "repr",
        "url",
        "form",
        "base64",
        "hex",
        "HEX",
        "base64 of more",
    ],
)
@pytest.mark.parametrize("secret", ["S3cr3t", "pa$$w0rd!", "ab-cd_EF 12"])
def test_a_short_secret_is_masked_in_its_usual_forms(secret: str, encoding: str) -> None:
    text = f"it is {ENCODINGS[encoding](secret)}, or is it?"
    assert "***" in Redactor([secret]).text(text)
    assert Redactor([secret]).occurs_in(orjson.dumps([text]))


def test_a_secret_of_several_lines_is_masked_line_by_line() -> None:
    redactor = Redactor([PEM])
    for line in PEM.splitlines()[1:-1]:
        assert redactor.text(f"line: {line}") == "line: ***"
        assert redactor.occurs_in(orjson.dumps([f"line: {line}"]))
    for whole in (PEM, json.dumps(PEM), PEM.replace("\n", "\r\n"), textwrap.indent(PEM, "    ")):
        assert not any(line in redactor.text(whole) for line in PEM.splitlines()[1:-1])


def test_a_secret_with_other_signs_is_masked_as_it_is_written_by_libraries() -> None:
    redactor = Redactor([SECRET])
    for name in (
        "plain",
        "json",
        "json in json",
        "repr",
        "url",
        "form",
        "percent",
        "base64",
        "hex:",
    ):
        shown = redactor.text(ENCODINGS[name](SECRET))
        assert "ss+W" not in shown, (name, shown)
        assert "12" not in shown, (name, shown)


@pytest.mark.parametrize(
    "text",
    [
        "a town, 123 456 people",
        "main",
        "the api of example com",
        "12:34:56",
        "%20%20",
        "\\n\\n\\t",
        "",
    ],
)
def test_other_text_stays_as_it_is(text: str) -> None:
    redactor = Redactor([SECRET, LONG, "api.ex", "123-456", "true", "1"])
    assert redactor.text(text) == text


def test_the_longest_secret_is_masked_first() -> None:
    short, long = "token-0123456789", "token-0123456789-and-more-9876"
    assert Redactor([short, long]).text(f"{long} {short}") == "*** ***"


def test_a_key_that_was_cut_is_masked_as_far_as_it_goes() -> None:
    key = "-----BEGIN RSA PRIVATE KEY-----\n" + "\n".join(["QUJD" * 16] * 5)
    assert Redactor([]).text(f"key: {key}\nend") == "key: ***\nend"
    assert Redactor([]).text(f"{json.dumps(key)} end") == '"***" end'


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://u:p@h/1", "redis://u:***@h/1"),
        ("redis://:p@q@h", "redis://:***@h"),
        ("amqp://u:p@h/?management=http://a:b@c:1", "amqp://u:***@h/?management=http://a:***@c:1"),
        ("amqp://u:p@h/?management=http%3A%2F%2Fa%3Ab%40c", "amqp://u:***@h/?management=***"),
        ("kafka://h:1,g:2/t", "kafka://h:1,g:2/t"),
        ("redis://h/1?password=p&prefix=x", "redis://h/1?password=***&prefix=x"),
        ("sqlite:///x.db?api_key=p", "sqlite:///x.db?api_key=***"),
    ],
)
def test_a_password_in_a_url_is_masked(url: str, shown: str) -> None:
    assert without_password(url) == shown
