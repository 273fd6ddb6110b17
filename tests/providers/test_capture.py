from __future__ import annotations

from bridge.mime.parse import parse
from bridge.model import Envelope
from bridge.providers.base import Policy
from bridge.providers.capture import CaptureProvider
from tests.providers.conftest import PLAIN


async def test_capture_takes_everything_under_the_queue_id_and_sends_nothing() -> None:
    provider, email = CaptureProvider("capture", Policy()), parse(PLAIN)
    recipients = ("ann@example.com", "x@example.com", "y@example.com")

    calls = provider.calls(email, "", recipients)
    outcomes = await provider.send(email, calls[0], queue_id="Q1", key="k")

    assert provider.unfit(parse(b"\xff" * 100), Envelope(reverse_path="", recipients=recipients)) is None
    assert len(calls) == 1
    assert {r: (o.status, o.provider_message_id) for r, o in outcomes.items()} == dict.fromkeys(
        recipients, ("sent", "Q1")
    )
    assert str(outcomes["x@example.com"].reply) == "250 2.0.0 Ok: sent, id Q1"


async def test_what_is_captured_is_kept_with_its_body() -> None:
    provider = CaptureProvider("capture", Policy())

    assert (provider.kind, provider.keeps_bodies) == ("capture", True)
    await provider.aclose()
