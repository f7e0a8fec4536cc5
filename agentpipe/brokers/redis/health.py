"""Health checks of a Redis server."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from agentpipe.connections.health import Finding, clock_skew, fail, ok, round_trip, warn
from agentpipe.errors import StoreError, Unreachable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agentpipe.brokers.redis.script_runner import ScriptRunner

PINGS = 5
ALMOST_FULL = 0.9


def examine(scripts: ScriptRunner) -> list[Finding]:
    """Return the findings about the server."""
    info = _info(scripts)
    findings = [_trip(scripts), _clock(scripts)]
    if not info:
        return [*findings, warn("server", "does not let us ask", "allow the user INFO to see more")]
    version = ok("server", f"Redis {info.get('redis_version', '?')}")
    of_memory = (_policy(info), _memory(info), _clients(info))
    return [version, *findings, _role(info), *of_memory, _persistence(scripts, info)]


def _info(scripts: ScriptRunner) -> dict[str, str]:
    try:
        text = scripts.call("INFO").decode(errors="replace")
    except (Unreachable, StoreError):
        return {}  # The user may lack INFO; other findings report whether the server answers.
    pairs = (line.partition(":") for line in text.splitlines() if ":" in line)
    return {name: value for name, _, value in pairs}


def _trip(scripts: ScriptRunner) -> Finding:
    best_s = float("inf")
    for _ in range(PINGS):
        begun = time.perf_counter()
        scripts.call("PING")
        best_s = min(best_s, time.perf_counter() - begun)
    return round_trip(best_s)


def _clock(scripts: ScriptRunner) -> Finding:
    before = time.time()
    try:
        seconds, micros = scripts.call("TIME")
    except (Unreachable, StoreError):
        return warn("clock", "does not let us ask", "allow the user TIME to see it")
    after = time.time()
    theirs = int(seconds) + int(micros) / 1e6
    return clock_skew(theirs - (before + after) / 2, (after - before) / 2)


def _role(info: Mapping[str, str]) -> Finding:
    role = info.get("role", "?")
    if role == "slave":
        advice = "name the primary in the URL, or use redis+sentinel://"
        return fail("role", "a replica, which takes no writes", advice)
    return ok("role", "primary" if role == "master" else role)


def _policy(info: Mapping[str, str]) -> Finding:
    policy = info.get("maxmemory_policy", "?")
    if policy == "noeviction":
        return ok("maxmemory-policy", policy)
    advice = "set maxmemory-policy to noeviction: this one may throw tasks away"
    if info.get("maxmemory", "0") == "0":
        return warn("maxmemory-policy", f"{policy}, and no maxmemory yet", advice)
    return fail("maxmemory-policy", policy, advice)


def _memory(info: Mapping[str, str]) -> Finding:
    used, bound = int(info.get("used_memory", 0)), int(info.get("maxmemory", 0))
    most = f"{bound / 1024**2:.0f} MiB" if bound else "none"
    found = f"{used / 1024**2:.0f} MiB used, maxmemory {most}"
    if bound and used > ALMOST_FULL * bound:
        return warn("memory", found, "raise maxmemory: senders are refused once it is full")
    return ok("memory", found)


def _clients(info: Mapping[str, str]) -> Finding:
    """Check the connection limit: each worker process needs several connections."""
    now, most = int(info.get("connected_clients", 0)), int(info.get("maxclients", 0))
    if not most:
        return ok("clients", f"{now:,}")
    if now > ALMOST_FULL * most:
        advice = "raise maxclients, and the server's ulimit -n: new workers are refused"
        return warn("clients", f"{now:,} of {most:,}", advice)
    return ok("clients", f"{now:,} of {most:,}")


def _persistence(scripts: ScriptRunner, info: Mapping[str, str]) -> Finding:
    if info.get("rdb_last_bgsave_status", "ok") != "ok":
        advice = "see the server's log: until it can write its snapshot it may refuse all writes"
        return fail("persistence", "the last snapshot failed", advice)
    if info.get("aof_enabled") != "1":
        advice = "set appendonly yes: a restart of the server forgets what came after a snapshot"
        return warn("persistence", "no append-only file", advice)
    if info.get("aof_last_write_status", "ok") != "ok":
        advice = "see the server's log: it cannot write to its disk"
        return fail("persistence", "the last write of the append-only file failed", advice)
    return _sync(scripts)


def _sync(scripts: ScriptRunner) -> Finding:
    try:
        (*_, value) = scripts.call("CONFIG", "GET", "appendfsync")
        sync = value.decode()
    except (Unreachable, StoreError, ValueError):
        return ok("persistence", "append-only file; how often it is synced may not be asked")
    if sync == "no":
        advice = "set appendfsync everysec, or always"
        return warn("persistence", "appendfsync no", advice)
    lost = (
        "a power loss takes nothing" if sync == "always" else "a power loss takes a second or two"
    )
    return ok("persistence", f"appendfsync {sync}: {lost}")
