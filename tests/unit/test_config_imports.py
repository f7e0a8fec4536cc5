from __future__ import annotations

import json
import re
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from agentpipe.config.imports import explain, locate, split
from agentpipe.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def write(file: Path, source: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(source)
    return file


def refusal(reference: str, *search: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        locate(reference, search)
    return str(caught.value)


def test_the_first_folder_that_has_the_module_wins(tmp_path: Path) -> None:
    write(tmp_path / "b" / "mine.py", "WHERE = 'b'")
    write(tmp_path / "c" / "mine.py", "WHERE = 'c'")
    assert locate("mine:WHERE", [tmp_path / "a", tmp_path / "b", tmp_path / "c"]) == "b"


def test_a_module_in_no_folder_is_looked_for_where_python_looks(tmp_path: Path) -> None:
    assert locate("json:dumps", [tmp_path]) is json.dumps
    assert locate("json.decoder:JSONDecoder.decode", []) is json.JSONDecoder.decode


def test_a_module_of_a_package_is_found_with_and_without_init(tmp_path: Path) -> None:
    write(tmp_path / "house" / "__init__.py", "")
    write(tmp_path / "house" / "room.py", "class Table: pass")
    write(tmp_path / "garden" / "tree.py", "class Leaf: pass")
    assert locate("house.room:Table", [tmp_path]).__module__ == "house.room"
    assert locate("garden.tree:Leaf", [tmp_path]).__module__ == "garden.tree"


def test_parts_of_a_package_without_init_may_lie_in_two_folders(tmp_path: Path) -> None:
    write(tmp_path / "a" / "garden" / "tree.py", "NAME = 'tree'")
    write(tmp_path / "b" / "garden" / "rose.py", "NAME = 'rose'")
    assert locate("garden.tree:NAME", [tmp_path / "a"]) == "tree"
    assert locate("garden.rose:NAME", [tmp_path / "b"]) == "rose"


def test_a_second_module_of_the_same_name_is_refused_with_both_files(tmp_path: Path) -> None:
    first = write(tmp_path / "a" / "agents_x.py", "WHERE = 'a'")
    second = write(tmp_path / "b" / "agents_x.py", "WHERE = 'b'")
    assert locate("agents_x:WHERE", [tmp_path / "a"]) == "a"
    told = refusal("agents_x:WHERE", tmp_path / "b")
    assert str(first) in told
    assert str(second) in told
    assert "rename" in told
    assert locate("agents_x:WHERE", [tmp_path / "a"]) == "a"


def test_a_second_package_of_the_same_name_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "a" / "house" / "__init__.py", "")
    write(tmp_path / "a" / "house" / "room.py", "X = 1")
    write(tmp_path / "b" / "house" / "cellar.py", "X = 2")
    locate("house.room:X", [tmp_path / "a"])
    assert "'house' is taken by" in refusal("house.cellar:X", tmp_path / "b")


def test_two_collections_helpers_of_one_name_are_not_mixed_up(tmp_path: Path) -> None:
    for folder in "ab":
        write(tmp_path / folder / f"agents_{folder}.py", "import helpers\nX = helpers.X")
        write(tmp_path / folder / "helpers.py", f"X = {folder!r}")
    assert locate("agents_a:X", [tmp_path / "a"]) == "a"
    assert "'helpers' is taken by" in refusal("agents_b:X", tmp_path / "b")


def test_a_helper_that_would_be_taken_from_an_earlier_folder_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "a" / "agents_a.py", "X = 'a'")
    write(tmp_path / "a" / "helpers.py", "X = 'a'")
    write(tmp_path / "b" / "agents_b.py", "def late():\n    from helpers import X\n    return X")
    write(tmp_path / "b" / "helpers.py", "X = 'b'")
    locate("agents_a:X", [tmp_path / "a"])
    assert "'helpers' is taken by" in refusal("agents_b:late", tmp_path / "b")


def test_a_module_named_as_one_of_the_standard_library_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "calendar.py", "X = 1")
    assert "standard library" in refusal("calendar:X", tmp_path)


def test_neighbours_can_be_imported_and_only_the_folder_used_is_opened(tmp_path: Path) -> None:
    write(tmp_path / "a" / "other.py", "")
    write(tmp_path / "b" / "user.py", "from neighbour import X")
    write(tmp_path / "b" / "neighbour.py", "X = 5")
    assert locate("user:X", [tmp_path / "a", tmp_path / "b"]) == 5
    assert str(tmp_path / "b") == sys.path[-1]
    assert str(tmp_path / "a") not in sys.path


def test_a_reference_that_is_not_found_opens_nothing(tmp_path: Path) -> None:
    before = list(sys.path)
    told = refusal("nowhere_at_all:X", tmp_path)
    assert sys.path == before
    assert "no module 'nowhere_at_all'" in told
    assert str(tmp_path) in told


def test_files_of_one_name_live_side_by_side_by_their_paths(tmp_path: Path) -> None:
    write(tmp_path / "a" / "agents-1.py", "class Me: where = 'a'")
    write(tmp_path / "b" / "agents-1.py", "class Me: where = 'b'")
    first, second = (locate(f"{name}/agents-1.py:Me", [tmp_path]) for name in "ab")
    assert (first.where, second.where) == ("a", "b")
    assert locate("a/agents-1.py:Me", [tmp_path]) is first
    assert first.__module__ in sys.modules


def test_a_file_that_is_not_there_is_reported_with_the_folders(tmp_path: Path) -> None:
    assert f"no file 'x/y.py' in {tmp_path}" in refusal("x/y.py:Me", tmp_path)
    assert "none given" in refusal("x/y.py:Me")
    assert "no file" in refusal(f"{'x' * 5000}.py:Me", tmp_path)


def test_a_missing_attribute_names_the_nearest(tmp_path: Path) -> None:
    file = write(tmp_path / "shouting.py", "class Shout: pass")
    assert refusal("shouting:Shuot", tmp_path).endswith(
        f"{file} has no 'Shuot': did you mean 'Shout'?"
    )


def test_a_failing_import_tells_the_users_error_and_its_line(tmp_path: Path) -> None:
    file = write(tmp_path / "failing.py", "import json\n\njson.loads('x')\n")
    told = refusal("failing:X", tmp_path)
    assert "JSONDecodeError: Expecting value" in told
    assert told.endswith(f"(at {file}:3)")
    assert "failing" not in sys.modules


def test_an_import_that_fails_in_a_neighbour_tells_the_neighbours_line(tmp_path: Path) -> None:
    write(tmp_path / "outer.py", "import inner_one")
    file = write(tmp_path / "inner_one.py", "\nimport not_installed_here")
    told = refusal("outer:X", tmp_path)
    assert "No module named 'not_installed_here'" in told
    assert told.endswith(f"(at {file}:2)")


def test_a_syntax_error_tells_its_line(tmp_path: Path) -> None:
    file = write(tmp_path / "broken.py", "x = 1\ndef (:\n")
    assert f"(at {file}:2)" in refusal("broken:X", tmp_path)


def test_a_script_that_exits_is_a_failing_import(tmp_path: Path) -> None:
    write(tmp_path / "script.py", "raise SystemExit(3)")
    assert "SystemExit: 3" in refusal("script.py:X", tmp_path)


@pytest.mark.parametrize(
    "reference", ["", ":", "a", "a:", ":b", "a:b:c", "a b:c", ".py:X", "a..b:c", "a:b()", "a/b:c"]
)
def test_a_malformed_reference_is_told_the_right_form(reference: str) -> None:
    assert "write module:Name or file.py:Name" in refusal(reference)


def test_a_failed_import_names_the_users_line_that_called_agentpipe(tmp_path: Path) -> None:
    source = "from agentpipe import Settings\nSettings.from_env({'AGENTPIPE_LEASE_S': 'x'})\n"
    write(tmp_path / "calling.py", source)
    with pytest.raises(ConfigError) as caught:
        locate("calling:Me", [tmp_path])
    assert str(caught.value).endswith(f"(at {tmp_path / 'calling.py'}:2)")


def test_splitting_imports_nothing() -> None:
    assert split("not.there:A.b") == ("not.there", "A.b")
    assert split("no/file.py:A") == ("no/file.py", "A")


def test_threads_that_locate_the_same_run_the_module_once(tmp_path: Path) -> None:
    write(tmp_path / "counted.py", "import builtins\nclass Me: pass\n")
    found: list[object] = []
    threads = [
        threading.Thread(target=lambda: found.append(locate("counted:Me", [tmp_path])))
        for _ in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 16
    assert len(set(map(id, found))) == 1


def test_an_exception_whose_text_raises_is_explained_all_the_same() -> None:
    class HostileError(Exception):
        def __str__(self) -> str:
            raise KeyboardInterrupt

    with pytest.raises(HostileError) as caught:
        raise HostileError
    told = explain(caught.value)
    assert re.fullmatch(r"HostileError \(its message cannot be read\) \(at .*\.py:\d+\)", told)
