"""Install: is a bundle right on this machine, and as fast as where it was tuned?"""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tuner.bundle.catalogue import write_choice
from tuner.bundle.choose import ladder
from tuner.bundle.manifest import Section
from tuner.bundle.reader import Bundle, read_bundle
from tuner.errors import BundleArchitectureError, BundleError, DeviceError, SelfTestError
from tuner.gpu.device import opened, target_of
from tuner.host import json_text
from tuner.host.interference import FOREIGN_LIMIT
from tuner.host.process import run
from tuner.target import Target, detect

OK, SLOWER, REFUSED = "ok", "slower than shipped", "refused"
_LIMIT_S = 600.0


@dataclass(frozen=True)
class Result:
    """The verdict on one problem of a bundle, or on the file.

    Attributes:
        verdict: ``ok``, ``slower than shipped`` or ``refused``.
        problem: its name; empty where the file was refused.
        notes: what is to be said of it, for people: why, how it matches, what is run instead.
        target: architecture or card whose code runs from now on; empty where none.
        worst: largest relative error of the self-test.
        speed: the workloads that were timed again, with the fraction of the ceiling here and where tuned.
    """

    verdict: str
    problem: str
    notes: tuple[str, ...]
    target: str = ""
    worst: float | None = None
    speed: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True)
class Installed:
    """What became of a file: the worst verdict of its problems, and each of them."""

    path: str
    signer: str
    results: tuple[Result, ...]

    @property
    def verdict(self) -> str:
        verdicts = {result.verdict for result in self.results}
        return next(v for v in (REFUSED, SLOWER, OK) if v in verdicts)

    @property
    def exit_code(self) -> int:
        return 1 if self.verdict == REFUSED else 0

    def to_json(self) -> dict[str, Any]:
        return {"verdict": self.verdict, **asdict(self)}


def install(
    path: Path, trust: str = "signed", timed: bool = True, device: str = "cuda:0"
) -> Installed:
    """Check a bundle, run its self-test here in a process of its own, and compare its speed.

    Code for processors is run on this one, code for GPUs on `device`; a bundle may hold one of them alone.
    What is found lies in the verdict; nothing is raised for a bundle that is refused. Raises UsageError
    where `trust` or `device` makes no sense.
    """
    try:
        bundle = read_bundle(path, trust)
    except BundleError as error:
        return Installed(str(path), "", (Result(REFUSED, "", (str(error),)),))
    results = (
        result
        for section in bundle.manifest.sections
        for result in _section(bundle, section, timed, device)
    )
    return Installed(str(path), bundle.signer, tuple(results))


def _section(bundle: Bundle, section: Section, timed: bool, device: str) -> list[Result]:
    """A result for this processor and one for the GPU, as far as the section has code that they run.

    What has none is a note where the other runs, and a refusal where neither does.
    """
    hosts, absent = _hosts(section, device)
    if not hosts:
        return [Result(REFUSED, _name(section), tuple(absent))]
    results = [_on(bundle, section, host, timed, name) for name, host in hosts.items()]
    first = dataclasses.replace(results[0], notes=(*results[0].notes, *absent))
    return [first, *results[1:]]


def _hosts(section: Section, device: str) -> tuple[dict[str, Target], list[str]]:
    """What runs code of a section here, by the name of the device (cpu, or a GPU's); and why others don't."""
    hosts, absent = {}, []
    for kind in sorted({part.target.kind for part in section.parts}):
        name = "cpu" if kind == "cpu" else device
        try:
            host = detect() if kind == "cpu" else target_of(opened(device))
            ladder([part for part in section.parts if part.target.kind == kind], host)
            hosts[name] = host
        except (BundleArchitectureError, DeviceError) as error:
            absent.append(str(error))
    return hosts, absent


def _name(section: Section) -> str:
    return section.problem.name or section.problem.describe()


def _on(bundle: Bundle, section: Section, host: Target, timed: bool, device: str) -> Result:
    """The verdict of one processor or GPU."""
    name = _name(section)
    try:
        first = ladder(section.parts, host)[0]
        report = probation(bundle, section, "timed" if timed else "first", device)
        tested = report["parts"][0]
        if tested["message"]:
            raise SelfTestError(
                f"wrong answers from code for {tested['arch']}: {tested['message']}"
            )
    except BundleError as error:
        return Result(REFUSED, name, (str(error),))
    if host.kind == "cpu":
        write_choice(bundle, section, host, report["taken"])
    slow = [cell for cell in report["speed"] if cell["slower"]]
    taken = next(part for part in section.parts if part.target.label == report["taken"])
    notes = [first.note, *_match(first.target.label, host)]
    if not report["speed"]:
        notes.append(
            "its speed was not compared: " + ("nothing was measured" if timed else "as asked")
        )
    if slow:
        notes.append(_instead(first.target.label, taken.target.label))
    if any(cell["foreign"] > FOREIGN_LIMIT for cell in slow):
        notes.append("other processes ran meanwhile: install it again on a quiet machine")
    worst = {part["arch"]: part["worst"] for part in report["parts"]}[taken.target.label]
    return Result(
        SLOWER if slow else OK,
        name,
        tuple(notes),
        taken.target.label,
        worst,
        tuple(report["speed"]),
    )


def _match(label: str, host: Target) -> list[str]:
    return [] if label == host.label else [f"code for {label} on {host.label}"]


def _instead(first: str, taken: str) -> str:
    if first == taken:
        return f"nothing else in it is faster: {first} stays; `moetune tune` here finds what is"
    return f"falls back to code for {taken}, which is faster here than that for {first}"


def prove(path: Path, trust: str) -> list[str]:
    """Run all code of a bundle that runs here against its self-test; the targets whose code was run.

    Raises BundleError where the bundle or an answer is wrong.
    """
    bundle = read_bundle(path, trust)
    proven: dict[str, None] = {}
    for section in bundle.manifest.sections:
        for device in _hosts(section, "cuda:0")[0]:  # none: built for others only
            for part in probation(bundle, section, "all", device)["parts"]:
                if part["message"]:
                    raise SelfTestError(
                        f"wrong answers from code for {part['arch']}: {part['message']}"
                    )
                proven[part["arch"]] = None
    return list(proven)


def probation(bundle: Bundle, section: Section, what: str, device: str = "cpu") -> dict[str, Any]:
    """What the child process reports of one section on a device.

    Raises SelfTestError where it does not come to that.
    """
    module = "tuner.bundle.probation"
    command = [sys.executable, "-m", module, str(bundle.path.resolve()), bundle.sha256]
    done = run([*command, section.problem.digest, what, device], _LIMIT_S)
    if done.timed_out:
        raise SelfTestError(f"the self-test did not end within {_LIMIT_S:g} s")
    if done.returncode < 0:
        raise SelfTestError(
            f"the self-test was ended by signal {-done.returncode}; don't run it here"
        )
    try:
        report: dict[str, Any] = json_text.parse(done.stdout)
    except ValueError as error:
        said = done.stderr.strip().splitlines() or ["nothing"]
        raise SelfTestError(f"the self-test did not answer; it said: {said[-1]}") from error
    if "refused" in report:
        raise SelfTestError(report["refused"])
    return report
