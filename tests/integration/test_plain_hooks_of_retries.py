"""Options that middleware hooks change during a run, in the run that follows its failure."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import dramatiq
import pytest
from dramatiq import Middleware

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.integration.plain import Plain


class Notes(Middleware):
    """Writes into the options at each signal of a run, and says what it finds before."""

    def __init__(self, say: Callable[[Any], None]) -> None:
        self._say = say

    def before_process_message(self, _: Any, message: Any) -> None:
        seen = message.options.setdefault("seen", {"before": 0})
        self._say(dict(seen))
        seen["before"] += 1

    def after_process_message(self, *about: Any, **__: Any) -> None:
        seen = about[1].options["seen"]
        seen["after"] = seen.get("after", 0) + 1

    def before_enqueue(self, _: Any, message: dramatiq.Message[Any], delay: Any) -> None:
        seen = message.options.get("seen")
        if seen is not None and delay is not None:  # Not when it is sent, but for its retry.
            seen["again"] = seen.get("again", 0) + 1


FOUND = [
    {"before": 0},
    {"before": 1, "after": 1, "again": 1},
    {"before": 2, "after": 2, "again": 2},
]


@pytest.mark.every_broker
def test_a_retry_of_an_actor_has_what_hooks_wrote_into_its_options(plain: Plain) -> None:
    plain.broker.add_middleware(Notes(plain.say))

    @plain.actor(min_backoff=1, max_retries=2)
    def work() -> None:
        raise ValueError("again")

    work.send()
    plain.start()
    assert plain.result().attempt == 3
    assert plain.said == FOUND


@pytest.mark.every_broker
def test_a_retry_of_an_agent_has_them_too_and_its_pipeline(plain: Plain) -> None:
    plain.broker.add_middleware(Notes(plain.say))

    @plain.actor()
    def save(_: str) -> None:
        """Never reached: the agent fails."""

    (plain.agent.message("down") | save.message()).run()
    plain.start()
    assert plain.heard(2)[:2] == FOUND[:2]


def test_what_is_no_json_or_no_option_stays_behind_with_a_word(
    plain: Plain, caplog: pytest.LogCaptureFixture
) -> None:
    class Careless(Middleware):
        def before_process_message(self, _: Any, message: Any) -> None:
            plain.say(sorted(message.options))
            message.options.update(lock=threading.Lock(), kept=1, max_age="soon", broken="\ud800")

    plain.broker.add_middleware(Careless())

    @plain.actor(min_backoff=1, max_retries=1)
    def work() -> None:
        raise ValueError("again")

    work.send()
    plain.start()
    assert plain.result().outcome == "agent_error"
    assert plain.said == [[], ["kept", "retries"]]
    assert "lock" in caplog.text
    assert "not kept for the retry: broken: " in caplog.text
    assert "max_age: expected milliseconds" in caplog.text
