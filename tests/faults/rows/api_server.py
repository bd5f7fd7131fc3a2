"""The API server, its store and the way to it fail; no pod may be restarted for that."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from faults.ground import Ground
from faults.matrix import Outcome, row
from faults.site import Site
from faults.specs import UNKNOWN, failing

from local_cluster.api import MERGE_PATCH
from local_cluster.network import Network

CALM = ("calm-0", "calm-1")


TOLD_SECONDS = 10
"""So long a gang may have trained before its first step is in the status."""


@contextmanager
def undisturbed(site: Site, seconds: float) -> Iterator[None]:
    """Two gangs that train through what happens inside, which takes at most so many seconds: none
    of their pods may be replaced, none of their containers started again."""
    for name in CALM:
        site.create(name, steps=int(seconds + TOLD_SECONDS))
    site.wait_training(CALM)
    before = site.pods_running(CALM)
    yield
    after = site.pods_running(CALM, or_done=True)  # a slow machine may take longer than told
    assert {uid: after.get(uid, "gone") for uid in before} == before


def end_well(site: Site, **restarts: int) -> None:
    """Wait for the end of all jobs; those that are not named have never been started again."""
    site.wait_ended()
    told = {name: (s.get("restarts") or {}).get("total", 0) for name, s in site.statuses().items()}
    assert told == {**dict.fromkeys(told, 0), **restarts}


def _away(ground: Ground, server: str, seconds: int) -> Outcome:
    site = ground.site()
    with ground.operator(site):
        with undisturbed(site, seconds + 18):
            began = time.monotonic()
            ground.cluster.processes.stop(server, grace=0)
            time.sleep(seconds)
            ground.plane.start(len(ground.cluster.nodes()))
            down = time.monotonic() - began
            time.sleep(5)  # what is to go wrong has time to
        site.wait(lambda: "the API server", lambda: site.create("after", steps=2) or True, 60)
        end_well(site)
    return Outcome(1, f"{down:.0f} s until it answered again")


@row("api-server-away", "API server killed, away for 95 s", "no pod is restarted", short=False)
def api_server_away(ground: Ground) -> Outcome:
    return _away(ground, "kube-apiserver", 95)


@row("etcd-away", "etcd killed, away for 12 s", "no pod is restarted")
def etcd_away(ground: Ground) -> Outcome:
    return _away(ground, "etcd", 12 if ground.whole else 6)


@row(
    "watch-cut",
    "the operator's connections are cut; meanwhile a job is deleted, one is created, etcd is "
    "compacted and the API server restarted, so that its watches are too old (410)",
    "no pod is restarted, nothing is missed",
)
def watch_cut(ground: Ground) -> Outcome:
    site = ground.site()
    with ground.operator(site) as (_, door):
        site.create("gone", steps=300)
        site.wait_training(["gone"])
        with undisturbed(site, 30):
            door.shut()
            site.delete("gone")
            site.create("meanwhile", steps=3)
            compact(ground, site.jobs()["meanwhile"]["metadata"]["resourceVersion"])
            ground.cluster.processes.stop("kube-apiserver", grace=10)
            ground.plane.start(len(ground.cluster.nodes()))
            door.open()
            site.wait_phase(["meanwhile"], "Preparing", "Training", "Succeeded")
        end_well(site)
        assert door.too_old, "no watch was too old: nothing was tried"
        return Outcome(1, f"{door.too_old} watches were told 410")


def compact(ground: Ground, revision: str) -> None:
    """Let etcd forget everything before this revision."""
    network = Network(ground.cluster.name, ground.cluster.subnet)
    wish = json.dumps({"revision": revision, "physical": True})
    where = "http://127.0.0.1:2379/v3/kv/compaction"
    network.run("curl", "-sf", "--noproxy", "*", "-d", wish, where)


@row("storm-429", "the API server refuses 7 of 10 requests (429)", "no pod is restarted")
def storm_429(ground: Ground) -> Outcome:
    site, seconds = ground.site(), 60 if ground.whole else 15
    with ground.operator(site) as (_, door):
        with undisturbed(site, seconds):
            site.create("failing", steps=8, **failing(UNKNOWN, attempts=1))
            door.refusing = 0.7
            time.sleep(seconds)
        door.refusing = 0.0
        end_well(site, failing=1)
        return Outcome(note=f"{door.refused} requests refused in {seconds} s")


@row(
    "storm-409",
    "a second writer on /status, 50 times a second",
    "no pod is restarted; jobs end; conflicts stay bounded",
)
def storm_409(ground: Ground) -> Outcome:
    site, seconds, over = ground.site(), 60 if ground.whole else 15, threading.Event()
    written = [0]

    def scribble() -> None:
        with ground.door() as door:  # it keeps connections: a new one for each write is too slow
            connection = http.client.HTTPConnection(door.address.removeprefix("http://"))
            while not over.wait(0.02):
                name = (*CALM, "failing")[written[0] % 3]
                said = {"status": {"pendingReason": f"said by somebody else: {written[0]}"}}
                path, kind = (
                    site.path("FineTuneJob", f"{name}/status"),
                    {"Content-Type": MERGE_PATCH},
                )
                connection.request("PATCH", path, json.dumps(said), kind)
                connection.getresponse().read()
                written[0] += 1
            connection.close()

    with ground.operator(site) as (operator, _):
        with undisturbed(site, seconds):
            site.create("failing", steps=8, **failing(UNKNOWN, attempts=1))
            writer = threading.Thread(target=scribble, daemon=True)
            writer.start()
            time.sleep(seconds)
            over.set()
            writer.join()
        end_well(site, failing=1)
        conflicts = ground.refused(409)
        assert conflicts < 50 * seconds, f"{conflicts} conflicts in {seconds} s"
        assert not operator.errors(), operator.errors()
    return Outcome(note=f"{written[0]} writes beside it, {conflicts} conflicts", spoilt=True)
