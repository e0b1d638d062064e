"""SIGKILLs at random moments over index, precompute, train, evaluate, import, and two servers that a run asks.

    a stage, unkilled, in straight/  --its seconds-->  the moments
    the same stage in killed/: started, killed, started again … until it ends by itself; then compared, thrown away, begun anew

Commands are forked from a process that has imported everything, so that a kill meets the work and not the imports.
The log, ``kills.jsonl``, holds every kill: interrupted, this goes on behind its last line.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import compare
from noise import Outcome, drawn, forks
from served_toys import chat_answer, free_port
from tqdm.auto import tqdm

import s3mini.profile
from s3mini.runs.stages import JsonlLog

PROFILE = "smoke"
DATA = "data/mini"


@dataclass(frozen=True)
class Plan:
    """One stage: its command lines, in order; what they make, below build/; its part of all kills; the most seconds to one."""

    commands: tuple[tuple[str, ...], ...]
    makes: tuple[str, ...]
    share: float
    longest: float = 12.0
    served: bool = False


_OWN = (
    "own",
    f"{DATA}/corpus.jsonl",
    "-q",
    f"{DATA}/questions/hotpotqa/train.jsonl",
    "--name",
    "own",
    "--only-import",
)
PLANS = {
    "index": Plan((("index",),), ("smoke/index", "smoke/documents"), 0.2),
    "precompute": Plan((("precompute",),), ("smoke/rag",), 0.2),
    "train": Plan((("train",),), ("smoke/train",), 0.15, 30.0),
    "evaluate": Plan((("evaluate",),), ("smoke/evaluation", "smoke/results.json"), 0.2),
    "import": Plan((_OWN,), ("own",), 0.1),
    "served": Plan(
        (("precompute",), ("evaluate", "--method", "rag-dense", "--method", "oracle")),
        ("served",),
        0.15,
        served=True,
    ),
}
"""In this order: each finds what those before it made."""


# ------------------------------------------------------------------------------------ processes


def command(root: str, log: str, arguments: Sequence[str]) -> None:
    """``s3mini`` with its root there, in a forked process; what it says goes to ``log``."""
    _settle(log)
    os.chdir(root)
    s3mini.profile.ROOT = Path(root)
    from s3mini.cli import main

    main([*arguments, "--profile", PROFILE])


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


def start(target: Any, *arguments: Any) -> BaseProcess:
    process = forks().Process(target=target, args=arguments)
    process.start()
    return process


def kill(process: BaseProcess) -> bool:
    """SIGKILL it; whether it still lived."""
    lived = process.is_alive()
    if lived and process.pid is not None:
        os.kill(process.pid, signal.SIGKILL)
    process.join()
    return lived and process.exitcode == -signal.SIGKILL


class Servers:
    """The retrieval server and a generator, each on a port of its own, started again after each kill."""

    def __init__(self, root: Path) -> None:
        self.root, self.ports = root, {"retriever": free_port(), "generator": free_port()}
        self.running: dict[str, BaseProcess] = {}

    def start(self, name: str) -> None:
        port, log = self.ports[name], str(self.root / f"{name}.log")
        if name == "generator":
            self.running[name] = start(generator, port, log)
        else:
            self.running[name] = start(
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
    def running_both(self) -> Iterator[None]:
        try:
            for name in self.ports:
                self.start(name)
            yield
        finally:
            for process in self.running.values():
                kill(process)


# ------------------------------------------------------------------------------------ the stages


class Torture:
    """One folder of roots and log; see the module."""

    def __init__(self, folder: Path, seed: int, outcome: Outcome) -> None:
        self.folder, self.seed, self.outcome = folder, seed, outcome
        self.log = JsonlLog(folder / "kills.jsonl")
        for name in ("straight", "killed"):
            (folder / name).mkdir(parents=True, exist_ok=True)
            if not (folder / name / "data").exists():
                (folder / name / "data").symlink_to(s3mini.profile.ROOT / "data")

    def of(self, stage: str, key: str) -> list[Any]:
        """What the log says of a stage under ``key``, in order."""
        return [record[key] for record in self.log.records if record["stage"] == stage and key in record]

    def note(self, stage: str, **more: Any) -> None:
        self.log.append({"stage": stage, **more})

    def run(self, stage: str, kills: int, bar: tqdm[Any]) -> None:
        """Bring a stage to so many kills, compare, and leave it complete."""
        plan = PLANS[stage]
        bar.set_description(f"{stage}, unkilled")
        if not self.of(stage, "seconds"):
            began = time.monotonic()
            self.whole(plan, self.folder / "straight", stage, 0, bar)
            self.note(stage, seconds=round(time.monotonic() - began, 1))
        done = len(self.of(stage, "killed"))
        bar.update(done)
        while not self.of(stage, "over"):
            self.whole(plan, self.folder / "killed", stage, kills, bar)
            found = list(
                compare.differences(self.folder / "straight/build", self.folder / "killed/build", plan.makes)
            )
            over = len(self.of(stage, "killed")) >= kills
            self.note(stage, found=found, **({"over": True} if over else {}))
            if not over:
                for name in plan.makes:
                    _remove(self.folder / "killed/build" / name)
        self.outcome.counts[f"kills, {stage}"] += len(self.of(stage, "killed"))
        self.outcome.counts[f"compared, {stage}"] += len(self.of(stage, "found"))
        for found in self.of(stage, "found"):
            for kind, what in found:
                self.outcome.found(kind, stage, what)
        for what in self.of(stage, "crashed"):
            self.outcome.found("crashed", stage, what)

    def whole(self, plan: Plan, root: Path, stage: str, kills: int, bar: tqdm[Any]) -> None:
        """Run a stage's commands to their ends, killing on the way while there are kills left."""
        with ExitStack() as stack:
            servers = Servers(root) if plan.served else None
            if servers is not None:
                stack.enter_context(servers.running_both())
            for arguments in plan.commands:
                line = [*arguments, *(servers.settings() if servers else [])]
                while not self.attempt(line, root, stage, plan, kills, servers, bar):
                    pass

    def attempt(
        self,
        line: Sequence[str],
        root: Path,
        stage: str,
        plan: Plan,
        kills: int,
        servers: Servers | None,
        bar: tqdm[Any],
    ) -> bool:
        """Start a command; True once it has ended by itself, False where it was killed. A server's kill leaves it alive."""
        log = root / f"{stage}.log"
        log.unlink(missing_ok=True)
        process = start(command, str(root), str(log), tuple(line))
        try:
            while (number := len(self.of(stage, "killed"))) < kills:
                rng = drawn(self.seed, f"kill {stage}", number)
                victim = rng.choice(["retriever", "generator", "command"]) if servers else "command"
                moment = rng.random() * min(self.of(stage, "seconds")[0], plan.longest)
                bar.set_description(f"{stage}: {victim} after {moment:.1f} s")
                process.join(moment)
                if not process.is_alive():
                    self.note(stage, ended=round(moment, 3), victim=victim, number=number)
                    break
                target = servers.running[victim] if servers and victim != "command" else process
                if kill(target):
                    self.note(stage, killed=victim, after=round(moment, 3))
                    bar.update()
                if target is process:
                    return False
                assert servers is not None
                servers.start(victim)
            process.join()
        finally:
            kill(process)
        told = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
        if process.exitcode != 0:
            self.note(stage, crashed=f"exit code {process.exitcode}: {told[-400:]}")
            if len(self.of(stage, "crashed")) > 5:
                raise RuntimeError(f"{stage}: it does not get up again; see {log}")
            return False
        if "Traceback" in told:
            self.note(stage, crashed=f"a traceback: {told[told.index('Traceback') :][-400:]}")
        return True


def _remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def shared(kills: int, stages: Sequence[str]) -> dict[str, int]:
    """So many kills, divided among the stages."""
    whole = sum(PLANS[stage].share for stage in stages)
    ends = [0.0]
    for stage in stages:
        ends.append(ends[-1] + kills * PLANS[stage].share / whole)
    return {stage: round(ends[i + 1]) - round(ends[i]) for i, stage in enumerate(stages)}


def run(count: int, seed: int, folder: Path, stages: Sequence[str] = tuple(PLANS)) -> Outcome:
    """``count`` kills over the stages."""
    start(time.sleep, 0).join()  # the imports are no stage's seconds
    outcome = Outcome()
    torture = Torture(folder, seed, outcome)
    with tqdm(total=count, unit="kill") as bar:
        for stage, kills in shared(count, stages).items():
            torture.run(stage, kills, bar)
    torture.log.close()
    return outcome
