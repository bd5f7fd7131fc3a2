"""When the ranks last met: what a rank notes, its launcher tells, and the operator goes by."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

from small_job import make_config

from finetune_operator.reports import read_last_words
from finetune_trainer import outcome
from finetune_trainer.hang import Silence
from finetune_trainer.heartbeat import Heartbeat
from finetune_trainer.logs import RankLog
from finetune_trainer.patience import Patience
from finetune_trainer.pod import Pod
from finetune_trainer.rank_process import RankProcess
from finetune_trainer.verdict import verdict


def test_the_operator_learns_how_long_after_the_meeting_a_rank_failed(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(make_config(tmp_path).model_dump_json(by_alias=True))
    environment = {
        "FINETUNE_RUN_JSON": str(tmp_path / "run.json"),
        "FINETUNE_WORKSPACE": str(tmp_path / "ws"),
        "FINETUNE_ATTEMPT": "0",
        "JOB_COMPLETION_INDEX": "0",
        "MASTER_ADDR": "tiny-a0-0.tiny",
        "MASTER_PORT": "29500",
    }
    silence = Silence(tmp_path / "beat.json")
    heartbeat = Heartbeat(tmp_path, 0, beside=silence.path, patience=Patience(300))
    heartbeat.met(64)
    met = time.time()
    time.sleep(0.05)
    heartbeat.beat("checkpoint", 65)
    silence.listen(1.0)
    process = subprocess.Popen(["false"], stdout=subprocess.PIPE)
    assert process.stdout is not None
    log = RankLog(process.stdout, rank=0, path=tmp_path / "rank-0.log", limit=2**20)
    record, stacks, begun = (tmp_path / name for name in ("record", "stacks", "collectives"))
    rank = RankProcess(0, 0, process, log, record, silence, stacks, begun)
    failure = {"class": "Internal", "message": "it broke", "at": met + 7}
    record.write_text(json.dumps({"stage": "train", "attempt": 0, "outcome": "failed",
                                  "failure": failure}))  # fmt: skip
    rank.exit_code = process.wait()
    result = verdict(Pod.from_env(environment), [rank], [rank])
    words = read_last_words(outcome.encode(result).decode())
    assert words is not None and words.failure is not None and words.failure.since is not None
    since = words.failure.since
    assert since.met == 64 and abs(since.seconds - 7) < 0.02
