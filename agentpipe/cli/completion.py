"""``agentpipe completion``: a script for the shell, made of the parser that the commands use."""

from __future__ import annotations

import argparse
import shlex
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from agentpipe.cli import OK, whole_parser
from agentpipe.cli.common import print_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# How the parser's metavars call what lies on the disk.
FILES = ("FILE", "PATH", "FOLDER", "TASKS")


@dataclass(frozen=True, slots=True)
class Option:
    """An option, or an argument that has no name.

    Attributes:
        names: Its flags; none for an argument.
        choices: What its value may be, where that is known.
        is_file: Its value is a file or a folder.
        has_value: Whether a word follows it.
    """

    names: tuple[str, ...]
    choices: tuple[str, ...] = ()
    is_file: bool = False
    has_value: bool = True
    about: str = ""


@dataclass(frozen=True, slots=True)
class Place:
    """A command, an action of one, or the program itself: what may come next there."""

    words: str
    commands: dict[str, str] = field(default_factory=dict)
    options: tuple[Option, ...] = ()

    @property
    def flags(self) -> list[str]:
        """All flags."""
        return [name for option in self.options for name in option.names]

    @property
    def takes_files(self) -> bool:
        """Whether a file may stand there without an option before it."""
        return any(option.is_file for option in self.options if not option.names)

    @property
    def next_words(self) -> list[str]:
        """What may stand there without an option before it, and is known."""
        arguments = [option for option in self.options if not option.names]
        return [*self.commands, *(word for each in arguments for word in each.choices)]


def add(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("shell", metavar="SHELL", choices=tuple(SCRIPTS), help="bash, zsh or fish")
    parser.add_argument("--json", action="store_true", help='print {"shell", "script"}')


def run(args: argparse.Namespace) -> int:
    """Print the script."""
    script = SCRIPTS[args.shell](list(places(whole_parser())))
    if args.json:
        print_json({"shell": args.shell, "script": script})
    else:
        print(script, end="")  # noqa: T201 - each character as it is
    return OK


def places(parser: argparse.ArgumentParser, words: str = "") -> Iterator[Place]:
    """The parser's place, and those of its commands."""
    actions = parser._actions  # noqa: SLF001 - argparse has no other way
    below = [each for each in actions if isinstance(each, argparse._SubParsersAction)]  # noqa: SLF001
    options = tuple(_option(each) for each in actions if each not in below)
    commands = {
        choice.dest: choice.help or ""
        for each in below
        for choice in each._choices_actions  # noqa: SLF001 - likewise
    }
    yield Place(words, commands, options)
    for each in below:
        for name, command in each.choices.items():
            yield from places(command, f"{words} {name}".strip())


def _option(action: argparse.Action) -> Option:
    return Option(
        tuple(action.option_strings),
        tuple(map(str, action.choices or ())),
        action.metavar in FILES,
        action.nargs != 0,
        (action.help or "").replace("%%", "%"),
    )


# The scripts. Each finds the place by the words before the cursor, then what may come next there.

_BASH = """\
# eval "$(agentpipe completion bash)"
_agentpipe() {{
  local current=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}} at= word
  for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
    case "$at $word" in
{steps}
    esac
  done
  COMPREPLY=()
  case "$at:$before" in
{values}
  esac
  case "$at:$current" in
{flags}
  esac
  case "$at" in
{words}
  esac
}}
complete -F _agentpipe agentpipe
"""
_BASH_FILES = 'compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$current")'


def _bash(found: list[Place]) -> str:
    return _filled(_BASH, found, _bash_words, _BASH_FILES)


def _bash_words(words: list[str]) -> str:
    joined = shlex.quote(" ".join(words))
    return f'mapfile -t COMPREPLY < <(compgen -W {joined} -- "$current")'


_ZSH = """\
#compdef agentpipe
# source <(agentpipe completion zsh), or as the file _agentpipe in a folder of $fpath
_agentpipe() {{
  local current=${{words[CURRENT]}} before=${{words[CURRENT-1]}} at= word
  for word in "${{(@)words[2,CURRENT-1]}}"; do
    case "$at $word" in
{steps}
    esac
  done
  case "$at:$before" in
{values}
  esac
  case "$at:$current" in
{flags}
  esac
  case "$at" in
{words}
  esac
}}
if [ "$funcstack[1]" = _agentpipe ]; then _agentpipe "$@"; else compdef _agentpipe agentpipe; fi
"""


def _zsh(found: list[Place]) -> str:
    return _filled(_ZSH, found, _zsh_words, "_files")


def _zsh_words(words: list[str]) -> str:
    return f"compadd -- {' '.join(map(shlex.quote, words))}"


def _filled(script: str, found: list[Place], words: Callable[[list[str]], str], files: str) -> str:
    return script.format(
        steps="\n".join(_steps(found)),
        values="\n".join(_values(found, words, files)),
        flags="\n".join(f'    "{p.words}":-*) {words(p.flags)}; return ;;' for p in found),
        words="\n".join(_words(found, words, files)),
    )


def _steps(found: list[Place]) -> Iterator[str]:
    """From one place to the next."""
    for place in found:
        for name in place.commands:
            yield f'      "{place.words} {name}") at="{f"{place.words} {name}".strip()}" ;;'


def _values(found: list[Place], words: Callable[[list[str]], str], files: str) -> Iterator[str]:
    """Behind an option that has a value."""
    for place in found:
        for option in place.options:
            if option.names and option.has_value:
                pattern = "|".join(f'"{place.words}:{name}"' for name in option.names)
                done = words(list(option.choices)) if option.choices else ":"
                yield f"    {pattern}) {files if option.is_file else done}; return ;;"


def _words(found: list[Place], words: Callable[[list[str]], str], files: str) -> Iterator[str]:
    """Where no option stands before."""
    for place in found:
        known = place.next_words
        if known or place.takes_files:
            yield f'    "{place.words}") {words(known) if known else files} ;;'


_FISH = """\
# agentpipe completion fish | source
function __agentpipe_at
    set -l at ''
    for word in (commandline -opc)[2..-1]
        switch "$at $word"
{steps}
        end
    end
    test "$at" = "$argv[1]"
end
complete -c agentpipe -f
{lines}
"""


def _fish(found: list[Place]) -> str:
    steps = [
        f"            case {_q(words)}; set at {_q(words.strip())}"
        for place in found
        for words in (f"{place.words} {name}" for name in place.commands)
    ]
    lines = [line for place in found for line in _fish_lines(place)]
    return _FISH.format(steps="\n".join(steps), lines="\n".join(lines))


def _fish_lines(place: Place) -> Iterator[str]:
    begin = f"complete -c agentpipe -n {_q(f'__agentpipe_at {_q(place.words)}')}"
    for name, about in place.commands.items():
        yield f"{begin} -a {name} -d {_q(about)}"
    for option in place.options:
        names = "".join(
            f" -l {name[2:]}" if name.startswith("--") else f" -s {name[1:]}"
            for name in option.names
        )
        value = f" -a {_q(' '.join(option.choices))}" if option.choices else ""
        takes = " -r" if option.names and option.has_value else ""
        if names or value or option.is_file:
            files = " -F" if option.is_file else ""
            yield f"{begin}{names}{takes}{value}{files} -d {_q(option.about)}"


def _q(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


SCRIPTS: dict[str, Callable[[list[Place]], str]] = {"bash": _bash, "zsh": _zsh, "fish": _fish}
