"""What pages show of results, and of content that agents put into them."""

from __future__ import annotations

import html
import json
import os
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from agentpipe.brokers import open_store, open_watched
from agentpipe.brokers.statistics import Tally
from agentpipe.core.redaction import Redactor
from agentpipe.core.result import Result
from agentpipe.errors import Unreachable
from agentpipe.settings import Settings
from agentpipe.sinks import open_sink
from agentpipe.sinks.base import Record
from agentpipe.web import app as web_app
from agentpipe.web import results as web_results
from agentpipe.web.access import WebAccess
from agentpipe.web.fleet import Fleet
from agentpipe.web.hour import Hour
from agentpipe.web.pages import Pages, url
from tests.support import wait_until
from tests.unit.fleets import MARKS, agent, fleet, history
from tests.web_client import TOKEN, ask

if TYPE_CHECKING:
    from starlette.types import ASGIApp

STYLE = Path(web_app.__file__).parent / "static" / "style.css"
HOSTILE = '<script>alert(1)</script>"><img src=x onerror=alert(2)>\u202egnp.exe\x1b[2J\x00'
WCAG_AA, WCAG_SHAPES = 4.5, 3.0


def record(result: Result) -> Record:
    return Record(result.task_id, result.encode(Redactor([])))


def result(task_id: str, **fields: Any) -> Result:
    known: dict[str, Any] = {
        "task": {"question": f"What of {task_id}?"},
        "result": "42",
        "outcome": "ok",
        "run": task_id.partition("/")[0] if "/" in task_id else None,
        "started_at": "2026-01-01T00:00:00.000000Z",
        "finished_at": "2026-01-01T00:00:02.000000Z",
    }
    return Result(task_id=task_id, **{**known, **fields})


def settings_in(folder: Path) -> Settings:
    return Settings.from_env(
        {
            "AGENTPIPE_BROKER": f"sqlite:///{folder}/broker.db",
            "AGENTPIPE_SINK": f"sqlite:///{folder}/results.db",
        }
    )


def site(folder: Path, *results: Result) -> ASGIApp:
    settings = settings_in(folder)
    sink = open_sink(settings)
    sink.publish([record(each) for each in results])
    sink.close()
    return web_app.application(settings, WebAccess(9809, TOKEN))


def read_run(app: ASGIApp, path: str) -> str:
    """The page, once all of its results are read."""
    return wait_until(
        lambda: text if "so far" not in (text := ask(app, path).text) else "", 30, "it is read"
    )


def test_a_run_has_its_figures_and_its_samples(tmp_path: Path) -> None:
    results = [result(f"v1/t{n:03}", reward=float(n % 2), usage={"usd": 0.01}) for n in range(250)]
    text = read_run(site(tmp_path, *results), "/run?name=v1")
    assert "50.0%" in text
    assert "250 samples" in text
    assert "1 to 100 of 250" in text
    assert text.count("/task?id=") == 100


def test_a_run_whose_cost_is_unknown_does_not_look_free(tmp_path: Path) -> None:
    app = site(tmp_path, result("free/a", usage={"usd": 0.0}), result("unknown/a"))
    read_run(app, "/run?name=free")
    read_run(app, "/run?name=unknown")
    rows = {
        name: row
        for row in ask(app, "/runs").text.split("<tr>")
        for name in ("free", "unknown")
        if f"name={name}" in row
    }
    assert ("$0.00" in rows["free"], "$" in rows["unknown"]) == (True, False)


def test_of_a_run_without_end_the_last_results_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each one takes memory for the server's lifetime."""
    monkeypatch.setattr(web_results, "MOST_OF_RUN", 100)
    monkeypatch.setattr(web_results, "_DROPPED", 50)
    app = site(tmp_path, *(result(f"v1/t{n:03}", reward=1.0) for n in range(480)))
    text = read_run(app, "/run?name=v1&sort=oldest")
    assert "130 samples" in text
    assert "The last 130 results of 480" in text
    assert "v1/t350" in text
    assert "v1/t349" not in text


def test_runs_that_were_looked_at_before_give_way_to_large_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web_results, "MOST_OF_RUN", 10)
    monkeypatch.setattr(web_results, "MOST_SAMPLES", 20)
    site(tmp_path, *(result(f"v{run}/t{n}") for run in range(4) for n in range(8)))
    results = web_results.RunResults(settings_in(tmp_path))
    for run in range(4):
        assert results.view(f"v{run}", patience_s=30).complete
    assert sum(view.view.read for view in results._readings.values()) <= 20  # noqa: SLF001 - it is internal
    results.stop()


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("reward=passed", "125"),
        ("outcome=agent_error", "1"),
        ("q=t007+WHAT", "1"),
        ("group=v1%2Fg", "2"),
        ("reward=odd&sort=odd&page=-7", "253"),
        ("page=999999999999", "253"),
    ],
)
def test_samples_are_filtered(tmp_path: Path, query: str, found: str) -> None:
    results = [result(f"v1/t{n:03}", reward=float(n % 2)) for n in range(250)]
    results += [result(f"v1/g/{n}", group_id="v1/g") for n in range(2)]
    results += [result("v1/bad", outcome="agent_error", reward=None)]
    text = read_run(site(tmp_path, *results), f"/run?name=v1&{query}")
    assert re.search(rf"to \d+ of {found}\D", text)


def test_two_runs_are_compared_with_the_numbers_of_the_command(tmp_path: Path) -> None:
    results = [result(f"v1/t{n:03}", reward=float(n < 60)) for n in range(150)]
    results += [result(f"v2/t{n:03}", reward=float(n < 40)) for n in range(140)]
    results += [result("v2/t149", outcome="agent_error", reward=None)]
    app = site(tmp_path, *results)
    text = read_run(app, "/compare?a=v1&b=v2")
    command = subprocess.run(
        [sys.executable, "-m", "agentpipe", "compare", "v1", "v2", "--json"],
        env={**os.environ, "AGENTPIPE_SINK": f"sqlite:///{tmp_path}/results.db"},
        capture_output=True,
        check=False,
    )
    told = json.loads(command.stdout)
    found = told["difference"]
    assert f"{told['tasks']} tasks in both, {told['judged']} judged in both" in text
    assert f"{found['delta']:+.3f}" in text
    assert f"{found['low']:+.3f} to {found['high']:+.3f}, p = {found['p']:.4g}" in text
    assert f"{found['wins']}, {found['ties']}, {found['losses']}" in text
    assert "Only in v1: 9 tasks" in text
    links = re.findall(r"id=v2%2F(t\d+)\" data-step", text)
    assert links[:20] == [f"t{n:03}" for n in range(40, 60)], "those that differ come first"
    assert (len(links), "page=1" in text) == (100, True)


def test_a_report_is_one_file_without_scripts_and_without_anything_from_elsewhere(
    tmp_path: Path,
) -> None:
    odd = {"type": "OSError", "message": HOSTILE}
    results = [result(f"v1/t{n}", reward=1.0, task={"question": HOSTILE}) for n in range(9)]
    results += [result(f"v1/{HOSTILE}", outcome="agent_error", error=odd)]
    site(tmp_path, *results)
    file = tmp_path / "report.html"
    options = ["report", "--run", "v1", "--by", "outcome", "--html"]
    done = subprocess.run(
        [sys.executable, "-m", "agentpipe", *options, str(file)],
        env={**os.environ, "AGENTPIPE_SINK": f"sqlite:///{tmp_path}/results.db"},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    text = file.read_text()
    assert "<script" not in text
    assert not re.search(r"<[^>]*\b(src|href)=", text)
    assert not re.search(r"@import|url\(", text)
    assert "default-src 'none'" in text
    assert "\u202e" not in text
    assert "\x1b" not in text
    assert html.escape("<script>alert(1)</script>", quote=False) in text
    assert text.index("agent_error</span></td>") < text.index("v1/t0"), "failures come first"
    assert "90.0%" in text or "100.0%" in text


def test_a_comparison_with_a_run_that_is_not_there_says_so(tmp_path: Path) -> None:
    app = site(tmp_path, result("v1/t", reward=1.0))
    assert ask(app, "/compare?a=v1&b=v9").status in (200, 404)
    wait_until(lambda: ask(app, "/compare?a=v1&b=v9").status == 404, 30, "all is read")
    hostile = url("/compare", a="v1", b=HOSTILE)
    assert "<script>alert" not in ask(app, hostile).text


@pytest.mark.parametrize("query", ["", "?a=v1", "?b=v1", "?a=v1&b="])
def test_a_comparison_with_one_run_asks_for_the_other(tmp_path: Path, query: str) -> None:
    app = site(tmp_path, result("v1/t", reward=1.0), result("alone", reward=1.0))
    answer = ask(app, f"/compare{query}")
    assert answer.status == 200
    assert "A comparison needs two runs" in answer.text


@pytest.mark.parametrize("reward", [0.25, 1.0])
def test_an_interval_has_the_unit_of_its_mean(tmp_path: Path, reward: float) -> None:
    results = [result(f"v1/t{n}", reward=reward * (n % 2)) for n in range(40)]
    text = read_run(site(tmp_path, *results), "/run?name=v1")
    below = re.search(r'class="below">([^<]* to [^<]*), 40 tasks', text)
    assert below is not None
    assert ("%" in below[1]) == (reward == 1.0)


def test_charts_show_the_first_seconds_of_a_server() -> None:
    hour = Hour()
    for number in range(4):
        hour.add(5.0 * number, fleet(agent(waiting=number), outcomes={"ok": number}))
    outcomes, waiting, _running = hour.charts()
    assert outcomes.caption.title == "ended per 5.0 s"
    assert len(outcomes.bars) == 3
    assert len(waiting.line.split()) == 4
    hour.add(3_000.0, fleet(agent(), outcomes={"ok": 9}))
    assert hour.charts()[0].caption.title == "ended per minute"


@pytest.mark.parametrize(("spent", "shown"), [(0.0, []), (1.5, ["$1.50", "$1.50"])])
def test_a_fleet_whose_cost_is_unknown_does_not_look_free(spent: float, shown: list[str]) -> None:
    tally = Tally(done=1, usd=spent)
    seen = history(fleet(agent(tally=tally), tally=tally))
    viewed = Fleet(lambda: open_store(Settings()), MARKS, Pages({}))
    text = Pages({}).html("live.html", **viewed._values(seen))  # noqa: SLF001 - before any snapshot
    assert re.findall(r"\$[0-9.]+", text) == shown


def test_a_replaced_file_of_the_broker_is_noticed(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    with closing(open_store(settings)):
        pass
    with closing(open_watched(settings)) as watched:
        assert watched.stats().accepted == 0
        for file in tmp_path.glob("broker.db*"):
            file.unlink()
        with pytest.raises(Unreachable):
            watched.stats()
        with closing(open_store(settings)):
            pass
        with pytest.raises(Unreachable, match="replaced by another file"):
            watched.stats()


def test_the_last_attempt_counts_as_in_reports(tmp_path: Path) -> None:
    first = result("v1/a", outcome="infra_error", reward=None)
    again = result(
        "v1/a~r1", retry_of="v1/a", reward=1.0, finished_at="2026-01-01T00:01:00.000000Z"
    )
    text = read_run(site(tmp_path, first, again), "/run?name=v1")
    assert "1 sample" in text
    assert "100.0%" in text


def trace_of(*texts: str, tool: str = "") -> list[dict[str, Any]]:
    """A run's span with a tool call per text; each text is also the tool's name unless given."""
    run = {"id": "r", "parent_id": "r", "timestamp": 100.0, "running_time": 9.0, "records": []}
    return [run] + [
        {
            "id": f"s{place}",
            "parent_id": "r",
            "timestamp": 100.0 + place / 100,
            "running_time": 0.5,
            "records": [
                {
                    "data": {
                        "type": "tool",
                        "tool_name": tool or text,
                        "arguments": text,
                        "response": text,
                    }
                }
            ],
        }
        for place, text in enumerate(texts)
    ]


def hostile() -> Result:
    return result(
        f"v1/{HOSTILE}",
        task={"question": HOSTILE},
        result=HOSTILE,
        agent=HOSTILE,
        group_id=HOSTILE,
        metadata={HOSTILE: HOSTILE},
        usage={HOSTILE: 1},
        trace=trace_of(HOSTILE),
        evaluation_results=[{"config": {"func": HOSTILE}, "passed": False, "reason": HOSTILE}],
        error={"type": HOSTILE, "message": HOSTILE, "traceback": HOSTILE},
        outcome="agent_error",
    )


@pytest.mark.parametrize("view", ["", "conversation"])
def test_what_agents_say_is_text(tmp_path: Path, view: str) -> None:
    app = site(tmp_path, hostile())
    pages = [
        ask(app, url("/task", id=f"v1/{HOSTILE}", view=view)),
        ask(app, url("/task", id=HOSTILE)),
    ]
    texts = [page.text for page in pages] + [read_run(app, "/run?name=v1")]
    assert "alert(1)" in texts[0]
    for text in texts:
        assert "<script>" not in text
        assert "<img" not in text
        assert not {"\u202e", "\x1b", "\x00"} & set(text)
    assert "\\u202e" in texts[0]


def test_raw_text_is_never_a_page(tmp_path: Path) -> None:
    app = site(tmp_path, hostile())
    for part in ("", "question", "answer", "error", "verdicts", "trace", "0", "1"):
        answer = ask(app, url("/raw", id=f"v1/{HOSTILE}", part=part))
        assert answer.status == 200, part
        assert answer.headers["content-type"] == "text/plain; charset=utf-8"
        assert answer.headers["content-security-policy"] == "default-src 'none'; sandbox"
        assert answer.headers["x-content-type-options"] == "nosniff"
    for part in ("7", "-1", "x", "²", "9" * 99):
        assert ask(app, url("/raw", id=f"v1/{HOSTILE}", part=part)).status == 404


def test_a_line_of_ten_megabytes_is_cut_with_a_link_to_all_of_it(tmp_path: Path) -> None:
    long = "x" * 10_000_000
    app = site(tmp_path, result("v1/long", result=long, trace=trace_of(long, tool="search")))
    answer = ask(app, "/task?id=v1%2Flong")
    assert len(answer.body) < 200_000
    assert "10,000,000 characters" in answer.text
    assert "/raw?id=v1%2Flong&amp;part=answer" in answer.text
    assert "/raw?id=v1%2Flong&amp;part=1" in answer.text
    assert ask(app, "/raw?id=v1%2Flong&part=answer").body == long.encode()


def test_a_trace_of_any_size_gives_a_page_of_a_bounded_one(tmp_path: Path) -> None:
    app = site(tmp_path, result("v1/many", trace=trace_of(*["y" * 9_000] * 1_100, tool="search")))
    answer = ask(app, "/task?id=v1%2Fmany")
    assert len(answer.body) < 5_000_000
    assert "more spans" in answer.text


@pytest.mark.parametrize(
    "trace",
    [[1, None, "x"], [{"id": [], "parent_id": {}, "records": [{"data": {"type": 7}}]}]],
)
def test_strange_traces_are_drawn(tmp_path: Path, trace: list[Any]) -> None:
    app = site(tmp_path, result("v1/odd", trace=trace, usage={"usd": "x"}, metadata={"a": [1]}))
    for view in ("", "&view=conversation"):
        assert ask(app, f"/task?id=v1%2Fodd{view}").status == 200


def test_runs_of_the_archive_are_listed(tmp_path: Path) -> None:
    app = site(tmp_path, *(result(f"{name}/a", reward=1.0) for name in ("v1", "v2", "v10")))
    text = wait_until(
        lambda: text if "reading" not in (text := ask(app, "/runs").text) else "", 30, "read"
    )
    assert "3 runs" in text
    assert "100.0%" in text


def test_results_of_no_run_are_shown(tmp_path: Path) -> None:
    app = site(tmp_path, result("plain"), result("v1/a"))
    text = read_run(app, "/run")
    assert "1 sample" in text
    assert "/task?id=plain" in text


def test_new_results_appear(tmp_path: Path) -> None:
    app = site(tmp_path, result("v1/a"))
    assert "1 sample" in read_run(app, "/run?name=v1")
    sink = open_sink(settings_in(tmp_path))
    sink.publish([record(result("v1/b"))])
    sink.close()
    wait_until(lambda: "2 samples" in ask(app, "/run?name=v1").text, 30, "it is there")


def test_results_that_are_trimmed_or_replaced_meanwhile_disappear(tmp_path: Path) -> None:
    times = [f"2026-11-28T10:00:0{n}Z" for n in range(3)]
    # Published in a different order than they finished.
    made = [result(f"v1/{n}", finished_at=times[n]) for n in (2, 0, 1)]
    app = site(tmp_path, *made, result("v2/a", finished_at=times[2]))
    assert "3 samples" in read_run(app, "/run?name=v1")
    assert "1 sample" in read_run(app, "/run?name=v2")
    for options, left in ((("--before", times[1]), "2 samples"), (("--run", "v1"), "no results")):
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "agentpipe",
                "archive",
                "trim",
                *options,
                "--yes",
                "--sink",
                f"sqlite:///{tmp_path}/results.db",
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        wait_until(lambda: left in ask(app, "/run?name=v1").text, 30, left)  # noqa: B023 - called at once
    assert "1 sample" in read_run(app, "/run?name=v2")


def test_a_file_that_cannot_be_read_for_a_while_is_a_sentence_for_that_while(
    tmp_path: Path,
) -> None:
    app = site(tmp_path, result("v2/a"))
    file, away = tmp_path / "results.db", tmp_path / "away.db"
    for suffix in ("", "-wal", "-shm"):
        if (tmp_path / f"results.db{suffix}").exists():
            (tmp_path / f"results.db{suffix}").rename(tmp_path / f"away.db{suffix}")
    file.write_bytes(b"no database" * 1000)
    wait_until(lambda: "cannot be read" in ask(app, "/run?name=v1").text, 30, "it says so")
    file.unlink()
    for suffix in ("", "-wal", "-shm"):
        if away.with_name(f"away.db{suffix}").exists():
            away.with_name(f"away.db{suffix}").rename(tmp_path / f"results.db{suffix}")
    wait_until(lambda: "no results of run v1" in ask(app, "/run?name=v1").text, 30, "it is there")


def test_looking_writes_nothing(tmp_path: Path) -> None:
    app = site(tmp_path, *(result(f"v1/{n}") for n in range(2_000)))
    read_run(app, "/run?name=v1")
    ask(app, "/task?id=v1%2F7")
    ask(app, "/runs")
    with sqlite3.connect(f"file:{tmp_path}/results.db?mode=ro", uri=True) as db:
        (marks,) = db.execute("SELECT count(*) FROM marks").fetchone()
        (facts,) = db.execute("SELECT count(*) FROM facts").fetchone()
    db.close()
    assert (marks, facts) == (0, 0)
    assert not (tmp_path / "broker.db").exists()


def test_every_link_and_form_of_the_pages_leads_somewhere(tmp_path: Path) -> None:
    app = site(tmp_path, result("v1/a", reward=1.0), result("v2/a", reward=0.0))
    pages = ["/", "/runs", "/run?name=v1", "/task?id=v1%2Fa", "/task?id=v1%2Fa&view=conversation"]
    found = {
        html.unescape(it)
        for page in pages
        for it in re.findall(r'(?:href|src|action)="(/[^"]*)"', read_run(app, page))
    }
    found -= {"/task"}  # A form that sends the id.
    assert {"/runs", "/static/style.css", "/run?name=v1"} <= found
    assert {it: ask(app, it).status for it in found} == dict.fromkeys(found, 200)


def test_a_broker_of_an_earlier_layout_is_a_sentence_until_it_is_upgraded(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    open_store(settings).close()
    with closing(sqlite3.connect(tmp_path / "broker.db")) as db:
        (layout,) = db.execute("PRAGMA user_version").fetchone()
        db.execute(f"PRAGMA user_version = {layout - 1}")
        with pytest.raises(Unreachable, match=r"agentpipe status .* upgrades it"):
            open_watched(settings)
        db.execute(f"PRAGMA user_version = {layout}")
    with closing(open_watched(settings)) as store:
        assert store.stats().waiting == 0


# Contrast of text and of shapes, by WCAG 2.2.


def themes() -> list[dict[str, str]]:
    css = STYLE.read_text()
    light, dark = (
        re.findall(r"--([\w-]+): (#[0-9a-f]{6})", part) for part in css.split("@media", 2)[:2]
    )
    return [dict(light), {**dict(light), **dict(dark)}]


def luminance(colour: str) -> float:
    parts = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
    red, green, blue = (
        it / 12.92 if it <= 0.03928 else ((it + 0.055) / 1.055) ** 2.4 for it in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_text_has_contrast(theme: int) -> None:
    colours = themes()[theme]
    texts = ("ink", "quiet", "accent", "good", "fair", "bad", "faint")
    pairs = [(text, ground) for text in texts for ground in ("ground", "surface", "sunk")]
    pairs += [(tone, f"{tone}-back") for tone in ("good", "fair", "bad", "faint")]
    pairs += [("ink", "fair-back"), ("ink", "bad-back"), ("on-accent", "accent")]
    low = {pair: contrast(*(colours[it] for it in pair)) for pair in pairs}
    assert {pair: ratio for pair, ratio in low.items() if ratio < WCAG_AA} == {}


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_shapes_have_contrast(theme: int) -> None:
    colours = themes()[theme]
    shapes = ["good-fill", "fair-fill", "bad-fill", "faint-fill", "accent", "llm", "tool", "agent"]
    low = {shape: contrast(colours[shape], colours["surface"]) for shape in [*shapes, "other"]}
    assert {shape: ratio for shape, ratio in low.items() if ratio < WCAG_SHAPES} == {}
