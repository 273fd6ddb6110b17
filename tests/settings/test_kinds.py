"""The settings of the catalogue: what a kind needs, and what it does not know."""

from __future__ import annotations

import pytest

from bridge.config.load import SettingsError
from tests.settings.conftest import Folder


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("kind = 'sendgrid'", "api_key"),
        ("kind = 'sendgrid'\napi_key = 'k'\nregion = 'mars'", "is one of eu"),
        ("kind = 'sendgrid'\napi_key = 'k\u00fc'", "holds a character that no key has"),
        ("kind = 'sendgrid'\napi_key = 'k'\nbatch = -1", "batch"),
        ("kind = 'sendgrid'\napi_key = 'k'\nurl = 'https://x.example/?a=b'", "?query"),
        ("kind = 'sendgrid'\napi_key = 'k'\nurl = 'http://x.example/'", "allow_http"),
        ("kind = 'resend'\napi_key = 'k'\nregion = 'eu'", "has no meaning for this kind"),
        ("kind = 'graph'\ntenant = 't'", "client_id"),
        ("kind = 'azure'\nurl = 'https://r.communication.azure.com'", "client_secret"),
        ("kind = 'mailtrap'\napi_key = 'k'\nstream = 'sandbox'", "inbox"),
        ("kind = 'postal'\napi_key = 'k'", "url"),
        ("kind = 'smtp'\nhost = ''", "host"),
        ("kind = 'smtp'\nhost = 'smart.example'\nregion = 'eu'", "has no meaning for this kind"),
        ("kind = 'smtp'\nhost = 'smart.example'\nusername = 'u'", "is required with the other"),
        ("kind = 'smtp'\nhost = 'smart.example'\ntls = 'none'\nusername = 'u'\npassword = 'p'", "in clear"),
    ],
)
def test_a_mistake_is_one_clear_line(folder: Folder, text: str, words: str) -> None:
    with pytest.raises(SettingsError) as caught:
        folder.load(f"[[provider]]\n{text}\n")

    assert words in " ".join(str(problem) for problem in caught.value.problems)
