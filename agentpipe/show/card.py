"""The complete page for one Result."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from agentpipe.archive.export.conversation import question_of
from agentpipe.core.numbers import is_number
from agentpipe.core.rollout import tokens_of_segments
from agentpipe.core.text import counted, dollars, duration
from agentpipe.core.timestamps import moment_of
from agentpipe.core.transcript import Conversations, transcripts
from agentpipe.show.page import Page, as_text
from agentpipe.show.steps import draw_message, draw_step, title_of
from agentpipe.show.timeline import bar, nodes, total_s
from agentpipe.show.tones import tone_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from agentpipe.core.result import Result
    from agentpipe.show.timeline import Node
    from agentpipe.show.tones import Tone

_STYLES: Mapping[Tone, str] = {"good": "green", "fair": "yellow", "bad": "red", "faint": ""}
MAX_SPANS = 200
_BAR_CELLS = 16
_ANSWER_LINES = 40
_TRACEBACK_LINES = 12


def draw_result(page: Page, result: Result) -> None:
    """Draw everything known about a finished task."""
    draw_facts(page, result)
    page.heading("Question")
    with page.margin("  "):
        asked = question_of(result)
        page.block("(not in this Result)" if asked is None else asked, most=20)
    draw_end(page, result)
    _draw_trace(page, result.trace)


def draw_facts(page: Page, result: Result) -> None:
    """Draw what the task is, how it ended, and what it cost."""
    reward = "" if result.reward is None else f"  reward {result.reward:.4g}"
    style = _STYLES[tone_of(result.outcome)]
    page.line((result.task_id, "bold"), "  ", (result.outcome, style), reward)
    for name, text in facts_of(result):
        page.block(text, f"{name:<9} ", most=3, label_style="dim")


def draw_end(page: Page, result: Result) -> None:
    """Draw the answer, its verdicts, and the error."""
    if result.result is not None:
        page.heading("Answer" + (f" ({result.stop})" if result.stop not in (None, "stop") else ""))
        with page.margin("  "):
            page.block(as_text(result.result, wide=True), most=_ANSWER_LINES)
    if result.evaluation_results:
        page.heading("Evaluation")
        with page.margin("  "):
            for verdict in result.evaluation_results:
                draw_verdict(page, verdict)
    if result.error:
        page.heading("Error")
        with page.margin("  "):
            draw_error(page, result.error)


def draw_verdict(page: Page, verdict: Any) -> None:
    """Draw one evaluator's verdict."""
    if not isinstance(verdict, dict):
        page.block(as_text(verdict), most=2)
        return
    word, style = _word(verdict)
    page.block(_evaluator(verdict.get("config")), f"{word:<7} ", style, 3)
    for name in ("reason", "error"):
        if verdict.get(name):
            page.block(as_text(verdict[name]), " " * 8, "dim", 6)


def draw_messages(page: Page, result: Result) -> None:
    """Draw the run's conversations with models."""
    whole = transcripts(result.trace)
    for number, each in enumerate(whole, 1):
        if len(whole) > 1:
            page.heading(f"Conversation {number} of {len(whole)}")
        for message in each.messages:
            draw_message(page, message, _ANSWER_LINES)
    if not whole:
        page.line("its trace holds no conversation with a model")
    elif not whole[0].complete:
        page.line(("parts of the trace were left out or cut", "yellow"))


def facts_of(result: Result) -> list[tuple[str, str]]:
    """The facts beside the question and the answer, as pairs of name and text."""
    rows = [("agent", " / ".join(filter(None, (result.collection, result.agent))))]
    rows.append(("run", _place(result)))
    rows.append(("attempt", _attempt(result)))
    rows.append(("time", _times(result)))
    rows.append(("usage", _usage(result.usage)))
    if result.paid != result.usage:
        rows.append(("all its runs", _usage(result.paid)))
    if result.rollout is not None:
        rows.append(("rollout", _rollout(result.rollout)))
    if result.rewards:
        rows.append(("rewards", _pairs(result.rewards)))
    if result.metadata:
        rows.append(("metadata", as_text(result.metadata)))
    if result.truncated:
        rows.append(("cut", _cut(result.truncated)))
    return [(name, text) for name, text in rows if text]


def _place(result: Result) -> str:
    parts = [result.run] if result.run else []
    if result.group_id is not None:
        size = "" if result.group_size is None else f" of {result.group_size}"
        number = "" if result.sample_index is None else f", sample {result.sample_index + 1}{size}"
        parts.append(f"group {result.group_id}{number}")
    parts += [f"seed {result.seed}"] if result.seed is not None else []
    parts += [f"policy {result.policy_version}"] if result.policy_version is not None else []
    for name in ("retry_of", "replay_of", "rescored_of"):
        if value := getattr(result, name):
            parts.append(f"{name.replace('_', ' ')} {value}")
    return " · ".join(parts)


def _attempt(result: Result) -> str:
    by = f" by {result.worker}" if result.worker else ""
    if not result.attempt:
        return "none: it never ran"
    config = f", config {result.config_hash[:12]}" if result.config_hash else ""
    return f"{result.attempt}{by}{config}"


def _times(result: Result) -> str:
    sent, begun, ended = map(
        moment_of, (result.submitted_at, result.started_at, result.finished_at)
    )
    parts = [f"sent {result.submitted_at}"] if sent else []
    parts += [f"waited {duration((begun - sent).total_seconds())}"] if sent and begun else []
    parts += [f"took {duration((ended - begun).total_seconds())}"] if begun and ended else []
    return ", ".join(parts)


def _usage(usage: Mapping[str, Any]) -> str:
    named = {name: value for name, value in usage.items() if name != "usd"}
    usd = usage.get("usd")
    cost = dollars(usd) if isinstance(usd, (int, float)) else ""
    return ", ".join(filter(None, (cost, _pairs(named))))


def _rollout(rollout: Mapping[str, Any]) -> str:
    """What a trainer asks first: how many token ids, and whether they are complete."""
    sizes, gaps = tokens_of_segments(rollout), rollout.get("gaps")
    codes = Counter(_code(each) for each in gaps) if isinstance(gaps, list) else Counter[str]()
    parts = [f"{counted(sum(sizes), 'token')} in {counted(len(sizes), 'segment')}"]
    parts.append("exact" if rollout.get("exact") is True else "not exact")
    parts += [f"{counted(number, 'gap')} {code}" for code, number in codes.items()]
    return ", ".join(parts)


def _code(gap: Any) -> str:
    return as_text(gap.get("code")) if isinstance(gap, dict) else "unknown"


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{value:,.6g} {name}" if isinstance(value, float) else f"{as_text(value)} {name}"
        for name, value in values.items()
    )


def _cut(mark: Mapping[str, Any]) -> str:
    fields = mark.get("fields")
    names = ", ".join(map(str, fields)) if isinstance(fields, list) else "parts"
    spans = mark.get("spans")
    had = f", the trace had {counted(spans, 'span')}" if isinstance(spans, int) else ""
    why = mark.get("reason") or mark.get("remedy") or ""
    return f"{names}{had}: {as_text(why)}"


def _word(verdict: Mapping[str, Any]) -> tuple[str, str]:
    score = verdict.get("score")
    if verdict.get("error") and not verdict.get("passed"):
        return "broken", "red"
    if is_number(score):
        return f"{score:.4g}", "green" if score >= 1 else "yellow"
    return ("pass", "green") if verdict.get("passed") else ("fail", "yellow")


def _evaluator(config: Any) -> str:
    if not isinstance(config, dict):
        return as_text(config)
    name = config.get("name")
    parts = [config.get("func"), config.get("op"), config.get("value")]
    judged = " ".join(as_text(part) for part in parts if part not in (None, "", "raw"))
    return f"{name}: {judged}" if isinstance(name, str) and name else judged or as_text(config)


def draw_error(page: Page, error: Mapping[str, Any]) -> None:
    """Draw the error's message and traceback."""
    message = f"{as_text(error.get('type', ''))}: {as_text(error.get('message', ''))}"
    page.block(message, style="red", most=_ANSWER_LINES)
    if traceback := error.get("traceback"):
        _draw_traceback(page, as_text(traceback).rstrip())


def _draw_traceback(page: Page, traceback: str) -> None:
    """Draw the end of the traceback, where the error was raised."""
    above = traceback.count("\n") + 1 - _TRACEBACK_LINES
    if above > 0 and not page.full:
        page.cut = True
        page.line((f"... ({above:,} lines above)", "dim"))
        traceback = "\n".join(traceback.rsplit("\n", _TRACEBACK_LINES)[1:])
    page.block(traceback, style="dim", most=2 * _TRACEBACK_LINES)


def _draw_trace(page: Page, trace: Sequence[Any]) -> None:
    tree = nodes(trace)
    if not tree:
        return
    whole_s = total_s(tree)
    page.heading(f"Trace: {counted(len(tree), 'span')}, {duration(whole_s)}")
    conversations = Conversations()
    shown = tree if page.full else tree[:MAX_SPANS]
    for node in shown:
        with page.margin("  " + "│ " * node.depth):
            draw_node(page, node, conversations, whole_s)
    if len(shown) < len(tree):
        page.cut = True
        page.line(("  ... " + counted(len(tree) - len(shown), "more span"), "dim"))


def draw_node(page: Page, node: Node, conversations: Conversations, whole_s: float) -> None:
    """Draw a span with its records; ``whole_s`` is the duration of a full bar."""
    title, facts = title_of(node)
    took = f"{duration(node.took_s):>7}"
    time = (f"{took} {bar(node.at_s, node.took_s, whole_s, _BAR_CELLS)} ", "dim")
    page.line(time, title, (f"  {facts}" if facts else "", "dim"))
    is_run = node.span.get("id") == node.span.get("parent_id") and node.kind == "agent"
    with page.margin("│ "):
        draw_step(page, node, conversations, names_only=is_run)
