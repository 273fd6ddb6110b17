"""Settings by variables alone, with those of the image: a provider and a key are enough."""

from __future__ import annotations

from pathlib import Path

import pytest

from bridge.config.load import SettingsError, load_settings
from tests.packaging.test_container import variables as image_variables

BY_KEY_ALONE = (
    "sendgrid", "mailgun", "postmark", "resend", "brevo", "sparkpost", "mailersend", "mailtrap", "mandrill", "smtp2go",
    "zeptomail", "lettermint",
)  # fmt: skip


@pytest.mark.parametrize("kind", BY_KEY_ALONE)
def test_a_provider_and_a_key_are_enough(kind: str, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("the-key\n")
    kind_alone = {**image_variables(), "SMTP_BRIDGE_PROVIDER__KIND": kind}
    by_value = {**kind_alone, "SMTP_BRIDGE_PROVIDER__API_KEY": "the-key"}
    by_file = {**kind_alone, "SMTP_BRIDGE_PROVIDER__API_KEY_FILE": str(tmp_path / "key")}

    for given in (by_value, by_file):
        (provider,) = load_settings(environ=given, cwd=tmp_path).provider
        assert (provider.kind, provider.api_key.get_secret_value()) == (kind, "the-key")  # type: ignore[union-attr]
    with pytest.raises(SettingsError, match="api_key"):
        load_settings(environ=kind_alone, cwd=tmp_path)


def test_the_image_lets_nobody_relay_but_its_own_loopback(tmp_path: Path) -> None:
    given = {**image_variables(), "SMTP_BRIDGE_PROVIDER__KIND": "capture"}
    (listener,) = load_settings(environ=given, cwd=tmp_path).smtp.listener

    assert listener.address.host == "0.0.0.0"
    assert all(network.is_loopback for network in listener.allowed_networks)
    networks = "SMTP_BRIDGE_SMTP__LISTENER__ALLOWED_NETWORKS"
    assert load_settings(environ={**given, networks: "172.16.0.0/12"}, cwd=tmp_path)
    with pytest.raises(SettingsError, match="open relay"):
        load_settings(environ={**given, networks: "0.0.0.0/0"}, cwd=tmp_path)


def test_a_file_that_is_mounted_has_the_listeners_that_it_says(tmp_path: Path) -> None:
    two = '[[smtp.listener]]\naddress = "0.0.0.0:25"\n[[smtp.listener]]\naddress = "0.0.0.0:465"\ntls = "implicit"\n'
    (tmp_path / "config.toml").write_text(two + '[[provider]]\nkind = "capture"\n')

    listeners = load_settings(environ=image_variables(), cwd=tmp_path).smtp.listener

    assert [str(listener.address) for listener in listeners] == ["0.0.0.0:25", "0.0.0.0:465"]


def test_the_image_alone_wants_a_provider(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="provider: is missing"):
        load_settings(environ=image_variables(), cwd=tmp_path)
