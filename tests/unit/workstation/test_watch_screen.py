"""The one screen of watch: what a person reads on it, at any size of terminal."""

from __future__ import annotations

import io
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from rich.console import Console

from chronos_ec2.workstation.run_progress import Fetched, Progress
from chronos_ec2.workstation.run_record import RunRecord
from chronos_ec2.workstation.sight import Phase, Sight, cost_so_far
from chronos_ec2.workstation.watch_screen import PHASES, Screen, share_text

NOW = datetime(2025, 1, 15, 15, 0, 0, tzinfo=UTC)
RUN = "2025-01-15-143022"


def sample(util: int = 78, cpu: float = 23.0) -> dict[str, Any]:
    gpu = {"index": 0, "util_percent": util, "memory_bytes": 11.2e9, "memory_total_bytes": 16e9}
    return {
        "cpu_percent": cpu,
        "memory_bytes": 7.2e9,
        "memory_total_bytes": 33e9,
        "disk_bytes": 34e9,
        "disk_total_bytes": 100e9,
        "network_in_bytes_per_second": 1_200_000,
        "network_out_bytes_per_second": 0,
        "gpus": [{**gpu, "power_watts": 68.2, "temperature_celsius": 71}],
    }


def training(**changes: Any) -> Sight:
    """A run in the middle of training, with everything there is to see."""
    began = NOW - timedelta(minutes=20)
    phases = [Phase(name, None, 12.0, "ok") for name in PHASES[:5]]
    progress = Progress(
        step=120,
        total_steps=300,
        seconds_left=1020,
        losses=tuple(1 / (1 + place) for place in range(200)),
        first_loss=1.0,
        least_loss=0.005,
        samples=tuple(sample(util) for util in range(0, 100, 5)),
        machine={"cpus": 8, "gpus": [{"index": 0, "name": "Tesla T4"}]},
    )
    sight = Sight(
        environment="dev",
        run_id=RUN,
        word="training",
        seen_at=NOW,
        status="training",
        current_step="step_120",
        heartbeat_age_seconds=4,
        instance_id="i-0123456789abcdef0",
        record=RunRecord(
            run_id=RUN,
            environment="dev",
            started_at=began - timedelta(minutes=2),
            instance_type="g4dn.2xlarge",
            cost_usd={"total": 0.27},
        ),
        phases=(*phases, Phase("training", began)),
        log_tail=tuple(f"trainer| line {number}" for number in range(40)),
        cost_at_deadline_usd=4.52,
        deadline=NOW + timedelta(hours=5),
        progress=progress,
    )
    return replace(sight, **changes)


def drawn(
    sight: Sight,
    width: int = 80,
    height: int = 24,
    *,
    later: float = 0,
    note: str | None = None,
    utf: bool = True,
) -> list[str]:
    """The screen's lines as a terminal of that size would have them."""
    out = io.StringIO()
    console = Console(file=out, width=width, height=height, force_terminal=True, color_system=None)
    screen = Screen("utf-8" if utf else "ascii")
    console.print(screen.draw(sight, NOW + timedelta(seconds=later), width, height, note))
    return out.getvalue().rstrip("\n").split("\n")


@pytest.mark.parametrize(
    ("width", "height"), [(80, 24), (140, 40), (40, 12), (300, 100), (80, 8), (20, 5), (1, 1)]
)
def test_it_overflows_no_terminal(width: int, height: int) -> None:
    note = "S3 does not answer; trying again, the run is not affected " * 3
    lines = drawn(training(detail="x" * 500), width, height, note=note)
    assert len(lines) <= height
    assert max(map(len, lines)) <= width


@pytest.mark.parametrize(("width", "height"), [(80, 24), (140, 40)])
def test_it_has_all_that_a_person_asks_for(width: int, height: int) -> None:
    text = "\n".join(drawn(training(), width, height))
    for words in (
        *("dev", RUN, "training", "i-0123456789abcdef0 g4dn.2xlarge", "heartbeat 4 s ago"),
        *("running 22 min", "$0.27 so far", "$4.52 at the deadline", "20 min 00 s", "40%", "step 120 of 300"),
        *("17 min 00 s left", "loss", "0.005", "GPU 0", "95 %", "11.2 of 16.0 GB", "71 °C", "68 W"),
        *("CPU x8", "23 %", "7.2 of 33.0 GB", "disk 34.0 of 100.0 GB", "line 39"),
    ):
        assert words in text, words
    assert "✔ data_sync" in text and "· cleanup" in text


def test_a_full_load_stands_apart_from_what_it_is_of() -> None:
    sight = training()
    busy = replace(sight, progress=replace(sight.progress, samples=(sample(100, 100.0),)))
    text = "\n".join(drawn(busy, 80, 24))
    assert " GPU 0 100 % " in text and " CPU x8 100 % " in text


def test_the_dollars_are_not_cut_and_the_launch_comes_first() -> None:
    lines = drawn(training(phases=(Phase("launch", NOW - timedelta(seconds=5)),)), 70)
    assert any(line == "$0.27 so far, $4.52 at the deadline (in 5 h 00 min)" for line in lines)
    names = [line.split()[1] for line in lines if line.startswith((" ▶", " ·"))]
    assert names == ["launch", *PHASES]


def test_the_log_has_the_room_that_is_left_and_its_newest_lines() -> None:
    for height in (24, 40):
        lines = drawn(training(), 80, height)
        assert len(lines) == height
        assert lines[-1].endswith("line 39")


def test_on_a_low_terminal_the_present_phase_and_the_log_stay() -> None:
    lines = drawn(training(), 80, 14)
    text = "\n".join(lines)
    assert "step 120 of 300" in text and "cleanup" not in text
    assert lines[-1].endswith("line 39")


def test_between_two_looks_the_times_go_on_and_silence_is_named() -> None:
    text = "\n".join(drawn(training(), later=5))
    assert "heartbeat 9 s ago" in text and "no answer" not in text
    text = "\n".join(drawn(training(), later=65))
    assert "heartbeat 1 min 09 s ago" in text and "no answer for 1 min 05 s" in text
    assert "S3 is away (seen 1 min 05 s ago)" in "\n".join(drawn(training(), later=65, note="S3 is away"))


def test_idle_gpus_and_the_kernels_word_are_on_it() -> None:
    progress = replace(training().progress, idle_minutes=20.0, kernel="NVRM: Xid (PCI:0000:00:1e): 79\x1b[2J")
    text = "\n".join(drawn(training(progress=progress)))
    assert "no GPU has done anything for 20 minutes" in text
    assert "kernel: NVRM: Xid (PCI:0000:00:1e): 79" in text and "\x1b[2J" not in text


@pytest.mark.parametrize(
    ("total", "shown"), [(400_000_000, " 30%  120.0 MB of 400.0 MB"), (None, "120.0 MB")]
)
def test_a_download_has_a_bar_where_all_bytes_are_known(total: int | None, shown: str) -> None:
    progress = Progress(fetched={"environment": Fetched(120_000_000, total)})
    phases = (Phase("initialization", None, 3.0, "ok"), Phase("venv_download", NOW - timedelta(seconds=9)))
    text = "\n".join(drawn(training(status="initialization", phases=phases, progress=progress)))
    assert shown in text and "9 s" in text
    assert ("━" in text) == (total is not None)


def test_a_terminal_without_utf_8_gets_plain_characters() -> None:
    lines = drawn(training(), utf=False)
    assert "\n".join(lines).isascii()
    assert any("###" in line for line in lines)


def test_what_a_log_holds_does_not_steer_the_terminal() -> None:
    sight = training(log_tail=("[bold]not markup[/]", "\x1b[2Jcleared", "\x07bell"))
    text = "\n".join(drawn(sight))
    assert "[bold]not markup[/]" in text
    assert "\x1b" not in text and "\x07" not in text


def test_a_curve_rises_and_falls_with_its_values_and_fits() -> None:
    screen = Screen("utf-8")
    assert screen.spark([0, 1, 2, 3, 4, 5, 6, 7], 8) == "▁▂▃▄▅▆▇█"
    assert screen.spark(list(range(8000)), 8) == "▁▂▃▄▅▆▇█"
    assert screen.spark([5, 5, 5], 8) == "▁▁▁"
    assert screen.spark([0, 50, 100, 200], 8, top=100) == "▁▅██"
    assert screen.spark([], 8) == screen.spark([1, 2], 0) == ""


def test_what_stays_of_an_ended_run_are_its_phases_and_its_loss() -> None:
    out = io.StringIO()
    console = Console(file=out, width=80, color_system=None)
    phases = (Phase("initialization", None, 3.0, "ok"), Phase("training", None, 70.0, "failed"))
    console.print(Screen("utf-8").last(training(phases=phases), 80))
    assert "✔ initialization" in out.getvalue() and "✘ training" in out.getvalue()
    assert "1 min 10 s  failed" in out.getvalue() and "loss" in out.getvalue()


def test_how_it_goes_is_seen_on_a_narrow_terminal() -> None:
    assert drawn(training(word="stalled"), 20, 10)[0].strip() == "stalled"


def test_an_alarm_takes_one_line_also_when_it_was_written_in_several() -> None:
    lines = drawn(training(detail="one\ntwo\n\n three"))
    assert any(line.strip() == "one two three" for line in lines)


def test_what_is_used_has_the_unit_of_the_whole() -> None:
    small = {"memory_bytes": 400_000_000, "memory_total_bytes": 957_000_000}
    assert share_text(small, "memory") == "400.0 of 957.0 MB"
    assert share_text({"memory_bytes": 7.2e9, "memory_total_bytes": 33e9}, "memory") == "7.2 of 33.0 GB"


def test_past_its_deadline_a_run_has_no_figure_for_it() -> None:
    assert cost_so_far(training()) == "$0.27 so far, $4.52 at the deadline"
    assert cost_so_far(training(deadline=NOW - timedelta(minutes=1))) == "$0.27 so far"
