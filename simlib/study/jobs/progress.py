"""Progress of a run that a person can read: jobs done, rate, time left, failures."""

from __future__ import annotations

import atexit
import logging
import re
import sys
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any, TextIO

EVERY_S = 60.0
"""How often a line is written where there is no terminal, such as in a batch job's output."""

SOONEST_SHARE = 0.02
"""Share of the jobs that must be done before the time left is told."""


class Progress(logging.Handler):
    """Follows Snakemake's log events; one line, rewritten in place on a terminal.

    Failures are told as they happen. At the end one line says how many jobs of each rule ran.
    """

    def __init__(
        self,
        batches: Mapping[str, int] | None = None,
        stream: TextIO | None = None,
        clock: Any = time.monotonic,
    ) -> None:
        """Follow a run; `batches` has the number of simulations by rule that makes several."""
        super().__init__()
        self.batches = batches or {}
        self.stream = stream or sys.stderr
        self.clock = clock
        self.terminal = self.stream.isatty()
        self.rules: dict[int, str] = {}
        self.finished: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self.done = self.total = 0
        self.interrupted = False
        self.started = self.written = self.clock()
        atexit.register(self.summarise)

    def emit(self, record: logging.LogRecord) -> None:
        """Take note of one event; other messages are not ours."""
        kind, event = _kind(record), record.__dict__
        if kind == "run_info":
            self._plan(event["stats"])
        elif kind == "job_info":
            self.rules[event["jobid"]] = event["rule_name"]
        elif kind == "job_finished":
            self._finish(self.rules.get(event["job_id"], "other"))
        elif kind == "job_error":
            self._tell_failure(event)
        elif str(record.msg).startswith(_INTERRUPTED):
            self.interrupted = True

    def _plan(self, stats: Mapping[str, int]) -> None:
        """Say what there is to do, simulations rather than jobs."""
        todo: Counter[str] = Counter()
        for rule, jobs in stats.items():
            if rule != "total" and not _is_target(rule):
                todo[self._called(rule)] += jobs * self.batches.get(rule, 1)
        self.total = sum(todo.values())
        self.started = self.clock()  # the plan is made: from here on jobs take the time
        shared = sum(jobs for rule, jobs in stats.items() if rule in self.batches)
        alone = stats.get("simulate", 0)
        note = f"; {shared + alone} jobs simulate" if shared else ""
        self._write(f"to do: {listed(todo)}{note}")

    def _called(self, rule: str) -> str:
        return "simulate" if rule in self.batches else rule

    def _finish(self, rule: str) -> None:
        if _is_target(rule):
            return
        weight = self.batches.get(rule, 1)
        self.finished[self._called(rule)] += weight
        self.done += weight
        now = self.clock()
        if self.terminal:
            if now - self.written >= 0.1 or self.done == self.total:
                self._rewrite(self.line())
                self.written = now
        elif now - self.written >= EVERY_S:
            self._write(self.line())
            self.written = now

    def line(self) -> str:
        """Return where the run stands."""
        spent = max(self.clock() - self.started, 1e-9)
        rate = self.done / spent
        # the first jobs of a run start cold, and may compile the engine
        early = self.done < max(2, SOONEST_SHARE * self.total)
        left = "too early to tell" if early else duration((self.total - self.done) / rate) + " left"
        failures = sum(self.failed.values())
        return (
            f"{self.done}/{self.total} done, {rate:.3g}/s, {left}"
            + (f", {failures} failed" if failures else "")
        )  # fmt: skip

    def summarise(self) -> None:
        """Say what ran, once, at the end."""
        atexit.unregister(self.summarise)
        if not (self.finished or self.failed or self.interrupted):
            return
        text = f"ran {listed(self.finished) or 'nothing to its end'}"
        if self.failed:
            text += f"; failed: {listed(self.failed)}"
        if self.terminal:
            self._rewrite("")
        self._write(f"{text}; {duration(self.clock() - self.started)}")
        if self.interrupted:
            self._write("interrupted: what is finished is kept, and the same command goes on")

    def worth_showing(self, record: logging.LogRecord) -> bool:
        """Return whether Snakemake's own line says more than ours do."""
        text = str(record.msg)
        if self.interrupted and _TOLD_BY_INTERRUPTION.search(text):
            return False
        return _kind(record) not in _TOLD_BETTER and not _CHATTER.match(text)

    def _tell_failure(self, event: dict[str, Any]) -> None:
        if self.interrupted:
            return  # by whoever interrupted the run
        rule = event.get("rule_name") or "job"
        outputs = ", ".join(map(str, event.get("output") or ()))
        if rule in self.batches:
            rule, outputs = "batch", f"{self.batches[rule]} simulations in one job"
        self.failed[rule] += 1
        if self.terminal:
            self._rewrite("")
        logs = ", ".join(map(str, event.get("log") or ())) or "none"
        self._write(f"FAILED {rule}: {outputs}; log: {logs}")
        for path in event.get("log") or ():
            for text in _last_lines(str(path)):
                self._write(f"    {text}")

    def _write(self, text: str) -> None:
        if not self.stream.closed:
            print(text, file=self.stream, flush=True)

    def _rewrite(self, text: str) -> None:
        if not self.stream.closed:
            self.stream.write(f"\r\x1b[K{text}")
            self.stream.flush()


_TOLD_BETTER = ("run_info", "job_info", "job_finished", "job_error", "progress", "shellcmd")
_INTERRUPTED = "Terminating processes on user request"
_TOLD_BY_INTERRUPTION = re.compile(
    r"At least one job did not complete|Cancelling snakemake on user|RuleException"
)
_CHATTER = re.compile(r"Select jobs to execute|Execute \d+ jobs|Assuming unrestricted|Using shell")


def show(logger: logging.Logger, batches: Mapping[str, int], *, dryrun: bool = False) -> None:
    """Show progress instead of Snakemake's lines on every job, which its log file keeps.

    `batches` has the number of simulations by rule that makes several.
    """
    if dryrun:
        return
    progress = Progress(batches)
    for handler in logger.handlers:
        if handler.name == "DefaultStreamHandler":
            handler.addFilter(progress.worth_showing)
    logger.addHandler(progress)


def _is_target(rule: str) -> bool:
    """Return whether a rule only gathers what others make."""
    return rule in ("all", "simulations") or "/" in rule


def _kind(record: logging.LogRecord) -> str:
    """Return the name of Snakemake's event that a record carries; empty for plain messages."""
    event = getattr(record, "event", None)
    return str(getattr(event, "value", event or ""))


def listed(counts: Counter[str]) -> str:
    """Return counts in words: ``8 simulate, 1 tables``."""
    return ", ".join(f"{n} {rule}" for rule, n in sorted(counts.items(), key=lambda x: -x[1]))


def duration(seconds: float) -> str:
    """Return a duration as people say it: ``45 s``, ``3 min 20 s``, ``2 h 5 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _last_lines(path: str, count: int = 3) -> list[str]:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:  # noqa: PTH123
            return [line.rstrip() for line in file if line.strip()][-count:]
    except OSError:
        return []
