"""SIGKILLs at random moments over index, precompute, train, evaluate, import, and two servers that a run asks.

    STAGE/straight   the stage, unkilled, behind the one that it follows
    STAGE/killed     the same stage: started, killed, started again … until it ends by itself; then compared, and begun anew

A stage is killed many times between two comparisons: what was killed ten times must equal what never was. Moments are
counted in CPU seconds, which a busy machine does not move, most of them from the attempt's first result on; the log,
``STAGE/kills.jsonl``, says of each how far the stage was. Interrupted, this goes on behind the log's last line. Commands are
forked from a process that has imported everything.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import compare
from forked import Clock, kill, own_seconds, side_by_side, start, wait
from noise import Outcome, drawn
from phases import PHASES, phase
from served_toys import chat_answer, free_port
from tqdm.auto import tqdm

import s3mini.profile
from s3mini.runs.stages import JsonlLog, atomic_dir

PROFILE = (
    "--profile", "smoke", "--set", "retrieval.dense.max_passage_tokens=16", "--set", "data.sets=[nq, hotpotqa]",
    "--set", "grpo.steps=4", "--set", "grpo.questions_per_step=2",
)  # fmt: skip
"""Smoke, its passages cut, a third of its sets, smaller steps: each stage takes seconds and has all its parts."""
DATA = "data/mini"
AT_WORK = 0.5
"""Of a stage's kills, those that must have met it at work."""


@dataclass(frozen=True)
class Plan:
    """One stage.

    ``commands``: its command lines, in order. ``makes``: what they make, below build/. ``share``: its part of all kills.
    ``often``: how many meet one run, on average. ``follows``: the stage whose results it finds. ``early``: of its kills, those
    that fall anywhere before a result is written.
    """

    commands: tuple[tuple[str, ...], ...]
    makes: tuple[str, ...]
    share: float
    often: float
    follows: str | None = None
    early: float = 0.2
    served: bool = False

    @property
    def at_work(self) -> tuple[str, ...]:
        """The phases in which it works; one that writes only at its end does so as soon as it is open."""
        return ("within",) if self.early < 0.5 else ("opened", "within")


_QUESTIONS = f"{DATA}/questions/hotpotqa/train.jsonl"
_OWN = ("own", f"{DATA}/corpus.jsonl", "-q", _QUESTIONS, "--name", "own", "--only-import")
_ASKING = (("precompute",), ("evaluate", "--method", "rag-dense", "--method", "oracle"))
PLANS = {
    "evaluate": Plan(
        (("evaluate",),), ("smoke/evaluation", "smoke/rag", "smoke/results.json"), 0.2, 12, "train"
    ),
    "train": Plan((("train",),), ("smoke/train",), 0.15, 4, "precompute"),
    "index": Plan((("index",),), ("smoke/index", "smoke/documents"), 0.2, 5),
    "precompute": Plan((("precompute",),), ("smoke/rag",), 0.2, 8, "index"),
    "served": Plan(_ASKING, ("served",), 0.15, 8, "index", served=True),
    "import": Plan((_OWN,), ("own",), 0.1, 5, early=0.8),  # all of it is reading, but for its end
}
"""The longest first: two are worked at side by side."""


# ------------------------------------------------------------------------------------ processes


def command(root: str, log: str, arguments: Sequence[str]) -> None:
    """``s3mini`` with its root there, in a forked process; what it says goes to ``log``."""
    _settle(log)
    os.chdir(root)
    s3mini.profile.ROOT = Path(root)
    from s3mini.cli import main

    main([*arguments, *PROFILE])


def generator(port: int, log: str) -> None:
    """An OpenAI-compatible server that answers by the first document's last words, and judges by counting letters."""
    _settle(log)
    from served_toys import Server

    def answer(path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        time.sleep(0.02)  # so that there is time to be killed in
        text = body["messages"][-1]["content"]
        if body["model"] == "judge":
            return chat_answer("yes" if len(text) % 2 else "no")
        return chat_answer(" ".join(text.splitlines()[0].split()[-4:]))

    Server(answer, port).serve_forever()


def _settle(log: str) -> None:
    os.setsid()
    with open(log, "ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)


class Servers:
    """The retrieval server and a generator, each on a port of its own, started again after each kill."""

    def __init__(self, root: Path) -> None:
        self.root, self.ports = root, {"retriever": free_port(), "generator": free_port()}
        self.alive: dict[str, BaseProcess] = {}

    def start(self, name: str) -> None:
        port, log = self.ports[name], str(self.root / f"{name}.log")
        if name == "generator":
            self.alive[name] = start(generator, port, log)
        else:
            self.alive[name] = start(
                command, str(self.root), log, ("serve", "retriever", "--port", str(port))
            )

    def settings(self) -> list[str]:
        url = f"http://127.0.0.1:{self.ports['generator']}/v1"
        served = {"engine": "served", "api": "chat", "url": url, "batch_size": 8, "patience": 300}
        keys = {f"{role}.{key}": value for role in ("generator", "judge") for key, value in served.items()}
        keys |= {
            "generator.path": "generator",
            "judge.path": "judge",
            "name": "served",
            "retrieval.kind": "remote",
        }
        keys |= {
            "retrieval.url": f"http://127.0.0.1:{self.ports['retriever']}",
            "searcher.path": f"{DATA}/model",
        }
        return [part for key, value in keys.items() for part in ("--set", f"{key}={value}")]

    @contextmanager
    def running(self) -> Iterator[Servers]:
        try:
            for name in self.ports:
                self.start(name)
            yield self
        finally:
            for process in self.alive.values():
                kill(process)


# ------------------------------------------------------------------------------------ a stage


class Ordeal:
    """One stage, its two roots and its log."""

    def __init__(self, folder: Path, stage: str, seed: int, bar: tqdm[Any]) -> None:
        self.folder, self.stage, self.plan = folder / stage, stage, PLANS[stage]
        self.seed, self.bar = seed, bar
        self.log, self.lock = JsonlLog(self.folder / "kills.jsonl"), threading.Lock()
        self.clock, self.counted = Clock(), 0.0
        self.first: float | None = None  # CPU seconds of the unkilled run until something was written
        bar.update(len(self.told("killed")))

    def told(self, key: str) -> list[Any]:
        """What the log says under ``key``, in order."""
        return [record[key] for record in self.log.records if key in record]

    def note(self, **more: Any) -> None:
        """A line of the log, with the CPU seconds since the last."""
        spent = self.clock.seconds - self.counted + own_seconds()
        self.counted = self.clock.seconds
        self.log.append({**more, "cpu": round(spent, 3)})

    def build(self, root: str) -> Path:
        return self.folder / root / "build"

    def lay(self, root: str, before: Path | None) -> None:
        """A root with nothing below build/ but what was there before the stage."""
        build = self.build(root)
        with atomic_dir(build) as folder:
            if before is not None:
                shutil.copytree(before, folder, dirs_exist_ok=True)
        if not (data := build.with_name("data")).exists():
            data.symlink_to(s3mini.profile.ROOT / "data")

    def straight(self, before: Path | None) -> Path:
        """Run it unkilled, once; what lies below build/ then."""
        with self.lock:  # two stages may follow this one
            if not self.told("whole"):
                self.lay("straight", before)
                since, self.first = self.clock.seconds, None
                with self.servers() as servers:
                    self.whole("straight", servers)
                whole = self.clock.seconds - since
                self.note(whole=round(whole, 3), first=round(self.first or whole, 3))
        return self.build("straight")

    def kills(self, before: Path | None, count: int) -> None:
        """Kill it so many times, and compare each time that it has ended by itself."""
        if self.told("over"):
            return
        with self.servers() as servers:
            while not self.told("over"):
                if {"whole", "found"} & self.log.records[-1].keys():
                    self.lay("killed", before)
                self.whole("killed", servers, count)
                found = list(
                    compare.differences(self.build("straight"), self.build("killed"), self.plan.makes)
                )
                over = {"over": True} if len(self.told("killed")) >= count else {}
                self.note(found=found, **over)

    def servers(self) -> AbstractContextManager[Servers | None]:
        """What the commands ask, if anything: over the index that the stage found, whichever root they are in."""
        return Servers(self.folder / "straight").running() if self.plan.served else nullcontext()

    def whole(self, root: str, servers: Servers | None, count: int = 0) -> None:
        """Run the commands to their ends, killing on the way while there are kills left."""
        for arguments in self.plan.commands:
            line = [*arguments, *(servers.settings() if servers else [])]
            while not self.attempt(root, line, servers, count):
                if len(self.told("crashed")) > 5:
                    raise RuntimeError(f"{self.stage}: it does not get up again; see {self.folder}")

    def attempt(self, root: str, line: Sequence[str], servers: Servers | None, count: int) -> bool:
        """Start a command; True once it has ended by itself, False where it was killed or failed."""
        log = self.folder / root / "command.log"
        log.unlink(missing_ok=True)
        began = time.time()
        process = start(command, str(self.folder / root), str(log), tuple(line))
        since = self.read(process, servers)

        def look() -> bool:
            spent = self.read(process, servers) - since
            if root == "straight" and self.first is None and self.has_written(root, began):
                self.first = spent
            return False

        try:
            if self.torment(process, servers, began, count):
                return False
            wait(process, look)
        finally:
            kill(process)
        told = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
        if process.exitcode != 0:
            self.note(crashed=f"exit code {process.exitcode}: {told[-400:]}")
        elif "Traceback" in told:
            self.note(crashed=f"a traceback: {told[told.index('Traceback') :][-400:]}")
        return process.exitcode == 0

    def torment(self, process: BaseProcess, servers: Servers | None, began: float, count: int) -> bool:
        """Kill what is drawn, when it is drawn, while the command lives; whether the command itself was killed."""
        again = False
        while len(self.told("killed")) < count:
            number = len(self.told("killed")) + len(self.told("ended"))
            victim, early, moment = self.draw(number)
            if not (early or again):
                wait(process, lambda: self.read(process, servers) > 0 and self.has_written("killed", began))
            since = self.read(process, servers)
            if wait(process, partial(self.passed, process, servers, since + moment)):
                self.note(ended=round(moment, 3), victim=victim)
                return False
            target = process if victim == "command" or servers is None else servers.alive[victim]
            died = kill(target)
            if died:
                self.note(killed=victim, after=round(moment, 3), phase=self.phase("killed", began))
                self.bar.update()
            if target is process:
                return died
            assert servers is not None
            servers.start(victim)
            again = True
        return False

    def draw(self, number: int) -> tuple[str, bool, float]:
        """Whom to kill; whether before its first result; after how many CPU seconds, from the command's start or from that result.

        From there on any moment is as likely as another: ``plan.often`` kills meet a whole run, on average.
        """
        rng = drawn(self.seed, f"kill {self.stage}", number)
        victim = rng.choice(["retriever", "generator", "command"]) if self.plan.served else "command"
        if rng.random() < self.plan.early:
            return victim, True, rng.uniform(0, self.told("first")[0])
        return victim, False, rng.expovariate(self.plan.often / self.told("whole")[0])

    def has_written(self, root: str, since: float) -> bool:
        """Whether a command that started then has a result."""
        return self.phase(root, since) in PHASES[2:]

    def read(self, process: BaseProcess, servers: Servers | None) -> float:
        return self.clock.read([process, *(servers.alive.values() if servers else ())])

    def passed(self, process: BaseProcess, servers: Servers | None, moment: float) -> bool:
        return self.read(process, servers) >= moment

    def phase(self, root: str, since: float) -> str:
        return phase(self.build(root), self.plan.makes, since)

    def outcome(self) -> Outcome:
        """What the log tells."""
        outcome, phases = Outcome(cpu=sum(self.told("cpu"))), Counter(self.told("phase"))
        outcome.counts[f"kills of {self.stage}"] = phases.total()
        outcome.counts |= {f"{self.stage}, {name}": phases[name] for name in PHASES}
        outcome.counts[f"compared, {self.stage}"] = len(self.told("found"))
        for found in self.told("found"):
            for kind, what in found:
                outcome.found(kind, self.stage, what)
        for what in self.told("crashed"):
            outcome.found("crashed", self.stage, what)
        met = sum(phases[name] for name in self.plan.at_work)
        if phases.total() >= 10 and met < AT_WORK * phases.total():
            outcome.found("missed", self.stage, f"only {met} of {phases.total()} kills met it at work")
        return outcome


# ------------------------------------------------------------------------------------ all of them


def shared(kills: int, stages: Sequence[str]) -> dict[str, int]:
    """So many kills, divided among the stages."""
    whole = sum(PLANS[stage].share for stage in stages)
    ends = [0.0]
    for stage in stages:
        ends.append(ends[-1] + kills * PLANS[stage].share / whole)
    return {stage: round(ends[i + 1]) - round(ends[i]) for i, stage in enumerate(stages)}


def run(count: int, seed: int, folder: Path, stages: Sequence[str] = tuple(PLANS)) -> Outcome:
    """``count`` kills over the stages, two stages side by side."""
    start(time.sleep, 0).join()  # the imports are no stage's seconds
    with ExitStack() as stack:
        bar = stack.enter_context(tqdm(total=count, desc="kills", unit="kill"))
        ordeals = {stage: Ordeal(folder, stage, seed, bar) for stage in PLANS}
        for ordeal in ordeals.values():
            stack.enter_context(ordeal.log)

        def before(stage: str) -> Path | None:
            follows = PLANS[stage].follows
            return None if follows is None else ordeals[follows].straight(before(follows))

        def torture(asked: tuple[str, int]) -> Outcome:
            stage, kills = asked
            earlier = before(stage)
            ordeals[stage].straight(earlier)
            ordeals[stage].kills(earlier, kills)
            return ordeals[stage].outcome()

        outcome = Outcome()
        for one in side_by_side(torture, [asked for asked in shared(count, stages).items() if asked[1]]):
            outcome.add(one)
    return outcome
