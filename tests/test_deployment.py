"""The files that run Pageglass in containers, read as Docker reads them."""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shlex
import subprocess
import sys
import threading
import tomllib
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from check_jsonschema.builtin_schemas import get_builtin_schema

from api.owner import owner_of
from pageglass import __version__
from pageglass.profiles import PROFILES
from pageglass.settings import AnswerSettings, load_settings

ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
SCHEMA = get_builtin_schema("vendor.compose-spec")
BASE = "docker-compose.yml"
# The files of each profile, in the order in which they are given to `docker compose -f`.
STACKS = {
    "lite": (BASE,),
    "cpu": (BASE, "docker-compose.cpu.yml"),
    "gpu": (BASE, "docker-compose.gpu.yml"),
}
OURS = ("api", "worker")
_VARIABLE = re.compile(r"\$(?:(?P<escaped>\$)|\{(?P<name>\w+)(?::-(?P<default>[^}]*))?\})")


def compose_file(name: str) -> dict[str, Any]:
    return yaml.safe_load((ROOT / name).read_text("utf-8"))


def merge(under: Any, over: Any) -> Any:
    """What compose does with what several files say of the same thing: mappings are merged, lists
    put together (a command or a health check's test replaced), all else replaced."""
    if not isinstance(under, dict) or not isinstance(over, dict):
        return over
    merged: dict[str, Any] = dict(under)
    for key, value in over.items():
        if isinstance(value, list) and key not in ("command", "entrypoint", "test"):
            merged[key] = [*merged.get(key, []), *value]
        else:
            merged[key] = merge(merged.get(key), value)
    return merged


def interpolate(value: Any) -> Any:
    """Fill in what nobody has set: ``${NAME:-default}`` is its default, ``$$`` a dollar."""
    if isinstance(value, dict):
        return {key: interpolate(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [interpolate(inner) for inner in value]
    if isinstance(value, str):
        return _VARIABLE.sub(lambda found: "$" if found["escaped"] else found["default"], value)
    return value


def stack(profile: str) -> dict[str, Any]:
    """The merged compose file of a profile, without what only the files' authors see (``x-``)."""
    merged: Any = {}
    for name in STACKS[profile]:
        merged = merge(merged, compose_file(name))
    return interpolate({key: value for key, value in merged.items() if not key.startswith("x-")})


each_profile = pytest.mark.parametrize("profile", STACKS)


# Compose


@pytest.mark.parametrize("name", sorted({name for names in STACKS.values() for name in names}))
def test_a_compose_file_follows_the_compose_specification(name: str) -> None:
    jsonschema.validate(compose_file(name), SCHEMA)


@each_profile
def test_what_compose_makes_of_the_files_follows_the_specification(profile: str) -> None:
    merged = stack(profile)
    jsonschema.validate(merged, SCHEMA)
    assert {"api", "worker", "qdrant", "vllm"} == set(merged["services"])


@each_profile
def test_api_and_worker_have_the_same_settings_and_pageglass_takes_them(
    profile: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = stack(profile)["services"]
    environment: dict[str, str] = services["api"]["environment"]
    assert services["worker"]["environment"] == environment
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    settings = load_settings()  # an unknown or impossible setting is an error
    assert settings.profile == profile
    assert settings.index.url == f"http://qdrant:{container_port(services['qdrant'])}"


@each_profile
def test_only_the_profile_gpu_takes_a_gpu_and_asks_vllm(profile: str) -> None:
    services = stack(profile)["services"]
    with_gpu = profile == "gpu"
    assert services["vllm"]["profiles"] == ["gpu"]
    assert ("vllm" in services["api"]["depends_on"]) == with_gpu
    asked = services["api"]["environment"].get("PAGEGLASS_ANSWER__URL")
    assert asked == ("http://vllm:8000/v1" if with_gpu else None)
    assert ("deploy" in services["api"]) == with_gpu
    assert "deploy" not in services["worker"]
    if with_gpu:
        for name in ("api", "vllm"):
            (device,) = services[name]["deploy"]["resources"]["reservations"]["devices"]
            assert device == {"driver": "nvidia", "device_ids": ["0"], "capabilities": ["gpu"]}


def test_vllm_serves_the_models_that_the_profile_asks_it_for() -> None:
    model, *options = stack("gpu")["services"]["vllm"]["command"]
    given = dict(zip(options[::2], options[1::2], strict=True))
    assert model == given["--served-model-name"] == PROFILES["gpu"].models.answer
    assert model == PROFILES["gpu"].models.rerank, "else it would be loaded into the api"
    images = json.loads(given["--limit-mm-per-prompt"])["image"]
    AnswerSettings(pages=images)
    with pytest.raises(ValueError, match="pages"):
        AnswerSettings(pages=images + 1)


@each_profile
def test_images_are_pinned(profile: str) -> None:
    for name, service in stack(profile)["services"].items():
        repository, _, tag = service["image"].partition(":")
        if repository == "pageglass":
            assert tag == f"{__version__}-{profile}"
        else:
            assert re.fullmatch(r"v\d+\.\d+\.\d+", tag), f"{name}: {tag}"


def test_the_qdrant_server_is_one_that_the_pinned_client_speaks_with() -> None:
    pins = (ROOT / "constraints.txt").read_text("utf-8")
    pinned = re.search(r"^qdrant-client==(.+)$", pins, re.MULTILINE)
    assert pinned is not None
    from qdrant_client.common.version_check import is_compatible

    server = stack("lite")["services"]["qdrant"]["image"].partition(":v")[2]
    assert is_compatible(pinned[1], server)


@each_profile
def test_volumes_are_declared_and_used(profile: str) -> None:
    merged = stack(profile)
    mounted = [v.split(":") for s in merged["services"].values() for v in s.get("volumes", ())]
    named = {source for source, *_ in mounted if not source.startswith(("/", "."))}
    assert named == set(merged["volumes"])


@each_profile
def test_ports_are_published_to_this_machine_only(profile: str) -> None:
    published = [p for s in stack(profile)["services"].values() for p in s.get("ports", ())]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)


@each_profile
@pytest.mark.parametrize("name", OURS)
def test_our_containers_have_no_rights_to_spare(profile: str, name: str) -> None:
    service = stack(profile)["services"][name]
    assert service["read_only"] is True
    assert service["user"] == dockerfile()[-1].one("USER") != "0:0"
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "cap_add", "pid", "ipc", "network_mode"} & set(service)
    writable = [v for v in service["volumes"] if not v.endswith(":ro")]
    assert writable == (["data:/data", "models:/models"] if name == "api" else [])


@each_profile
def test_what_is_waited_for_is_there_and_can_become_healthy(profile: str) -> None:
    services = stack(profile)["services"]
    for service in services.values():
        assert service["healthcheck"]["test"][0] == "CMD"
        for needed, how in service.get("depends_on", {}).items():
            assert needed in services
            assert how["condition"] in ("service_healthy", "service_started")
    assert services["worker"]["depends_on"] == {"api": {"condition": "service_healthy"}}


@pytest.mark.skipif(sys.platform != "linux", reason="needs 127.0.0.2")
def test_a_server_named_by_its_host_tells_the_data_folder_an_address_others_reach(
    tmp_path: Path,
) -> None:
    """What the worker relies on: with 0.0.0.0 it would read 127.0.0.1, its own loopback."""
    command = ["serve", "--host", "127.0.0.2", "--port", "0"]
    with subprocess.Popen(
        [sys.executable, "-m", "api.cli", "--data-dir", str(tmp_path / "data"), *command],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        try:
            assert server.stdout is not None
            assert "listens at http://127.0.0.2:" in server.stdout.readline()
            owner = owner_of(tmp_path / "data")
            assert owner is not None
            assert str(owner.address).startswith("http://127.0.0.2:")
        finally:
            server.terminate()


@pytest.mark.parametrize("name", ["api", "worker", "qdrant", "vllm"])
def test_a_health_check_tells_a_healthy_server_from_others(name: str) -> None:
    service = stack("gpu")["services"][name]
    command = [tool(service["healthcheck"]["test"][1]), *service["healthcheck"]["test"][2:]]
    path = {"qdrant": "/readyz", "vllm": "/health"}.get(name, "/readyz")
    with answering(200) as (port, asked):
        assert run_check(command, port) == 0
    with answering(503) as (other, asked_other):
        assert run_check(command, other) != 0
    assert asked == asked_other == [path]
    assert run_check(command, port) != 0, "nobody listens there any more"


# Dockerfile


@dataclass(frozen=True, slots=True)
class Stage:
    """What stands between one FROM and the next, as (instruction, its words)."""

    instructions: list[tuple[str, str]]

    def all(self, name: str) -> list[str]:
        return [words for instruction, words in self.instructions if instruction == name]

    def one(self, name: str) -> str:
        (words,) = self.all(name)
        return words


def dockerfile() -> list[Stage]:
    lines = (ROOT / "Dockerfile").read_text("utf-8").splitlines()
    text = "\n".join(line for line in lines if not line.startswith("#")).replace("\\\n", "")
    stages: list[Stage] = []
    for line in filter(str.strip, text.splitlines()):
        name, words = line.split(maxsplit=1)
        if name == "FROM":
            stages.append(Stage([]))
        stages[-1].instructions.append((name, words))
    return stages


def copied() -> list[str]:
    """What is copied out of the repository."""
    return [
        source
        for stage in dockerfile()
        for words in stage.all("COPY")
        if not words.startswith("--from")
        for source in words.split()[:-1]
    ]


def ignored(path: str) -> bool:
    """Whether .dockerignore keeps a path out; the last pattern that matches it, or a folder it is
    in, decides."""
    out = False
    parts = path.split("/")
    above = ["/".join(parts[: n + 1]) for n in range(len(parts))]
    for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines():
        if not line or line.startswith("#"):
            continue
        pattern = line.removeprefix("!")
        candidates = parts if pattern.startswith("**/") else above
        if any(fnmatch.fnmatch(one, pattern.removeprefix("**/")) for one in candidates):
            out = not line.startswith("!")
    return out


def test_the_image_is_built_in_one_stage_and_run_in_another() -> None:
    build, run = dockerfile()
    assert build.one("FROM") == f"{run.one('FROM')} AS build"
    assert re.fullmatch(r"python:3\.\d+-slim-\w+", run.one("FROM"))
    assert run.all("COPY") == ["--from=build /venv /venv"]
    order = [name for name, _ in run.instructions]
    assert order.index("USER") < order.index("ENTRYPOINT") < order.index("CMD")
    assert "HEALTHCHECK" in order


def test_the_image_s_user_owns_what_it_writes_to_and_is_not_root() -> None:
    run = dockerfile()[-1]
    uid, _, gid = run.one("USER").partition(":")
    assert int(uid) > 0
    made = run.one("RUN")
    assert f"useradd --uid {uid} --gid {gid}" in made
    assert json.loads(run.one("VOLUME")) == ["/data", "/models"]
    assert re.search(r"install -d -o pageglass -g pageglass /data /models$", made)
    assert run.one("WORKDIR") == "/data"
    environment = dict(word.split("=", 1) for word in shlex.split(run.one("ENV")))
    assert environment["PAGEGLASS_DATA_DIR"] == "/data"
    assert environment["HF_HOME"] == "/models"


def test_the_image_s_own_settings_are_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    for word in shlex.split(dockerfile()[-1].one("ENV")):
        name, value = word.split("=", 1)
        if name.startswith("PAGEGLASS_"):
            monkeypatch.setenv(name, value)
    assert load_settings().server.host == "0.0.0.0"


def test_the_image_s_health_check_asks_the_port_it_serves() -> None:
    run = dockerfile()[-1]
    port = load_settings().server.port
    assert run.one("EXPOSE") == str(port)
    command = json.loads(run.one("HEALTHCHECK").partition(" CMD ")[2])
    command[0] = tool(command[0])
    with answering(200) as (listening, asked):
        assert run_check(command, listening) == 0
    assert asked == ["/readyz"]
    assert container_port(stack("lite")["services"]["api"]) == port


def test_the_image_s_command_is_one_of_ours() -> None:
    run = dockerfile()[-1]
    scripts: dict[str, str] = PROJECT["project"]["scripts"]
    assert json.loads(run.one("ENTRYPOINT")) == list(scripts)
    services = stack("lite")["services"]
    for arguments in (json.loads(run.one("CMD")), *(services[n]["command"] for n in OURS)):
        shown = subprocess.run(
            [sys.executable, "-m", "api.cli", arguments[0], "--help"],
            capture_output=True,
            text=True,
            cwd=ROOT,
            check=True,
        )
        assert f"pageglass {arguments[0]}" in shown.stdout


def test_every_package_and_what_its_build_needs_is_copied_and_nothing_else() -> None:
    wheel = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
    project = PROJECT["project"]
    needed = {*wheel["packages"], project["readme"], *project["license-files"]}
    assert set(copied()) == needed | {"pyproject.toml", "constraints.txt"}
    for source in copied():
        assert (ROOT / source).exists()
        assert not ignored(source)
    assert not ignored("retrieval/encoders/minilm_l6_v2/model.onnx")


@pytest.mark.parametrize(
    "path",
    [
        ".git/config",
        ".venv/bin/python",
        ".venv-test/bin/python",
        ".evals/cache",
        ".demo/catalog.sqlite",
        ".env",
        "inbox/lease.pdf",
        "samples/docs/a.pdf",
        "tests/conftest.py",
        "pageglass.toml",
        "api/__pycache__/cli.pyc",
    ],
)
def test_what_is_private_or_useless_stays_out_of_the_image(path: str) -> None:
    assert ignored(path)


@pytest.mark.parametrize("extras", ["", "models"])
def test_the_image_installs_the_project_s_dependencies(extras: str, tmp_path: Path) -> None:
    """The layer of dependencies is written by a line of Python: run it."""
    (script,) = [words for words in dockerfile()[0].all("RUN") if "tomllib" in words]
    subprocess.run(
        ["sh", "-euc", script.replace("> requirements.txt", f"> {tmp_path}/requirements.txt")],
        env={"EXTRAS": extras, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        cwd=ROOT,
        check=True,
    )
    project = PROJECT["project"]
    wanted = [*project["dependencies"]]
    for extra in extras.split():
        wanted += project["optional-dependencies"][extra]
    assert (tmp_path / "requirements.txt").read_text().splitlines() == wanted


@each_profile
def test_a_stack_is_built_with_arguments_and_extras_that_exist(profile: str) -> None:
    declared = {words.partition("=")[0] for words in dockerfile()[0].all("ARG")}
    for name in OURS:
        service = stack(profile)["services"][name]
        arguments: dict[str, str] = service["build"]["args"]
        assert set(arguments) == declared
        assert set(arguments["EXTRAS"].split()) <= set(PROJECT["project"]["optional-dependencies"])
        assert arguments["EXTRAS"] == ("" if profile == "lite" else "models")


def test_every_compose_file_is_described() -> None:
    text = (ROOT / "docs" / "deployment.md").read_text("utf-8")
    for profile, names in STACKS.items():
        assert f"`{profile}`" in text
        assert " ".join(f"-f {name}" for name in names) in text or len(names) == 1
    for name in sorted(ROOT.glob("docker-compose*.yml")):
        assert name.name in {one for names in STACKS.values() for one in names}


# What the checks talk to


def container_port(service: dict[str, Any]) -> int:
    (published,) = service["ports"]
    return int(published.rpartition(":")[2])


def tool(name: str) -> str:
    return sys.executable if name.startswith("python") else name


def run_check(command: list[str], port: int) -> int:
    """Run a health check against ``port`` of this machine, in place of the service's own."""
    here = [
        re.sub(r"(127\.0\.0\.1|api)([:/])\d+", rf"127.0.0.1\g<2>{port}", part) for part in command
    ]
    assert here != command
    return subprocess.run(here, capture_output=True, timeout=20).returncode


@contextmanager
def answering(status: int) -> Generator[tuple[int, list[str]]]:
    """A server that answers everything with ``status``: its port, and the paths asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(status)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_port, asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
