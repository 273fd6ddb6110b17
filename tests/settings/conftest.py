"""A directory with a settings file in it, loaded with the variables given and no others."""

from __future__ import annotations

from pathlib import Path

import pytest

from bridge.config.load import SettingsError, load_settings
from bridge.config.settings import Settings

REST = '[[provider]]\nkind = "rest"\nurl = "https://api.example/send"\n'
CAPTURE = '[[provider]]\nkind = "capture"\n'


class Folder:
    """`load` and `problems` take the text of ./config.toml (None: there is none) and variables."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, name: str, content: str | bytes) -> Path:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def load(self, text: str | None = None, *, config: str | None = None, **variables: str) -> Settings:
        if text is not None:
            self.write("config.toml", text)
        environ = {
            name if name.isupper() and name in PLAIN else f"SMTP_BRIDGE_{name}": value
            for name, value in variables.items()
        }
        return load_settings(config, {"STATE_DIRECTORY": str(self.path / "state"), **environ}, self.path)

    def problems(self, text: str | None = None, *, config: str | None = None, **variables: str) -> list[str]:
        """Every line, with the name of the directory left out; none when the settings are good."""
        try:
            self.load(text, config=config, **variables)
        except SettingsError as error:
            found = error.problems
        else:
            return []
        assert all(line.isprintable() for line in found)
        return [line.replace(f"{self.path}/", "") for line in found]


PLAIN = frozenset({"CREDENTIALS_DIRECTORY", "STATE_DIRECTORY", "HOME", "PATH"})


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    monkeypatch.setattr("bridge.config.file.SYSTEM_CONFIG", tmp_path / "etc/config.toml")
    return Folder(tmp_path)
