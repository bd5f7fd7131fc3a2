"""The launcher with real processes: shell scripts stand for the ranks."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from unit.trainer.launcher.launching import Start

from finetune_trainer.container import oom_kills

FOREVER = "exec sleep 60"


def record(outcome: str, **failure: Any) -> str:
    """A shell command that leaves a record as a rank does."""
    content: dict[str, Any] = {"stage": "train", "attempt": 2, "outcome": outcome}
    if failure:
        content["failure"] = failure
    return f"echo '{json.dumps(content)}' > $FINETUNE_RECORD"


def test_each_rank_knows_its_place_in_the_gang(start: Start) -> None:
    run = start("env > env-$RANK", JOB_COMPLETION_INDEX="1", OMP_NUM_THREADS="7")
    assert run.end() == 0
    for local_rank in range(2):
        lines = (run.workspace / f"env-{2 + local_rank}").read_text().splitlines()
        seen = dict(line.split("=", 1) for line in lines if "=" in line)
        expected = {
            "RANK": str(2 + local_rank),
            "LOCAL_RANK": str(local_rank),
            "WORLD_SIZE": "4",
            "LOCAL_WORLD_SIZE": "2",
            "MASTER_ADDR": "tiny-a2-0.tiny",
            "MASTER_PORT": "29502",
            "OMP_NUM_THREADS": "7",
        }
        assert {name: seen.get(name) for name in expected} == expected


@pytest.mark.parametrize("code", [3, 64, 71, 75, 78])
def test_the_exit_code_of_a_failing_rank_is_the_pods(start: Start, code: int) -> None:
    run = start(f"[ $RANK = 1 ] && exit {code}; {FOREVER}")
    assert run.end() == code
    failure = run.message["failure"]
    assert (failure["rank"], failure["localRank"], failure["exitCode"]) == (1, 1, code)


@pytest.mark.parametrize(("name", "code"), [("KILL", 137), ("ABRT", 134), ("BUS", 135)])
def test_a_rank_killed_by_a_signal_is_named_with_its_last_lines(
    start: Start, name: str, code: int
) -> None:
    run = start(
        f"[ $RANK = 1 ] && {{ echo the last words; kill -{name} $$; }}; {FOREVER}",
        JOB_COMPLETION_INDEX="0",
    )
    began = time.monotonic()
    assert run.end() == code
    assert time.monotonic() - began < 5 + 5  # with the interpreter's own start
    failure = run.message["failure"]
    assert failure["rank"] == failure["localRank"] == 1
    assert failure["exitCode"] == code
    assert f"SIG{name}" in failure["message"]
    assert failure["lines"] == ["the last words"]


def test_the_first_failing_rank_wins_with_the_record_it_left(start: Start) -> None:
    said = record("failed", **{"class": "CudaOom", "message": "out of memory", "exitCode": 71})
    run = start(f"[ $RANK = 0 ] && {FOREVER}; {said}; exit 71")
    assert run.end() == 71
    failure = run.message["failure"]
    assert (failure["class"], failure["message"], failure["rank"]) == (
        "CudaOom",
        "out of memory",
        1,
    )


WATCHDOG = "[rank1]:[E321 ProcessGroupNCCL.cpp:607] Watchdog caught collective operation timeout"


def test_a_silent_death_is_explained_by_the_rank_s_log(start: Start) -> None:
    run = start(f"[ $RANK = 1 ] && {{ echo '{WATCHDOG}'; kill -ABRT $$; }}; {FOREVER}")
    assert run.end() == 134
    failure = run.message["failure"]
    assert failure["signature"] == "NcclWatchdogTimeout"
    assert failure["class"] == "CollectiveTimeout"
    assert "did not end in time" in failure["cause"]
    assert failure["exitCode"] == 134


def test_a_signal_without_a_word_is_explained_by_itself(start: Start) -> None:
    run = start("kill -KILL $$", ranks=1)
    assert run.end() == 137
    failure = run.message["failure"]
    assert (failure["signature"], failure["class"]) == ("Killed", "Internal")
    assert "resources.limits.memory" in failure["hint"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("memory.events", "low 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 0\n"),
        ("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"),
    ],
)
def test_the_kernel_says_how_many_processes_it_killed_for_memory(
    tmp_path: Path, name: str, text: str
) -> None:
    assert oom_kills([tmp_path / "none"]) == 0
    (tmp_path / name).write_text(text)
    assert oom_kills([tmp_path / "none", tmp_path / name]) == 2


def test_a_record_is_not_explained_by_an_older_line_of_the_log(start: Start) -> None:
    said = record("failed", **{"class": "Internal", "message": "KeyError: 'x'", "exitCode": 70})
    run = start(f"echo 'OSError: No space left on device'; {said}; exit 70", ranks=1)
    assert run.end() == 70
    failure = run.message["failure"]
    assert failure["class"] == "Internal" and "signature" not in failure


def test_lines_that_all_ranks_of_a_pod_said_stand_once(start: Start) -> None:
    run = start(
        f"echo broken at port 400$RANK; touch up-$RANK; [ $RANK = 0 ] || {FOREVER};"
        " while [ ! -e up-1 ] || [ ! -e up-2 ]; do sleep 0.05; done; exit 70",
        ranks=3,
    )
    assert run.end() == 70
    assert run.message["failure"]["lines"] == ["broken at port 4000 (×3 ranks)"]


def test_no_secret_leaves_the_pod(start: Start) -> None:
    secret = "hf_Zx9qLm2Rt7Vb4Nc8Kp1Wd6Yh3Js5Gf0"
    said = record("failed", **{"class": "BadData", "message": f"with {secret}", "exitCode": 65})
    run = start(f"echo used {secret}; {said}; exit 65", ranks=1, JOB_COMPLETION_INDEX="0")
    assert run.end() == 65
    left = [run.output, *(path.read_bytes() for path in run.workspace.rglob("*") if path.is_file())]
    assert not any(secret.encode() in content for content in left)
    assert run.message["failure"]["message"] == "with [redacted]"


def test_a_rank_that_lost_its_peers_is_not_the_culprit_although_it_ends_first(start: Start) -> None:
    said = record("failed", **{"class": "CollectiveTimeout", "message": "lost", "exitCode": 74})
    run = start(f"[ $RANK = 0 ] && {{ {said}; exit 74; }}; sleep 0.3; exit 71")
    assert run.end() == 71
    assert run.message["failure"]["rank"] == 1


def test_when_all_ranks_lost_their_peers_the_pod_says_so(start: Start) -> None:
    run = start("exit 74")
    assert run.end() == 74
    assert run.message["failure"]["class"] == "CollectiveTimeout"


def test_survivors_that_ignore_sigterm_are_killed_within_seconds(start: Start) -> None:
    run = start(
        "trap '' TERM; touch up-$RANK;"
        " [ $RANK = 1 ] && { while [ ! -e up-0 ]; do :; done; exit 70; };"
        " while :; do sleep 0.1; done"
    )
    run.wait_for("up-0")
    began = time.monotonic()
    assert run.end() == 70
    assert time.monotonic() - began < 5
    assert run.message["failure"]["rank"] == 1


def test_sigterm_reaches_every_rank_and_the_pod_is_preempted(start: Start) -> None:
    said = record("preempted", **{"class": "Preempted", "message": "saved", "exitCode": 75})
    # Rank 1 saves two seconds longer than rank 0: more than a survivor of a death would get.
    run = start(
        f"stop() {{ sleep $((RANK * 2)); touch saved-$RANK; {said}; exit 75; }};"
        " trap stop TERM; touch up-$RANK; while :; do sleep 0.05; done"
    )
    run.wait_for("up-0", "up-1")
    run.process.send_signal(signal.SIGTERM)
    assert run.end() == 75
    assert run.message["outcome"] == "preempted"
    assert (run.workspace / "saved-0").exists()
    assert (run.workspace / "saved-1").exists()


def test_sigterm_before_a_rank_can_catch_it_is_a_preemption(start: Start) -> None:
    run = start(f"touch up-$RANK; {FOREVER}")
    run.wait_for("up-0", "up-1")
    run.process.send_signal(signal.SIGTERM)
    assert run.end() == 75
    assert run.message["outcome"] == "preempted"
    assert run.message["failure"]["class"] == "Preempted"


def test_the_result_of_rank_0_is_the_termination_message_and_result_json(start: Start) -> None:
    said = record("succeeded")
    run = start(f"[ $RANK = 1 ] && exit 0; sleep 0.3; {said}")
    assert run.end() == 0
    assert run.message == {"stage": "train", "attempt": 2, "outcome": "succeeded"}
    assert json.loads((run.workspace / "attempts/2/result.json").read_text()) == run.message


def test_another_pod_than_the_first_leaves_result_json_alone(start: Start) -> None:
    run = start("exit 0", JOB_COMPLETION_INDEX="1")
    assert run.end() == 0
    assert run.message["outcome"] == "succeeded"
    assert not (run.workspace / "attempts/2/result.json").exists()


BORROW = """
import re, torch
torch.ones(32 << 20, dtype=torch.float32)
held = torch.ones(32 << 20, dtype=torch.float32)
pages = re.search(r"AnonHugePages: *([0-9]+)", open("/proc/self/smaps_rollup").read())
print("in huge pages:", int(pages[1]) >> 10, flush=True)
"""


def test_ranks_on_cpus_ask_for_huge_pages(start: Start, tmp_path: Path) -> None:
    allowed = Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text()
    if "[never]" in allowed:
        pytest.skip("this kernel gives nobody huge pages")
    (tmp_path / "rank.py").write_text(BORROW)
    run = start(f"exec {sys.executable} rank.py", ranks=1)
    assert run.end(timeout=60) == 0
    told = re.search(rb"in huge pages: (\d+)", run.output)
    assert told and int(told[1]) >= 100, "of 128 MiB; the rest is at the ends"


def test_a_wordy_death_still_fits_the_termination_message(start: Start) -> None:
    run = start("for i in $(seq 200); do printf '%02000d\\n' $i; done; exit 70", ranks=1)
    assert run.end() == 70
    failure = run.message["failure"]  # parses, below the limit
    assert failure["lines"], "the last line is worth more than none"


def test_the_last_step_of_a_silent_death_comes_from_its_heartbeat(start: Start) -> None:
    beat = '{"rank": 0, "phase": "train", "step": 41, "at": 1.0}'
    run = start(
        f"echo '{beat}' > $FINETUNE_BEAT; kill -KILL $$",
        ranks=1,
    )
    assert run.end() == 137
    assert run.message["failure"]["step"] == 41


def test_what_a_silent_rank_had_done_is_told_by_another(start: Start) -> None:
    known = {"account": {"at": 5.0, "doing": "train"}, "resumedFrom": {"step": 0}}
    said = json.dumps({"stage": "train", "attempt": 2, "outcome": "failed", **known})
    run = start(
        f"[ $RANK = 1 ] && {{ sleep 0.5; kill -KILL $$; }};"
        f" leave() {{ echo '{said}' > $FINETUNE_RECORD; exit 74; }};"
        " trap leave TERM; sleep 60 & wait"
    )
    assert run.end() == 137
    assert {name: run.message[name] for name in known} == known
    assert run.message["failure"]["rank"] == 1


def test_output_is_kept_per_rank_and_echoed_with_the_rank(start: Start) -> None:
    run = start("echo hello from $RANK; echo an error >&2")
    assert run.end() == 0
    for rank in range(2):
        kept = (run.workspace / f"attempts/2/logs/rank-{rank}.log").read_text()
        assert kept.splitlines() == [f"hello from {rank}", "an error"]
        assert f"[rank {rank}] hello from {rank}\n".encode() in run.output


def test_orphans_of_a_rank_are_reaped(start: Start) -> None:
    # The orphan's parent is gone at once; as a zombie it would stay in the process table.
    run = start("(sleep 0.2 & echo $! > orphan); touch up-$RANK; sleep 1.5", ranks=1)
    run.wait_for("orphan", "up-0")
    pid = int((run.workspace / "orphan").read_text())
    time.sleep(0.8)
    assert not Path(f"/proc/{pid}").exists()
    assert run.end() == 0


def test_a_missing_variable_ends_the_pod_with_the_class_of_a_wrong_configuration(
    tmp_path: Path,
) -> None:
    log = tmp_path / "termination-log"
    done = subprocess.run(
        [sys.executable, "-m", "finetune_trainer", "train"],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "FINETUNE_TERMINATION_LOG": str(log),
            "FINETUNE_ATTEMPT": "0",
        },
        check=False,
        stdout=subprocess.PIPE,
    )
    assert done.returncode == 64
    message = json.loads(log.read_text())
    assert message["failure"]["class"] == "ConfigInvalid"
    assert "JOB_COMPLETION_INDEX" in message["failure"]["message"]
