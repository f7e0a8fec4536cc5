"""Finds the files that other files name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentpipe.core.did_you_mean import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


def find_file(written: str, folders: Iterable[Path]) -> Path:
    """The absolute path of the first file that exists in one of ``folders``.

    Raises:
        FileNotFoundError: Lists the paths tried, and a similar name.
    """
    places = list(dict.fromkeys((folder / written).absolute() for folder in folders))
    for place in places:
        if _is_file(place):
            return place
    tried = " and ".join(repr(str(place)) for place in places)
    hint = did_you_mean(
        places[0].name, _names_in(places[0].parent), "write its path from this file's folder"
    )
    raise FileNotFoundError(f"no such file: tried {tried}; {hint}")


def _names_in(folder: Path) -> list[str]:
    try:
        return [path.name for path in folder.iterdir()]
    except OSError:
        return []


def _is_file(place: Path) -> bool:
    try:
        return place.is_file()
    except OSError:
        return False
