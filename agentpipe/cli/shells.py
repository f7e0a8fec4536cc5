"""The scripts that complete a command line, one for each shell, out of what may stand where."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@dataclass(frozen=True, slots=True)
class Option:
    """An option, or an argument that has no name.

    Attributes:
        names: Its flags; none for an argument.
        choices: What its value may be, where that is known.
        is_file: Its value is a file or a folder.
        is_collection: Its value is the name of a collection.
        has_value: Whether a word follows it.
    """

    names: tuple[str, ...]
    choices: tuple[str, ...] = ()
    is_file: bool = False
    is_collection: bool = False
    has_value: bool = True
    about: str = ""


@dataclass(frozen=True, slots=True)
class Offers:
    """How a shell is told what may come next.

    Attributes:
        words: Some of these words.
        files: What is on the disk.
        collections: The names that the collection file has at that moment.
    """

    words: Callable[[list[str]], str]
    files: str
    collections: str

    def of(self, option: Option) -> str:
        """What an option's value may be."""
        if option.choices:
            return self.words(list(option.choices))
        if option.is_file:
            return self.files
        return self.collections if option.is_collection else ":"


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
    def takes_collections(self) -> bool:
        """Whether a collection's name may stand there without an option before it."""
        return any(option.is_collection for option in self.options if not option.names)

    @property
    def next_words(self) -> list[str]:
        """What may stand there without an option before it, and is known."""
        arguments = [option for option in self.options if not option.names]
        return [*self.commands, *(word for each in arguments for word in each.choices)]


# The scripts. Each finds the place by the words before the cursor, then what may come next there.

# What follows from where the cursor is; bash and zsh have the same words for it.
_CASES = """\
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
"""
_BASH = (
    """\
# eval "$(agentpipe completion bash)"
_agentpipe() {{
  local current=${{COMP_WORDS[COMP_CWORD]}} before= at= word program file=
  [ "$current" = "=" ] && current=
  for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
    [ "$word" = "=" ] && continue  # Of --option=value, which are three words here.
    case "$before" in -c|--collection-file) file=${{word/#\\~/$HOME}} ;; esac
    before=$word
    case "$at $word" in
{steps}
    esac
  done
  COMPREPLY=() program=${{COMP_WORDS[0]/#\\~/$HOME}}
"""
    + _CASES
    + """\
complete -F _agentpipe agentpipe
"""
)
_BASH_FILES = 'compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$current")'
_BASH_COLLECTIONS = (
    'word=$("$program" completion bash --collections ${file:+-c "$file"} 2>/dev/null) || word=; '
    'mapfile -t COMPREPLY < <(compgen -W "$word" -- "$current")'
)


def _bash(found: list[Place]) -> str:
    return _filled(_BASH, found, Offers(_bash_words, _BASH_FILES, _BASH_COLLECTIONS))


def _bash_words(words: list[str]) -> str:
    joined = shlex.quote(" ".join(words))
    return f'mapfile -t COMPREPLY < <(compgen -W {joined} -- "$current")'


_ZSH = (
    """\
#compdef agentpipe
# source <(agentpipe completion zsh), or as the file _agentpipe in a folder of $fpath
_agentpipe() {{
  local current=${{words[CURRENT]}} before= at= word file=
  for word in "${{(@)words[2,CURRENT-1]}}"; do
    case "$before" in -c|--collection-file) file=${{~word}} ;; esac
    case "$word" in --collection-file=*) file=${{~word#*=}} ;; esac
    before=$word
    case "$at $word" in
{steps}
    esac
  done
  case "$current" in --*=*) before=${{current%%=*}}; compset -P 1 '*=' ;; esac
"""
    + _CASES
    + """\
if [ "$funcstack[1]" = _agentpipe ]; then _agentpipe "$@"; else compdef _agentpipe agentpipe; fi
"""
)


_ZSH_COLLECTIONS = (
    'compadd -- ${(f)"$(${~words[1]} completion zsh --collections ${file:+-c} $file 2>/dev/null)"}'
)


def _zsh(found: list[Place]) -> str:
    return _filled(_ZSH, found, Offers(_zsh_words, "_files", _ZSH_COLLECTIONS))


def _zsh_words(words: list[str]) -> str:
    return f"compadd -- {' '.join(map(shlex.quote, words))}"


def _filled(script: str, found: list[Place], offers: Offers) -> str:
    return script.format(
        steps="\n".join(_steps(found)),
        values="\n".join(_values(found, offers)),
        flags="\n".join(f'    "{p.words}":-*) {offers.words(p.flags)}; return ;;' for p in found),
        words="\n".join(_words(found, offers)),
    )


def _steps(found: list[Place]) -> Iterator[str]:
    """From one place to the next."""
    for place in found:
        for name in place.commands:
            yield f'      "{place.words} {name}") at="{f"{place.words} {name}".strip()}" ;;'


def _values(found: list[Place], offers: Offers) -> Iterator[str]:
    """Behind an option that has a value."""
    for place in found:
        for option in place.options:
            if option.names and option.has_value:
                pattern = "|".join(f'"{place.words}:{name}"' for name in option.names)
                yield f"    {pattern}) {offers.of(option)}; return ;;"


def _words(found: list[Place], offers: Offers) -> Iterator[str]:
    """Where no option stands before."""
    for place in found:
        if known := place.next_words:
            yield f'    "{place.words}") {offers.words(known)} ;;'
        elif place.takes_collections:
            yield f'    "{place.words}") {offers.collections} ;;'
        elif place.takes_files:
            yield f'    "{place.words}") {offers.files} ;;'


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
function __agentpipe_collections
    set -l words (commandline -opc)
    set -l file
    for name in -c --collection-file
        if set -l at (contains -i -- $name $words)
            set file -c $words[(math $at + 1)]
        end
    end
    if set -l given (string match -r -- '^--collection-file=(.+)' $words)
        set file -c $given[2]
    end
    eval $words[1] completion fish --collections (string escape -- $file) 2>/dev/null
end
complete -c agentpipe -f
{lines}
"""


_FISH_COLLECTIONS = "(__agentpipe_collections)"


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
        offered = _FISH_COLLECTIONS if option.is_collection else " ".join(option.choices)
        value = f" -a {_q(offered)}" if offered else ""
        takes = _fish_takes(option)
        if names or value or option.is_file:
            files = " -F" if option.is_file else ""
            yield f"{begin}{names}{takes}{value}{files} -d {_q(option.about)}"


def _fish_takes(option: Option) -> str:
    if not option.names or not option.has_value:
        return ""
    return " -r" if option.is_file else " -x"


def _q(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


SCRIPTS: dict[str, Callable[[list[Place]], str]] = {"bash": _bash, "zsh": _zsh, "fish": _fish}
