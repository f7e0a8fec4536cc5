"""Redis store URLs: parsed or refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from agentpipe.brokers.redis.address import RedisAddress, parse_url
from agentpipe.brokers.redis.client import open_client
from agentpipe.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://host", RedisAddress("redis://host", (("host", 6379),))),
        ("redis://host:7000/3", RedisAddress("redis://host:7000/3", (("host", 7000),), db=3)),
        ("redis://host/?db=4", RedisAddress("redis://host/?db=4", (("host", 6379),), db=4)),
        ("redis://[::1]:7000", RedisAddress("redis://[::1]:7000", (("::1", 7000),))),
        (
            "redis://ann:s%40cret@host?prefix=lab",
            RedisAddress(
                "redis://ann:***@host?prefix=lab",
                (("host", 6379),),
                username="ann",
                password="s@cret",
                prefix="lab",
            ),
        ),
        (
            "redis://:p@ss@host",
            RedisAddress("redis://:***@host", (("host", 6379),), password="p@ss"),
        ),
        (
            "rediss://host?ssl_ca_certs=/ca.pem&ssl_cert_reqs=none",
            RedisAddress(
                "rediss://host?ssl_ca_certs=/ca.pem&ssl_cert_reqs=none",
                (("host", 6379),),
                tls={"ssl_ca_certs": "/ca.pem", "ssl_cert_reqs": "none"},
            ),
        ),
        ("rediss://host", RedisAddress("rediss://host", (("host", 6379),), tls={})),
        (
            "unix:///run/redis%20here.sock?db=2",
            RedisAddress("unix:///run/redis%20here.sock?db=2", path="/run/redis here.sock", db=2),
        ),
        (
            "unix://ann:secret@/run/redis.sock",
            RedisAddress(
                "unix://ann:***@/run/redis.sock",
                path="/run/redis.sock",
                username="ann",
                password="secret",
            ),
        ),
        (
            "redis+sentinel://:secret@one,two:7000/main?db=1",
            RedisAddress(
                "redis+sentinel://:***@one,two:7000/main?db=1",
                (("one", 26379), ("two", 7000)),
                service="main",
                db=1,
                password="secret",
            ),
        ),
    ],
)
def test_a_url_says_where_and_who(url: str, address: RedisAddress) -> None:
    assert parse_url(url) == address


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("redis://", "the host is missing; write redis://"),
        ("redis://ann:canary@", "the host is missing"),
        ("redis://:canary@host:port", "write redis://"),
        ("redis://host:70000", "Port out of range"),
        ("redis://host/first", "a database has a number, not 'first'"),
        ("redis://host?db=-1", "a database has a number, not '-1'"),
        ("redis://host?prefx=a", "unknown parameter 'prefx': did you mean 'prefix'"),
        ("redis://host?ssl_ca_certs=/ca.pem", "unknown parameter 'ssl_ca_certs'"),
        ("redis://host?prefix=", "prefix is empty"),
        ("redis://host?prefix={a}", "a prefix has no braces"),
        ("rediss://host?ssl_cert_reqs=maybe", "ssl_cert_reqs is required or none, not 'maybe'"),
        ("unix://run/redis.sock", "begins with a third slash; write unix://"),
        ("unix:///", "begins with a third slash"),
        ("redis+sentinel://one,two", "name that the Sentinels have for the server is missing"),
        ("redis+sentinel://one,:7/main", "the host is missing"),
    ],
)
def test_a_wrong_url_is_told_how_it_is_written(url: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_url(url)
    assert problem in str(caught.value)
    assert "canary" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_of_tls_that_is_not_there_is_named(tmp_path: Path) -> None:
    missing = tmp_path / "ca.pem"
    with pytest.raises(ConfigError, match=r"ssl_ca_certs: there is no file '.*ca.pem'"):
        open_client(parse_url(f"rediss://host?ssl_ca_certs={missing}"))
