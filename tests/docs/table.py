"""How the commands of the pages are run by the tests, and which cannot be, with the reason and a weaker check.

A new page's command is run for real, in a directory of its own beside a running daemon and a sandbox (`world.py`), when it
begins with one of `RUN_AS_THEY_ARE`. It must then end with status 0. What needs more stands here:

- `Run(pattern, ...)`: it runs, but ends with another status, or needs an option so that it ends at all;
- `Files(pattern, needs)`: it makes, moves or removes files; it runs in an image of an installed machine (`image.py`), after
  the other such commands of its block;
- `Skip(pattern, why, check)`: it cannot run in a test (it changes the system, it needs root, it does not end); `check` is
  what can be said about it without.

`pattern` is searched for at the start of the command, without `sudo` and variables before it. The first match wins.
"""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import typer.main

from bridge.cli.app import app
from bridge.config.load import load_settings
from tests.docs.blocks import ROOT
from tests.docs.image import planned

Check = Callable[[str], None]
RUN_AS_THEY_ARE = ("smtp-bridge", "smtp-bridge-sendmail", "sendmail", "mailq", "curl", "echo", "printf", "swaks")


@dataclass(frozen=True, slots=True)
class Run:
    pattern: str
    statuses: tuple[int, ...] = (0,)
    add: str = ""  # at the end of the command
    says: str = ""  # a pattern that its output holds
    needs: str = ""  # a program without which it is skipped


@dataclass(frozen=True, slots=True)
class Files:
    pattern: str
    needs: str = ""  # a program without which it is skipped


@dataclass(frozen=True, slots=True)
class Skip:
    pattern: str
    why: str
    check: Check


def bare(command: str) -> str:
    """Without what stands before the program: `sudo`, its options and variables; and with the program's name alone."""
    words = re.sub(r"^(?:(?:sudo(?: -[A-Za-z]+| -u \S+)*|[A-Z_]+=(?!\$\()(?:\"[^\"]*\"|'[^']*'|\S)*) +)+", "", command)
    return re.sub(r"^(?:/opt/smtp-bridge/bin/|\.venv/bin/|\./)", "", words)


# --- weaker checks


def nothing(command: str) -> None:
    """Another program's own command: nothing of ours is in it."""
    assert "smtp-bridge " not in bare(command), "it runs a command of ours: check its options"


@cache
def _program() -> Any:
    """Of click, or of the copy of it within typer."""
    return typer.main.get_command(app)


def options_exist(command: str) -> None:
    """The sub-command is there and takes these options and arguments."""
    words = shlex.split(bare(command), comments=True)
    found = _program()
    context = found.context_class(found, info_name="smtp-bridge")
    rest = words[1:]
    while hasattr(found, "get_command") and rest and not rest[0].startswith("-"):
        inner = found.get_command(context, rest[0])
        assert inner is not None, f"there is no command {rest[0]!r} in {command!r}"
        found, rest = inner, rest[1:]
        context = found.context_class(found, parent=context, info_name=words[0])
    takes = {name for one in found.params for name in (*one.opts, *one.secondary_opts)} | {"--help"}
    options = {word.partition("=")[0] for word in rest if re.match(r"--?[a-z]", word)}
    assert options <= takes, f"{command}: there is no {', '.join(sorted(options - takes))}"
    arguments = [re.sub(r"^\[(.*)\]$", r"\1", word) for word in rest]
    _, left, _ = found.make_parser(context).parse_args(arguments)
    most = sum(one.nargs for one in found.params if one.param_type_name == "argument")
    many = any(one.nargs < 0 for one in found.params if one.param_type_name == "argument")
    assert many or len(left) <= most, f"{command}: it takes no {left[-1]!r}"


def files_exist(command: str) -> None:
    """What it names of this repository is there."""
    names = re.findall(
        r"(?<![\w/.$-])((?:systemd|docs|tests|bridge)/[\w./-]+|config\.example\.toml|constraints\.txt)", command
    )
    missing = [name for name in names if not (ROOT / name).exists()]
    assert not missing, f"no such file in the repository: {', '.join(missing)}"


def units_exist(command: str) -> None:
    files_exist(command)
    if found := re.search(r"systemd-run .*?(smtp-bridge .*)", command):
        options_exist(found[1])
    for name in re.findall(r"(?<![\w/.-])(smtp-bridge(?:\.\w+)?)(?![\w/@-])", command):
        unit = name if "." in name else f"{name}.service"
        assert (ROOT / "systemd" / unit).exists() or unit.endswith((".conf", ".slice")), f"no unit systemd/{unit}"


def make_targets(command: str) -> None:
    makefile = (ROOT / "Makefile").read_text()
    for word in shlex.split(bare(command), comments=True)[1:]:
        if "=" in word or word.startswith("-"):
            name, _, value = word.partition("=")
            if name == "ARGS" and "make run" in command:
                options_exist(f"smtp-bridge demo {value}")
            elif name == "ARGS":
                files_exist(value)
            else:
                assert re.search(rf"(?m)\b{re.escape(name.lstrip('-'))}\b", makefile) or word.startswith("-"), name
        else:
            assert re.search(rf"(?m)^{re.escape(word)}:", makefile), f"the Makefile has no target {word!r}"
    assert planned(command), "it does nothing"


def each_part(command: str) -> None:
    """`cd there && make install && systemctl ...`: each by its own rule."""
    for part in re.split(r"\s+&&\s+", command)[1:]:
        rule = rule_for(part)
        assert isinstance(rule, Skip), part
        rule.check(part)


def module_exists(command: str) -> None:
    """`python -m tests.bench.memory`, with the files of this repository that it names."""
    files_exist(command)
    (module,) = re.findall(r" -m (\S+)", command)
    assert module in ("venv", "pip") or importlib.util.find_spec(module), f"no module {module}"
    if module in ("venv", "pip"):
        pip_extras(command)


def pip_extras(command: str) -> None:
    files_exist(command)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for found in re.findall(r"\[([\w,]+)\]", command):
        assert set(found.split(",")) <= set(extras), f"no such extra: {found}"


def container(command: str) -> None:
    """Its variables are settings that are taken together, its files are there."""
    files_exist(command)
    words = shlex.split(command, comments=True)
    assert "..." not in words, "no command: it leaves something out"
    mounts = [word.split(":")[1] for before, word in pairwise(words) if before in ("-v", "--volume") and ":" in word]
    given = dict(
        word.split("=", 1)
        for before, word in pairwise(words)
        if before in ("-e", "--env") and word.startswith("SMTP_BRIDGE_") and "=" in word
    )
    for name in [name for name in given if name.endswith("_FILE")]:
        found = [mount for mount in mounts if f"{given[name]}/".startswith(f"{mount}/")]
        assert found, f"{name}: nothing is mounted at {given[name]}"
        given[name.removesuffix("_FILE")] = "c2VjcmV0LXNlY3JldA=="
        del given[name]
    if given:
        given.setdefault("SMTP_BRIDGE_PROVIDER__KIND", "capture")
        load_settings(environ=given, cwd=Path("/nonexistent"))


def helm_values(command: str) -> None:
    """Each `--set a.b=c` is in the chart's schema."""
    files_exist(command)
    schema = json.loads((ROOT / "docs/deploy/helm/values.schema.json").read_text())
    for before, word in pairwise(shlex.split(command, comments=True)):
        place = schema
        for key in word.partition("=")[0].split(".") if before == "--set" else ():
            further = place.get("properties", {}).get(key, place.get("additionalProperties"))
            assert isinstance(further, dict), f"--set {word}: the chart has no {key!r}"
            place = further


# --- the table

SYSTEM = "it changes the system"
ENDLESS = "it does not end by itself"
FOREIGN = "another program's own command"
_SERVICES = ("systemctl", "journalctl", r"systemd-\w+", "loginctl", "machinectl", "busctl")
_ENGINES = ("docker", "podman", "buildah", "nerdctl", "skopeo", "trivy", "syft", "grype")
_CLUSTERS = ("docker-compose", "kubectl", "helm", "kind", "kustomize", "minikube", "kubeconform")
_PACKAGES = (
    "apt",
    "apt-get",
    "dnf",
    "yum",
    "apk",
    "brew",
    "debootstrap",
    "mmdebstrap",
    "dpkg",
    r"qemu\S*",
    r"virt-\w+",
)
_FILES = ("install", "cp", "mv", "ln", "rm", "mkdir", "chmod", "chown", "touch", "tee", r"cat >")
_MACHINE = (
    "chgrp", "useradd", "userdel", "usermod", "adduser",
    "tar", "rsync", "scp", "ssh", "umask", "mount", "umount", "setcap", "ufw", "nft", "iptables", "dd", "truncate",
    "sysctl",
)  # fmt: skip
_READERS = (
    "cat", "less", "vi", "vim", "nano", "sed", "grep", "awk", "ls", "cd", "export", "source", "test", "diff", "head", "tail",
    "du", "df", "id", "jq", "dig", "nc", "ncat", "telnet", "ss", "lsof", "kill", "pgrep", "ps", "watch", "time", "sleep",
    "timeout",
    "git", "gpg", "cosign", "sha256sum", "certbot", "haproxy", "nginx", "caddy",
)  # fmt: skip
_FOREIGN = (
    "postfix", "postconf", "postmap", "postqueue", "postsuper", "postcat", "newaliases", r"exim4?", "msmtp", "mail", "mutt",
    "sqlite3", "psql", "pg_dump", "litestream", "restic", "borg", "aws-smtp-relay", "node", "npm", "php", "composer", "bundle",
    "rails", "dotnet", "mvn", "gradle", "java", "go", "terraform", r"ansible\S*", "aws", "az", "gcloud", "twine",
)  # fmt: skip


def _any(words: tuple[str, ...]) -> str:
    return rf"(?:{'|'.join(words)})(?![\w-])"


TABLE: tuple[Run | Files | Skip, ...] = (
    # ours
    Run(r"smtp-bridge check --config config\.example\.toml", (78,), says="provider"),
    Run(r"smtp-bridge doctor --listen", (1,), "--timeout 100ms", says="(?s)Waiting for .*Nobody connected"),
    Run(r"smtp-bridge doctor", (0, 1), "--offline", says="spool"),  # 1: it finds something in this world
    Run(r"smtp-bridge queue retry --reason account", (0, 1)),  # 1: there was none
    Skip(r"smtp-bridge run", f"{ENDLESS}; the daemon beside these tests is one", options_exist),
    Skip(r"smtp-bridge demo", "tests/cli/test_demo.py runs it", options_exist),
    Skip(r"smtp-bridge sandbox", f"{ENDLESS}; the sandbox beside these tests is one", options_exist),
    Run(r"smtp-bridge queue watch", add="--once"),
    Skip(r"smtp-bridge --(install|show)-completion", "tests/cli/test_completion.py runs it", nothing),
    Run(r"swaks", needs="swaks"),
    Run(r"curl .*(127\.0\.0\.1|localhost):80\d\d", needs="curl"),
    Skip(r"curl", "it asks another machine", files_exist),
    # the repository's own tools
    Skip(r"make(?![\w-])", "the suite itself, or an installation: tests/systemd has it", make_targets),
    Skip(r"python3? -m ", "it takes minutes, or another test runs it", module_exists),
    Skip(r"(python3?|pip3?|pipx|uv)(?![\w-])", "it installs; what it names is checked", pip_extras),
    Skip(r"\.ci/run", "it is the suite itself", files_exist),
    Files(_any(_FILES)),
    Files(r"[A-Z]+=\$\(readlink "),
    Files("openssl", needs="openssl"),
    # the rest
    Skip(r"cd \S+ &&", "its parts are checked", each_part),
    Skip("helm", "it needs a cluster", helm_values),
    Skip(_any(_SERVICES), "there is no service manager in a test", units_exist),
    Skip(_any(_ENGINES), "it needs an engine and an image", container),
    Skip(_any(_CLUSTERS), "it needs an engine or a cluster", files_exist),
    Skip(_any((*_PACKAGES, *_MACHINE)), SYSTEM, files_exist),
    Skip(_any(_READERS), "it reads or edits what is the reader's own", files_exist),
    Skip(_any(_FOREIGN), FOREIGN, nothing),
    Skip(_any(("for", "while", "if", "case", "until")), "a script of the shell", nothing),
)


def rule_for(command: str) -> Run | Files | Skip | None:
    """None: nothing is known of it."""
    words = bare(command)
    found = next((rule for rule in TABLE if re.match(rule.pattern, words)), None)
    if found is None and words.split()[0] in RUN_AS_THEY_ARE:
        return Run(re.escape(words))
    return found
