"""Every command of README.md and the pages: run for real, or checked as `table.py` says for those that cannot run."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.blocks import ROOT, SHELL, Block, all_blocks, blocks, commands, pages
from tests.docs.image import Image
from tests.docs.table import (
    TABLE,
    Files,
    Run,
    Skip,
    bare,
    container,
    helm_values,
    make_targets,
    options_exist,
    rule_for,
)
from tests.docs.world import World, world


def found_commands() -> dict[str, list[str]]:
    """Each command once, with the places where it stands."""
    found: dict[str, list[str]] = {}
    for path in pages():
        for block in blocks(path):
            for command in commands(block):
                found.setdefault(_without_comment(command), []).append(block.place)
    return found


def _without_comment(command: str) -> str:
    return command if "\n" in command else re.sub(r"\s+#(?=\s)[^'\"]*(?:'\w[^'\"]*)?$", "", command)


COMMANDS = found_commands()
KNOWN = {command: rule for command in COMMANDS if (rule := rule_for(command))}
TO_RUN = [command for command, rule in KNOWN.items() if isinstance(rule, Run)]
TO_CHECK = [command for command, rule in KNOWN.items() if isinstance(rule, Skip)]


def name(command: str) -> str:
    place = COMMANDS[command][0]
    return f"{place} {bare(command)[:50]}"


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("world")) as found:
        yield found


def test_every_command_has_a_way_to_be_tested() -> None:
    unknown = [f"{', '.join(places)}: {command}" for command, places in COMMANDS.items() if command not in KNOWN]

    assert unknown == [], (
        "add a line to TABLE in tests/docs/table.py: Run(...) where it can run, else Skip(...) with a check"
    )


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")  # of the doctor, which offers what is old
@pytest.mark.parametrize("command", TO_RUN, ids=name)
def test_it_runs(command: str, here: World) -> None:
    rule = KNOWN[command]
    assert isinstance(rule, Run)
    if rule.needs and shutil.which(rule.needs) is None:
        pytest.skip(f"{rule.needs} is not installed here")

    done = here.run(command, rule)

    said = done.stdout + done.stderr
    hint = "(another status that is right here, or an option it needs: a Run(...) in tests/docs/table.py)"
    assert done.returncode in rule.statuses, f"{', '.join(COMMANDS[command])}: {command}\n{said}\n{hint}"
    assert re.search(rule.says, said), said


@pytest.mark.parametrize("command", TO_CHECK, ids=name)
def test_it_cannot_run_here_and_what_it_names_is_there(command: str) -> None:
    rule = KNOWN[command]
    assert isinstance(rule, Skip)

    rule.check(command)


OF_FILES = [
    block for block in all_blocks(*SHELL) if any(isinstance(rule_for(command), Files) for command in commands(block))
]


@pytest.mark.parametrize("block", OF_FILES, ids=lambda block: block.place)
def test_what_handles_files_finds_them(block: Block, tmp_path: Path) -> None:
    image = Image(tmp_path)
    found = [(command, rule) for command in commands(block) if isinstance(rule := rule_for(command), Files)]
    missing = [rule.needs for _, rule in found if rule.needs and shutil.which(rule.needs) is None]
    if missing:
        pytest.skip(f"{missing[0]} is not installed here")
    image.run("\n".join(command for command, _ in found))
    image.assert_whole()


INLINE = sorted(
    {
        (found, str(path.relative_to(ROOT)))
        for path in pages()
        for found in re.findall(r"(?<!`)`(smtp-bridge [a-z][^`\n]*)`(?!`)", path.read_text())
    }
)


@pytest.mark.parametrize(("command", "page"), INLINE)
def test_a_command_within_a_sentence_takes_its_options(command: str, page: str) -> None:
    options_exist(re.sub(r"\s*(\.\.\.|\|.*|>.*)$", "", command))


_OTHERS = (
    r"(?<!`)`((?:sudo )?(?:python3? -m|make|twine|openssl|docker|podman|buildah|kubectl|helm|systemctl|pip) [^`\n]+)`"
)
INLINE_OTHERS = sorted({found for path in pages() for found in re.findall(_OTHERS, path.read_text())})


@pytest.mark.parametrize("command", INLINE_OTHERS)
def test_another_command_within_a_sentence_names_what_is_there(command: str) -> None:
    rule = rule_for(command)
    assert isinstance(rule, Skip | Files), "add a line to TABLE in tests/docs/table.py"
    if isinstance(rule, Skip):
        rule.check(command)


STARTS = re.compile(r"systemctl (enable --now|start|restart) .*smtp-bridge|smtp-bridge run|make run")
ASKS = re.compile(r"smtp-bridge (send|queue|reload)\b")


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("quickstart-*.md")), ids=lambda path: path.stem)
def test_a_quick_start_starts_the_daemon_before_it_is_asked(page: Path) -> None:
    found = [command for block in blocks(page) for command in commands(block)]
    asking = next(number for number, command in enumerate(found) if ASKS.search(command))

    assert any(STARTS.search(command) for command in found[:asking]), found[asking]


SENDING = [block for block in all_blocks("python") if re.search("import (smtplib|urllib)", block.text)]


@pytest.mark.parametrize("block", SENDING, ids=lambda block: block.place)
def test_python_that_sends_mail_sends_it(block: Block, here: World) -> None:
    before = here.http.get("/api/v1/messages?limit=1").json()["messages"]

    done = subprocess.run(
        [sys.executable, "-c", here.localized(block.text)],
        env=here.environment(), cwd=here.directory, capture_output=True, text=True, timeout=60,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert here.http.get("/api/v1/messages?limit=1").json()["messages"] != before


def test_a_wrong_command_would_be_found(here: World, tmp_path: Path) -> None:
    done = here.run("smtp-bridge queue list --statu failed", Run(""))
    assert done.returncode != 0
    with pytest.raises(AssertionError, match="--lissten"):
        options_exist("smtp-bridge doctor --lissten")
    with pytest.raises(AssertionError, match="frobnicate"):
        options_exist("smtp-bridge frobnicate")
    assert rule_for("frobnicate --now") is None
    with pytest.raises(AssertionError, match="frobnicate"):
        make_targets("make frobnicate")
    with pytest.raises(AssertionError, match="'colour'"):
        helm_values("helm install x docs/deploy/helm --set provider.colour=red")
    with pytest.raises(AssertionError, match="nothing is mounted"):
        container("docker run -e SMTP_BRIDGE_PROVIDER__API_KEY_FILE=/run/secrets/key -v a:/var/lib/smtp-bridge x")
    image = Image(tmp_path)
    with pytest.raises(AssertionError):
        image.run("cp /var/backups/smtp-bridge/tuesday /var/lib/private/smtp-bridge")
    image.run("ln -s /opt/smtp-bridge/bin/sendmail /usr/sbin/sendmail")
    with pytest.raises(AssertionError):
        image.assert_whole()
    assert (
        here.localized("cat /etc/passwd 'unix:/run/x.sock' http://127.0.0.1:8025/var/x").count(str(here.directory)) == 2
    )
    assert all(re.compile(rule.pattern) for rule in TABLE)
