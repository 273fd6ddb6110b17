"""`make install` and `make uninstall`, into an image that is then put in its place."""

from __future__ import annotations

import re
import shutil
import site
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from bridge import __version__

ROOT = Path(__file__).parents[2]
NAME = f"smtp_rest_bridge-{__version__}"

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed here")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Put together by hand: how it is built is no matter of these tests, and takes the build back end."""
    path = tmp_path_factory.mktemp("wheel") / f"{NAME}-py3-none-any.whl"
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    facts = {
        "METADATA": f"Metadata-Version: 2.1\nName: smtp-rest-bridge\nVersion: {__version__}\n",
        "WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "entry_points.txt": "[console_scripts]\n" + "".join(f"{name} = {place}\n" for name, place in scripts.items()),
        "RECORD": "",
    }
    with zipfile.ZipFile(path, "w") as archive:
        for file in (ROOT / "bridge").rglob("*"):
            if file.is_file() and "__pycache__" not in file.parts:
                archive.write(file, file.relative_to(ROOT))
        for name, text in facts.items():
            archive.writestr(f"{NAME}.dist-info/{name}", text)
    return path


def make(target: str, *variables: str) -> str:
    command = ["make", "--silent", "--directory", str(ROOT), target, f"PYTHON={sys.executable}", *variables]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def held(directory: Path) -> set[str]:
    """Files and links below, without what is in the environment of Python."""
    return {
        str(path.relative_to(directory))
        for path in directory.rglob("*")
        if (path.is_file() or path.is_symlink()) and "lib/smtp-bridge/" not in str(path.relative_to(directory))
    }


UNITS = {f"lib/systemd/{name}" for name in ("smtp-bridge.service", "smtp-bridge.socket", "smtp-bridge@.socket")}
LINKS = {"bin/smtp-bridge", "bin/smtp-bridge-sendmail"}


def test_what_is_installed_into_an_image_runs_in_its_place_and_goes_without_a_trace(
    tmp_path: Path, wheel: Path
) -> None:
    stage, final = tmp_path / "stage", tmp_path / "final"
    places = [f"PREFIX={final}", f"SYSCONFDIR={final}/etc", f"UNITDIR={final}/lib/systemd"]
    told = make("install", *places, f"DESTDIR={stage}", f"PACKAGE=--no-index --no-deps --no-compile {wheel}")
    assert f"Write {final}/etc/smtp-bridge/config.toml" in told
    assert list(stage.rglob("final")) == [Path(f"{stage}{final}")]

    shutil.move(f"{stage}{final}", final)
    shutil.rmtree(stage)
    assert held(final) == {*UNITS, *LINKS, "etc/smtp-bridge/config.example.toml"}
    assert (final / "etc/smtp-bridge/secrets").stat().st_mode & 0o777 == 0o700
    (here,) = (final / "lib/smtp-bridge/lib").glob("python*/site-packages")
    (here / "others.pth").write_text("\n".join(site.getsitepackages()))  # what pip would have brought besides
    version = subprocess.run([final / "bin/smtp-bridge", "--version"], capture_output=True, text=True, timeout=60)
    assert __version__ in version.stdout, version.stderr
    unit = (final / "lib/systemd/smtp-bridge.service").read_text()
    assert f"\nExecStart={final}/lib/smtp-bridge/bin/smtp-bridge run\n" in unit
    assert f"\nLoadCredential=secrets:{final}/etc/smtp-bridge/secrets\n" in unit
    assert f"\nEnvironment=SMTP_BRIDGE_CONFIG={final}/etc/smtp-bridge/config.toml\n" in unit
    assert not re.search(r"(?<!\w)/(etc|opt)/smtp-bridge", unit)

    (final / "etc/smtp-bridge/config.toml").write_text("[smtp]\n")
    (final / "bin/other").write_text("")
    make("uninstall", *places)
    assert held(final) == {"etc/smtp-bridge/config.toml", "bin/other"}
    assert not (final / "lib/smtp-bridge").exists()


def test_what_is_not_ours_is_not_removed(tmp_path: Path) -> None:
    command = tmp_path / "opt/bin/smtp-bridge"
    command.parent.mkdir(parents=True)
    command.symlink_to("/somewhere/else")
    folder = tmp_path / "opt/lib/smtp-bridge"
    folder.mkdir(parents=True)

    make(
        "uninstall",
        "PREFIX=/opt",
        f"BINDIR={command.parent}",
        f"APPDIR={folder}",
        f"UNITDIR={tmp_path}",
        f"SYSCONFDIR={tmp_path}",
    )

    assert command.is_symlink()
    assert folder.exists()


def test_the_usual_place_is_that_of_the_units_as_they_stand_here() -> None:
    plan = subprocess.run(
        ["make", "--dry-run", "--directory", str(ROOT), "install", "DESTDIR=/image"],
        capture_output=True, text=True, timeout=60, check=True,
    ).stdout  # fmt: skip

    unit = (ROOT / "systemd/smtp-bridge.service").read_text()
    (command,) = re.findall("(?m)^ExecStart=(.*)/bin/smtp-bridge run$", unit)
    assert f"-m venv /image{command}\n" in plan
    assert "/image/usr/local/lib/systemd/system" in plan
    assert "SMTP_BRIDGE_CONFIG" not in plan
