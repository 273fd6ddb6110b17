from __future__ import annotations

from pathlib import Path

import httpx
import orjson

from bridge.clock import SystemClock
from bridge.sandbox import Sandbox
from bridge.sandbox.payloads import Submission
from bridge.sandbox.state import MAX_KEPT_BYTES, MAX_KEYS, State

MAIL = {"to": "Ann <ann@example.com>", "from": "shop@example.com", "subject": "Grüße", "body": "Hello"}


def submission(body: str = "") -> Submission:
    return Submission(
        shape="simple",
        sender="a@x.example",
        to=("b@x.example",),
        recipients=("b@x.example",),
        subject="",
        message_id="",
        payload={"body": body},
        fingerprint=body[:8],
    )


def test_only_the_newest_messages_are_kept_and_all_are_counted() -> None:
    state = State(clock=SystemClock(), max_messages=3)
    ids = [state.record(submission(), key="", headers=()).id for _ in range(5)]

    assert [message.id for message in state.messages] == ids[2:]
    assert (state.total, state.stats()["kept"]) == (5, 3)
    assert len(set(ids)) == 5


def test_large_messages_are_bounded_by_their_bytes() -> None:
    state = State(clock=SystemClock(), max_messages=1000)
    for _ in range(4):
        state.record(submission("x" * (MAX_KEPT_BYTES // 3)), key="", headers=())

    assert state.stats()["kept"] == 2
    assert state.stats()["kept_bytes"] <= MAX_KEPT_BYTES


def test_remembered_keys_are_bounded_and_the_oldest_goes_first() -> None:
    state = State(clock=SystemClock(), max_messages=1)
    for number in range(MAX_KEYS + 1):
        state.record(submission(), key=f"k{number}", headers=())

    assert state.remembered("k0") is None
    assert state.remembered("k1") is not None
    assert state.remembered(f"k{MAX_KEYS}") is not None


async def test_the_journal_has_a_line_for_each_message_as_it_is_answered(tmp_path: Path) -> None:
    journal = tmp_path / "journal.jsonl"
    journal.write_text('{"id":"before"}\n')
    headers = {"Authorization": "Bearer k", "Idempotency-Key": "k1"}
    mail = {**MAIL, "cc": "bob@example.com", "bcc": ["eve@example.com"], "headers": {"message-id": "<1@x.example>"}}
    async with Sandbox(key="k", journal=journal) as sandbox, httpx.AsyncClient(trust_env=False) as client:
        for _ in range(2):  # the second is a replay
            answer = await client.post(sandbox.url + "/send-email", json=mail, headers=headers)
        lines = journal.read_bytes().splitlines()

    assert [orjson.loads(line) for line in lines] == [
        {"id": "before"},
        {
            "id": answer.json()["id"],
            "key": "k1",
            "to": ["ann@example.com"],
            "cc": ["bob@example.com"],
            "bcc": ["eve@example.com"],
            "recipients": ["ann@example.com", "bob@example.com", "eve@example.com"],
            "subject": "Grüße",
            "message_id": "<1@x.example>",
        },
    ]
    assert journal.stat().st_mode & 0o077 in (0o044, 0)  # a new one is for its owner alone
