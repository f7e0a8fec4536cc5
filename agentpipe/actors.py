"""The module that ``dramatiq agentpipe.actors`` serves, the only one with import side effects.

It reads the settings, builds the broker with its middleware, declares an actor for each agent of
the collection, and sets the broker as Dramatiq's global broker. It must be the first module passed
to `dramatiq`. On a configuration error the process prints the message and exits with code 2; with
an unreachable broker it exits with code 4.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from pathlib import Path
from traceback import extract_stack
from typing import TYPE_CHECKING, NoReturn

import dramatiq
from dramatiq.broker import global_broker

import agentpipe
from agentpipe.config.collection import load
from agentpipe.core import logs
from agentpipe.core.process_privacy import harden, scrub
from agentpipe.core.text import printable
from agentpipe.errors import AgentpipeError, ConfigError, Unreachable
from agentpipe.settings import Settings, misspelt_variables
from agentpipe.sinks import refuse_invalid
from agentpipe.worker.boot_end import end_while_booting
from agentpipe.worker.broker import worker_broker
from agentpipe.worker.private_broker import private_broker
from agentpipe.worker.watch.last_word import LastWord
from agentpipe.worker.watch.pulse import Pulse

if TYPE_CHECKING:
    from agentpipe.sending.broker import StoreBroker


def _refuse_second_place() -> None:
    """Raise if a broker is already set: `dramatiq` serves only that of its first module."""
    if global_broker is not None:
        kind = type(global_broker).__name__
        raise ConfigError(
            f"a {kind} was Dramatiq's broker before agentpipe.actors was imported, and its actors "
            "would not be served: put agentpipe.actors first, as in "
            "`dramatiq agentpipe.actors my_module`"
        )


def _boot() -> StoreBroker:
    booted = end_while_booting()
    harden()
    scrub()
    _refuse_second_place()
    settings = Settings.from_env(os.environ)
    # Start before anything slow: the parent process may exit meanwhile.
    pulse = Pulse(LastWord.of(settings.last_word_file), settings)
    pulse.start()
    if settings.collection_file is None:
        raise ConfigError("set AGENT_COLLECTION_CONFIG_FILE to the collection to serve")
    if not settings.supervisor_pid:  # Otherwise, `agentpipe work` has done it.
        refuse_invalid(settings)
    collections = load(settings.collection_file, settings.max_queue_size)
    made = private_broker(
        collections, lambda: worker_broker(collections, settings, os.environ, pulse, booted)
    )
    logs.configure(settings.log_level, settings.log_format)
    if not settings.supervisor_pid:  # Otherwise, `agentpipe work` has said it.
        for sentence in misspelt_variables(os.environ):
            logging.getLogger(__name__).warning(sentence)
    return made


def _end(error: AgentpipeError, place: str = "") -> NoReturn:
    sys.stderr.write("".join(f"{place}{printable(line, keep='')}\n" for line in error.lines))
    sys.exit(4 if isinstance(error, Unreachable) else 2)


def _end_at(error: AgentpipeError) -> NoReturn:
    """Do the same as ``_end``, naming the line of the user's module that `dramatiq` imports."""
    packages = (str(Path(str(each.__file__)).parent) for each in (agentpipe, dramatiq))
    others = (*packages, contextlib.__file__)
    last = [each for each in extract_stack() if not each.filename.startswith(others)][-1]
    _end(error, f"{printable(last.filename, keep='')}:{last.lineno}: ")


try:
    broker = _boot()
except AgentpipeError as error:
    _end(error)

broker.at_boot = _end_at
dramatiq.set_broker(broker)
