"""The wrapper as a real process with real children."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from chronos_ec2.metrics_log import source_of, time_of

from .conftest import REPOSITORY, Rig, is_alive, wait_for

GOOD = r"""
import json, os, pathlib
def say(event, **fields): print(json.dumps({"event": event, **fields}))
model = pathlib.Path(os.environ["MODEL_DIR"]) / "models/model.pkl"
model.parent.mkdir(); model.write_bytes(b"model")
say("start", params=7, series=3, world_size=1, step=0, max_steps=20, versions={"numpy": "2"})
print("plain text", flush=True)
say("metric", step=10, loss=0.5, lr=0.1)
say("checkpoint", step=10, path="checkpoints/checkpoint-10", seconds=0.1, bytes=9)
say("metric", step=20, loss=0.25, lr=0.1)
say("eval", step=20, WQL=0.05, MASE=0.5)
say("train_end", steps=20, seconds=1.5, interrupted=False)
say("final", metrics={"WQL": 0.04, "MASE": 0.4, "train_loss": 0.25, "steps": 20},
    baselines={"seasonal_naive": {"season_length": 24, "WQL": 0.1, "MASE": 1}},
    model_path=str(model), series=3, rows=99)
"""
DEAF = "import signal, time; signal.signal(15, signal.SIG_IGN); print('ready', flush=True); time.sleep(60)"


def test_a_good_run_leaves_the_whole_record(rig: Rig, monkeypatch) -> None:
    monkeypatch.setenv("MODEL_DIR", str(rig.output))
    code, out, _ = rig.run(GOOD)
    record = rig.record
    assert code == 0
    assert "plain text\n" in out and out.replace("trainer| ", "") == rig.log
    assert (record["status"], record["exit_code"], record["error"]) == ("completed", 0, None)
    assert record["metrics"]["WQL"] == 0.04 and record["metrics"]["seconds"] == 1.5
    assert record["baselines"]["seasonal_naive"]["season_length"] == 24
    assert record["history"] == [
        {"step": 10, "loss": 0.5, "lr": 0.1},
        {"step": 20, "loss": 0.25, "lr": 0.1},
        {"step": 20, "WQL": 0.05, "MASE": 0.5},
    ]
    assert record["model"] == {
        "parameters": 7,
        "path": "models/model.pkl",
        "bytes": 5,
        "sha256": hashlib.sha256(b"model").hexdigest(),
    }
    assert record["data"]["rows"] == 99 and record["checkpoint"]["step"] == 10
    assert record["versions"]["numpy"] == "2" and record["training_config"] == {"prediction_length": 64}
    assert record["started_at"] <= record["ended_at"]
    assert [event["event"] for event in rig.metrics][:2] == ["start", "metric"]
    assert list(rig.output.glob(".tmp*")) == []


@pytest.mark.parametrize(
    "told", ["a\0b", "\ud800", "/dev/zero", "pipe", "models", "../outside", "loop", "n" * 300]
)
def test_a_model_that_is_no_file_in_the_output_folder_is_none(rig: Rig, told: str) -> None:
    rig.output.mkdir()
    (rig.output / "models").mkdir()
    os.mkfifo(rig.output / "pipe")
    (rig.output / "loop").symlink_to("loop")
    (rig.folder / "outside").write_text("another's")
    event = json.dumps({"event": "final", "model_path": told})
    code, _, err = rig.run(f"print({event!r})")
    assert code == 0 and "is no file in the output folder" in err and "Traceback" not in err
    assert (rig.record["status"], rig.record["model"]["path"]) == ("completed", None)


def test_a_command_that_tells_no_steps_trains_from_its_start_to_its_end(rig: Rig) -> None:
    rig.run("pass")
    timeline = rig.record["timeline"]
    assert rig.record["started_at"][:19] <= timeline["first_step"] < timeline["last_step"]
    rig.run("""print('{"event": "metric", "step": 1, "loss": 1}')""")
    assert rig.record["timeline"]["first_step"] == rig.record["timeline"]["last_step"]


def test_the_childs_exit_code_comes_back_with_its_last_words(rig: Rig) -> None:
    code, _, err = rig.run("import sys; sys.stderr.write('out of\\nluck\\n\\n'); sys.exit(3)")
    assert code == 3
    assert rig.record["status"] == "failed"
    assert rig.record["error"] == "the training command exited with 3; it last said: luck"
    assert "luck" in err


@pytest.mark.parametrize("own", ["error: batch_size 9 is odd", "[rank1]: ValueError: two rows at 12:00"])
def test_below_torchruns_summary_the_error_of_its_worker_is_the_last_word(rig: Rig, own: str) -> None:
    lines = [
        own,
        "[rank0]: RuntimeError: [gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:9",
        "W1129 06:51:28.964000 18742 api.py:1028] Sending process 25323 closing signal SIGTERM",
        "E1129 06:51:29.342000 18742 api.py:1002] failed (exitcode: 2) local_rank: 1 (pid: 25329)",
        "Traceback (most recent call last):",
        "    raise ChildFailedError(",
        "torch.distributed.elastic.multiprocessing.errors.ChildFailedError: ",
        "=" * 60,
        "Root Cause (first observed failure):",
        "  traceback : To enable traceback see: https://pytorch.org/docs/stable/elastic/errors.html",
        "=" * 60,
    ]
    rig.run(f"import sys; sys.stderr.write({chr(10).join(lines) + chr(10)!r}); sys.exit(1)")
    assert rig.record["error"].endswith(f"it last said: {own}")


def test_a_child_killed_by_a_signal_gives_128_plus_its_number(rig: Rig) -> None:
    code, _, _ = rig.run("import os; os.kill(os.getpid(), 9)")
    assert code == 137
    assert "SIGKILL" in rig.record["error"] and rig.record["exit_code"] == 137


def test_what_a_trainer_says_keeps_its_own_time_and_passes_for_nobody_else(rig: Rig) -> None:
    rig.run("""print('{"event": "metric", "step": 1, "t": 7, "source": "sampler"}')""")
    (row,) = rig.metrics
    assert (row["t"], source_of(row)) == (7, "trainer")


def test_exit_0_with_a_loss_of_nan_is_a_failure(rig: Rig) -> None:
    code, _, err = rig.run("""print('{"event": "metric", "step": 5, "loss": NaN}')""")
    assert code == 1
    assert rig.record["status"] == "failed" and "loss is nan at step_5" in err
    (row,) = rig.metrics
    assert time_of(row) is not None
    assert {name: row[name] for name in row if name != "t"} == {"event": "metric", "step": 5, "loss": None}
    assert rig.record["history"] == [{"step": 5, "loss": None}]


def test_exit_0_with_a_nan_gradient_behind_a_loss_of_0_is_a_failure(rig: Rig) -> None:
    line = "{'loss': '0', 'grad_norm': 'nan', 'learning_rate': '0.001', 'epoch': '1.5'}"
    code, _, _ = rig.run(f'print("{line}")')
    assert code == 1
    assert "grad_norm" in rig.record["error"]


def test_the_test_trainer_must_say_that_it_is_done(rig: Rig, tmp_path: Path) -> None:
    # a copy of the scripts' folder, as it lies on the instance, with a trainer that says nothing
    scripts = tmp_path / "opt chronos/scripts"
    shutil.copytree(
        REPOSITORY / "python",
        scripts,
        ignore=shutil.ignore_patterns("local_cloud", "workstation", "__pycache__"),
    )
    trainers = scripts / "chronos_ec2/instance/trainers"
    trainers.mkdir(exist_ok=True)
    (trainers / "__init__.py").write_text("")
    (trainers / "linear_quantile.py").write_text("import sys; print(sys.argv[1:])")
    argv = rig.argv(None, trainer="test", command=None)
    argv[1] = str(scripts / "training_wrapper.py")
    done = subprocess.run(argv, capture_output=True, text=True, timeout=20, cwd="/")
    assert done.returncode == 1
    assert "never said train_end and final" in done.stderr
    assert f"'--output', '{rig.output}'" in done.stdout


def test_an_interrupted_trainer_that_exits_0_does_not_count_as_done(rig: Rig) -> None:
    code, _, _ = rig.run("""print('{"event": "train_end", "steps": 9, "interrupted": true}')""")
    assert code == 75
    assert rig.record["status"] == "interrupted"


def test_torchrun_gives_its_workers_the_time_that_the_wrapper_gives(rig: Rig) -> None:
    _, out, _ = rig.run("import os; print(os.environ['TORCH_ELASTIC_SHUTDOWN_TIMEOUT'])")
    assert "60\n" in out


def test_the_configs_command_gets_the_paths(rig: Rig) -> None:
    show = "import sys; print(*sys.argv[1:], sep='|')"
    command = [sys.executable, "-c", show, "{config}", "{data}", "--out={output}", '{"a": 1}']
    saving = ["{checkpoints}", "{checkpoint_every_steps}"]
    code, out, _ = rig.run(None, command=[*command, *saving], checkpoint_every_steps=50)
    assert code == 0
    paths = f"{rig.folder}/config.yaml|{rig.folder}/data|--out={rig.output}"
    assert out == f'trainer| {paths}|{{"a": 1}}|{rig.output}/checkpoints|50\n'
    assert (rig.output / "checkpoints").is_dir()


def test_the_record_says_which_run_it_goes_on_from_and_where(rig: Rig) -> None:
    note = rig.output / "checkpoints/.tmp-restored.json"
    note.parent.mkdir(parents=True)
    note.write_text('{"run_id": "2025-01-14-000000", "step": 40}')
    rig.run("pass")
    assert (rig.record["resume_from"], rig.record["resumed_from_step"]) == ("2025-01-14-000000", 40)
    assert rig.record["last_step"] is None
    rig.run("""print('{"event": "resume", "step": 30}\\n{"event": "metric", "step": 35, "loss": 1}')""")
    assert (rig.record["resumed_from_step"], rig.record["last_step"]) == (30, 35)
    note.unlink()
    rig.run("""print('{"event": "train_end", "steps": 36}')""")
    assert "resume_from" not in rig.record and rig.record["last_step"] == 36


def test_a_command_that_is_not_there_says_so(rig: Rig) -> None:
    code, _, err = rig.run(None, command=["no-such-program"])
    assert code == 127
    assert "'no-such-program' cannot be started: No such file" in err
    assert rig.record["status"] == "failed" and rig.record["ended_at"]


def test_term_is_passed_on_and_the_childs_own_code_comes_back(rig: Rig) -> None:
    process = rig.start(
        "import signal, sys, time\n"
        "def handler(*_): print('checkpoint saved', flush=True); sys.exit(75)\n"
        "signal.signal(signal.SIGTERM, handler); print('ready', flush=True); time.sleep(60)"
    )
    rig.wait_for_line("ready")
    assert rig.record["status"] == "running"
    process.terminate()
    process.communicate(timeout=10)
    assert process.returncode == 75
    assert "checkpoint saved" in rig.log
    assert rig.record["status"] == "interrupted" and "SIGTERM" in rig.record["error"]


def test_int_arrives_as_int(rig: Rig) -> None:
    process = rig.start(
        "import time; print('ready', flush=True)\n"
        "try: time.sleep(60)\n"
        "except KeyboardInterrupt: print('got INT', flush=True); raise SystemExit(9)"
    )
    rig.wait_for_line("ready")
    process.send_signal(2)
    process.communicate(timeout=10)
    assert process.returncode == 9 and "got INT" in rig.log


def test_a_child_that_exits_0_when_it_is_stopped_does_not_count_as_done(rig: Rig) -> None:
    process = rig.start(
        "import signal, sys, time\n"
        "signal.signal(15, lambda *_: sys.exit(0)); print('ready', flush=True); time.sleep(60)"
    )
    rig.wait_for_line("ready")
    process.terminate()
    process.communicate(timeout=10)
    assert process.returncode == 143 and rig.record["status"] == "interrupted"


def test_a_child_that_ignores_term_is_killed_after_the_grace(rig: Rig) -> None:
    process = rig.start(DEAF, "--grace-seconds", "0.3")
    rig.wait_for_line("ready")
    process.terminate()
    _, err = process.communicate(timeout=10)
    assert process.returncode == 137 and "did not end within 0.3 s" in err


def test_a_second_signal_kills_at_once(rig: Rig) -> None:
    process = rig.start(DEAF)
    rig.wait_for_line("ready")
    process.terminate()
    time.sleep(0.2)
    assert process.poll() is None
    process.terminate()
    process.communicate(timeout=10)
    assert process.returncode == 137


def test_nothing_that_the_child_started_outlives_it(rig: Rig) -> None:
    code, out, _ = rig.run(
        "import subprocess, sys\n"
        "argv = [sys.executable, '-S', '-c', 'import time; time.sleep(60)']\n"
        "print(subprocess.Popen(argv).pid, flush=True)\n"
        "print(subprocess.Popen(argv, start_new_session=True).pid, flush=True)"
    )
    assert code == 0
    pids = [int(line.removeprefix("trainer| ")) for line in out.splitlines()]
    assert len(pids) == 2 and not any(is_alive(pid) for pid in pids)


def test_the_child_dies_with_a_wrapper_that_is_killed(rig: Rig) -> None:
    process = rig.start("import os, time; print(os.getpid(), 'ready', flush=True); time.sleep(60)")
    rig.wait_for_line("ready")
    pid = int(rig.log.split()[0])
    process.kill()
    process.communicate(timeout=10)
    wait_for(lambda: not is_alive(pid))


def test_a_child_that_closes_its_output_is_waited_for(rig: Rig) -> None:
    code, _, _ = rig.run("import os, time; os.close(1); os.close(2); time.sleep(0.4); os._exit(4)")
    assert code == 4


def test_a_silent_child_is_fine(rig: Rig) -> None:
    assert rig.run("pass")[:2] == (0, "")
    assert rig.record["history"] == []


def test_a_flood_goes_through_whole(rig: Rig) -> None:
    lines = 200_000
    event = """'{"event": "metric", "step": %d, "loss": 1}' % n"""
    code, out, _ = rig.run(f"for n in range({lines}): print({event} if n % 20 == 0 else n)")
    assert code == 0
    assert (
        out.count("\n") == lines
        and out.replace("trainer| ", "") == rig.log
        and out.count("trainer| ") == lines
    )
    history = rig.record["history"]
    assert 900 <= len(history) <= 2001
    assert history[0]["step"] == 0 and history[-1]["step"] == lines - 20


def test_strange_bytes_and_endless_lines_are_taken(rig: Rig) -> None:
    code, _, _ = rig.run(
        "import sys; w = sys.stdout.buffer.write\n"
        "w(b'nul \\0 bad \\xff\\n'); w(b'10%\\r20%\\r\\n'); w(b'x' * 300_000 + b'\\n'); w(b'no end')"
    )
    lines = rig.log.split("\n")
    assert code == 0
    assert lines[:3] == ["nul \0 bad \ufffd", "10%", "20%"]
    assert lines[3] == "x" * 65536 + " [line cut at 65536 bytes]"
    assert lines[4:] == ["no end", ""]


def test_a_closed_stdout_does_not_stop_the_training(rig: Rig) -> None:
    process = rig.start("import time\nfor n in range(20): print('line', n, flush=True); time.sleep(0.02)")
    assert process.stdout is not None
    process.stdout.close()
    _, err = process.communicate(timeout=10)
    assert process.returncode == 0
    assert rig.log.count("line") == 20 and err.count("takes no more") == 1


def test_a_full_log_disk_does_not_stop_the_training(rig: Rig) -> None:
    (rig.output / "logs").mkdir(parents=True)
    (rig.output / "logs/training.log").symlink_to("/dev/full")
    code, out, err = rig.run("print('one'); print('two')")
    assert code == 0 and out == "trainer| one\ntrainer| two\n"
    assert "logs/training.log takes no more" in err


def test_data_facts_come_from_the_manifest(rig: Rig) -> None:
    files = [{"name": "a.parquet", "bytes": 1, "sha256": "0" * 64}]
    manifest = {"files": files, "rows": 26115, "series": 3, "uploaded_at": "2025-01-15T14:30:22Z"}
    (rig.folder / "data/MANIFEST.json").write_text(json.dumps(manifest))
    rig.run("pass")
    assert rig.record["data"] == {"files": files, "rows": 26115, "series": 3}


def test_usage_and_config_have_their_own_codes(rig: Rig) -> None:
    assert rig.run(None, "--no-such-flag")[0] == 2
    assert rig.run(None, "--env", "x;rm -rf ~")[0] == 2
    code, _, err = rig.run(None, trainr="test")
    assert code == 26 and "did you mean 'trainer'?" in err


def test_help_explains_the_exit_codes() -> None:
    script = REPOSITORY / "python/training_wrapper.py"
    done = subprocess.run([sys.executable, script, "--help"], capture_output=True, text=True, timeout=10)
    assert done.returncode == 0 and "128+N" in done.stdout
