"""pandas, pyarrow and datasets read exported results; run by `make test-inspect`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet

from agentpipe.archive import Archive
from agentpipe.archive.export import parquet as export_parquet
from agentpipe.archive.export.columns import COLUMNS, columns, row
from agentpipe.archive.export.parquet import write_parquet
from agentpipe.settings import Settings
from agentpipe.sinks import open_sink
from agentpipe.sinks.base import Record
from tests.inspect.results import HARD, RESULTS, asked, ok, records

ALL = columns(trace=True)
ROWS = [row(each, ALL) for each in RESULTS]
TYPES = {
    "string": pa.string(),
    "json": pa.string(),
    "integer": pa.int64(),
    "number": pa.float64(),
    "boolean": pa.bool_(),
    "time": pa.timestamp("us", tz="UTC"),
}
TIMES = [each.name for each in COLUMNS if each.kind == "time"]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings of an archive that also has records of other publishers."""
    settings = Settings(sink=f"sqlite:///{tmp_path / 'results.db'}")
    sink = open_sink(settings)
    sink.publish([*records(*RESULTS), Record("odd", b"{}"), Record("odd", b'"\\ud800"')])
    sink.close()
    return settings


def export(settings: Settings, *args: str) -> Path:
    """Run the command; return its file."""
    path = Path(settings.sink.removeprefix("sqlite:///")).with_name("out")
    command = [sys.executable, "-m", "agentpipe", "export", "--sink", settings.sink, "--force"]
    subprocess.run([*command, str(path), *args], check=True, timeout=60)
    return path


def plain(table: Any) -> list[dict[str, Any]]:
    """The rows of a pyarrow table, with times as strings."""
    rows: list[dict[str, Any]] = table.to_pylist()
    for each in rows:
        for name in TIMES:
            if each[name] is not None:
                each[name] = (
                    f"{each[name].replace(tzinfo=None).isoformat(timespec='microseconds')}Z"
                )
    return rows


def test_parquet_has_the_same_types_whatever_the_results_hold(settings: Settings) -> None:
    wanted = {each.name: TYPES[each.kind] for each in COLUMNS}
    for empty in ([], ["--outcome", "stale"]):
        file = parquet.ParquetFile(export(settings, "--to", "parquet", "--run", "v2", *empty))
        found = file.schema_arrow
        assert {each.name: each.type for each in found} == wanted
        assert found.metadata[b"agentpipe.columns"] == b"2"
        assert file.metadata.num_rows == (0 if empty else len(ROWS))


def test_parquet_holds_every_value(settings: Settings) -> None:
    assert plain(parquet.read_table(export(settings, "--to", "parquet"))) == ROWS


def test_parquet_is_written_in_groups_of_bounded_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_parquet, "GROUP_ROWS", 4)
    monkeypatch.setattr(export_parquet, "GROUP_CHARS", 50_000)
    path = tmp_path / "out"
    with path.open("wb") as file:
        written = write_parquet((ok(n, "y" * (n * 5_000)) for n in range(12)), file, ALL)
    found = parquet.ParquetFile(path)
    assert written == found.metadata.num_rows == 12
    sizes = [found.metadata.row_group(n).num_rows for n in range(found.num_row_groups)]
    assert sizes[0] == 4
    assert sizes[-1] == 1


def test_pandas_reads_each_format(settings: Settings) -> None:
    answers = [each["result"] for each in ROWS]
    missing = [each is None for each in answers]
    jsonl = pd.read_json(export(settings, "--to", "jsonl"), lines=True, dtype=False)
    assert jsonl["result"].isna().tolist() == missing
    assert jsonl["result"].dropna().tolist() == [each for each in answers if each is not None]
    found = pd.read_parquet(export(settings, "--to", "parquet"))
    assert found["result"].isna().tolist() == missing
    assert found["result"].dropna().tolist() == [each for each in answers if each is not None]
    table = pd.read_csv(export(settings, "--to", "csv"), keep_default_na=False, dtype=str)
    assert table["result"].tolist() == [
        "4",
        '{"sum":4}',
        HARD.replace("\0", "\ufffd"),
        "",
        answers[4],
    ]
    assert table["seed"].tolist() == [str(2**63 - 1)] * 3 + [""] + [str(2**63 - 1)]


def test_datasets_reads_the_rows_and_each_file(settings: Settings) -> None:
    assert datasets.Dataset.from_list(ROWS)["trace"][:] == [each["trace"] for each in ROWS]
    cache = str(Path(settings.sink.removeprefix("sqlite:///")).with_name("cache"))
    for name, builder in (
        ("jsonl", datasets.Dataset.from_json),
        ("parquet", datasets.Dataset.from_parquet),
    ):
        found = builder(str(export(settings, "--to", name)), cache_dir=cache, keep_in_memory=True)
        assert found["result"][:] == [each["result"] for each in ROWS]


def test_datasets_reads_conversations(tmp_path: Path) -> None:
    samples = (asked(1, 0), asked(1, 1, 0.5), ok(2), asked(3, 0, None))
    settings = Settings(sink=f"sqlite:///{tmp_path / 'results.db'}")
    sink = open_sink(settings)
    sink.publish(records(*samples))
    sink.close()
    file = export(settings, "--to", "sft")
    found = datasets.Dataset.from_json(str(file), cache_dir=str(tmp_path / "cache"))
    assert found["reward"][:] == [1.0, 0.5, None]
    for messages in found["messages"][:]:
        roles = [each["role"] for each in messages]
        assert roles == ["system", "user", "assistant", "tool", "assistant"]
        assert messages[2]["tool_calls"][0]["function"]["arguments"] == '{"a": 2}'
        assert messages[-1]["content"] == HARD


def test_a_frame_has_one_type_per_column(settings: Settings) -> None:
    with Archive.open(settings) as archive:
        frame, empty = archive.frame(run="v2"), archive.frame(run="v9", trace=False)
        failures = archive.frame(outcome="agent_error")
    assert list(frame.columns) == [each.name for each in COLUMNS]
    assert list(empty.columns) == [each.name for each in COLUMNS if each.name != "trace"]
    assert (
        frame.dtypes.drop("trace").tolist()
        == empty.dtypes.tolist()
        == failures.dtypes.drop("trace").tolist()
    )
    assert str(frame["finished_at"].dtype) == "datetime64[us, UTC]"
    assert frame["seed"].tolist()[0] == 2**63 - 1
    assert frame["reward"].mean() == 1.0
    assert frame["run_s"].tolist()[0] == 1.25
    assert [json.loads(each) for each in frame["trace"]] == [each.trace for each in RESULTS]
    assert failures["error_message"].tolist() == [HARD]


def test_a_frame_goes_to_parquet(settings: Settings, tmp_path: Path) -> None:
    with Archive.open(settings) as archive:
        archive.frame().to_parquet(tmp_path / "frame.parquet")
    assert plain(parquet.read_table(tmp_path / "frame.parquet")) == ROWS
