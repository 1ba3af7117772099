"""What examples/deploy holds is what docs/deploy.md says, and is accepted by the programs that read it."""

from __future__ import annotations

import configparser
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import click
import pytest

from tests.docs.pages import ROOT
from tests.docs.test_blocks import parse

PLACE = ROOT / "examples" / "deploy"
FILE = PLACE / "Dockerfile"
KNOWN = set(
    "ARG CMD COPY ENTRYPOINT ENV EXPOSE FROM HEALTHCHECK LABEL RUN USER VOLUME WORKDIR".split()
)


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions in their order, each with the rest of its line."""
    text = re.sub(r"^#.*\n", "", FILE.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    lines = (line.split(maxsplit=1) for line in text.splitlines() if line.strip())
    return [(name, rest) for name, rest in lines]


def of(name: str) -> list[str]:
    return [rest for word, rest in instructions() if word == name]


def test_the_instructions_are_known() -> None:
    assert {name for name, _ in instructions()} <= KNOWN
    assert instructions()[0][0] == "FROM"
    assert instructions()[-1][0] == "CMD"


def test_the_base_is_pinned_to_a_version() -> None:
    images = {rest.split()[0] for rest in of("FROM")}
    assert len(images) == 1
    assert re.fullmatch(r"python:3\.1[1-3]-slim-\w+", images.pop())


def test_what_is_copied_is_there_and_not_ignored() -> None:
    listed = (PLACE / "Dockerfile.dockerignore").read_text().splitlines()
    taken = {line.removeprefix("!") for line in listed if line.startswith("!")}
    for line in of("COPY"):
        *sources, _ = line.split()
        for source in sources:
            if source.startswith("--from=") or "--from=" in line or source == "${BUNDLE}":
                continue
            assert (ROOT / source).exists(), source
            assert source in taken
    assert "*.moe" in taken
    assert "*" in listed


def test_it_installs_numpy_and_moetune_alone() -> None:
    installs = [line.split() for line in of("RUN") if "pip install" in line]
    packages = [[w for w in words[2:] if not w.startswith("--")] for words in installs]
    assert packages == [['"numpy>=2.2"'], ["/wheels/*.whl"]]
    assert "--no-deps" in installs[1]
    assert not any("apt-get" in line for line in of("RUN"))
    assert of("USER") == ["moetune"]


def test_its_program_is_an_example() -> None:
    assert of("CMD") == ['["python", "run_bundle.py", "layer.moe", "unsigned"]']
    assert "examples/run_bundle.py ./" in of("COPY")


def builder() -> list[str] | None:
    """What builds images here: docker with its daemon, or buildah."""
    docker = shutil.which("docker")
    if docker and subprocess.run([docker, "info"], capture_output=True).returncode == 0:
        return ["docker", "build"]
    return ["buildah", "build"] if shutil.which("buildah") else None


@pytest.mark.slow
def test_it_builds_and_runs(tmp_path: Path) -> None:
    command = builder()
    if command is None:
        pytest.skip("neither a docker daemon nor buildah is here")
    base = of("FROM")[0].split()[0]
    if subprocess.run([command[0], "pull", base], capture_output=True).returncode:
        pytest.skip(f"{base} cannot be had here")
    context = tmp_path / "checkout"
    files = subprocess.check_output(["git", "ls-files"], cwd=ROOT, text=True).splitlines()
    for file in files:
        (context / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, context / file)
    shutil.copy(ROOT / "tests" / "former" / "bundle.moe", context / "granite.moe")
    built = subprocess.run(
        [*command, "-f", "examples/deploy/Dockerfile", "-t", "moetune-test", "."],
        cwd=context, capture_output=True, text=True,
    )  # fmt: skip
    assert built.returncode == 0, built.stdout + built.stderr
    if command[0] == "docker":
        said = subprocess.check_output(["docker", "run", "--rm", "moetune-test"], text=True)
        assert said.startswith("<Layer tiny: ")


def unit() -> configparser.ConfigParser:
    """The unit of systemd; names that stand twice, as Environment does, are numbered."""
    counts: dict[str, int] = {}
    lines = []
    for line in (PLACE / "moetune.service").read_text().splitlines():
        name, equals, value = line.partition("=")
        counts[name] = counts.get(name, 0) + 1
        twice = equals and counts[name] > 1
        lines.append(f"{name}{counts[name]}={value}" if twice else line)
    read = configparser.ConfigParser(interpolation=None)
    read.optionxform = str  # type: ignore[assignment,method-assign]
    read.read_string("\n".join(lines))
    return read


def test_the_unit_starts_the_service() -> None:
    service = unit()["Service"]
    program, *words = shlex.split(service["ExecStart"])
    assert Path(program).name == "moetune"
    parse(words)
    with pytest.raises(click.UsageError):
        parse([*words, "--nonesuch"])
    folders = {value.split("=")[1] for name, value in service.items() if name.startswith("Env")}
    assert all(folder.startswith(("/var/lib/moetune/", "/var/cache/moetune")) for folder in folders)


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze")
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    text = (PLACE / "moetune.service").read_text()
    there = text.replace("/opt/moetune/bin/moetune", str(shutil.which("true")))
    (tmp_path / "moetune.service").write_text(there)
    command = ["systemd-analyze", "verify", tmp_path / "moetune.service"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not shutil.which("nginx"), reason="needs nginx")
def test_nginx_takes_the_proxy(tmp_path: Path) -> None:
    text = (PLACE / "nginx.conf").read_text().replace("listen 443 ssl;", "listen 8443;")
    plain = re.sub(r"^ *ssl_certificate.*\n", "", text, flags=re.MULTILINE)
    (tmp_path / "nginx.conf").write_text(f"events {{}}\nhttp {{\n{plain}}}\n")
    command = ["nginx", "-t", "-p", tmp_path, "-c", tmp_path / "nginx.conf"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_proxy_passes_on_to_the_service() -> None:
    text = (PLACE / "nginx.conf").read_text()
    assert text.count("{") == text.count("}") == 3
    port = re.search(r"--port (\d+)", unit()["Service"]["ExecStart"])
    assert port is not None
    assert f"server 127.0.0.1:{port[1]};" in text
