"""One DATA, one answer: what is kept and what is said, by what became of each recipient."""

from __future__ import annotations

import pytest

from bridge.delivery import verdict
from bridge.reply import Reply, sent
from bridge.spool.base import Result

SENT = Result(status="sent", reply=sent("7"), provider_message_id="7")
LATER = Result(status="deferred", reply=Reply(451, "4.3.2", "later"), at=1.0)
HELD = Result(status="held", reply=Reply(451, "4.4.2", "lost"), unknown=True)
REFUSED = Result(status="bounced", reply=Reply(550, "5.1.1", "nobody"))
WORSE = Result(status="bounced", reply=Reply(554, "5.6.0", "content"))

# (mode, what became of a, b, c ...) -> (how many are kept, the one reply)
TABLE = [
    ("auto", (SENT, REFUSED), 2, "250 2.0.0 Ok: sent, id 7"),
    ("auto", (REFUSED, SENT), 2, "250 2.0.0 Ok: sent, id 7"),
    ("auto", (SENT, LATER), 2, "250 2.0.0 Ok: queued as Q1"),
    ("auto", (LATER,), 1, "250 2.0.0 Ok: queued as Q1"),
    ("auto", (HELD,), 1, "250 2.0.0 Ok: queued as Q1"),
    ("auto", (LATER, REFUSED), 2, "250 2.0.0 Ok: queued as Q1"),
    ("auto", (REFUSED, WORSE), 0, "550 5.1.1 nobody"),
    ("auto", (WORSE, REFUSED), 0, "554 5.6.0 content"),
    ("direct", (LATER,), 0, "451 4.3.2 later"),
    ("direct", (LATER, REFUSED), 0, "451 4.3.2 later"),
    ("direct", (REFUSED, LATER), 0, "451 4.3.2 later"),
    ("direct", (SENT, LATER), 2, "250 2.0.0 Ok: queued as Q1"),
    ("direct", (SENT, REFUSED), 2, "250 2.0.0 Ok: sent, id 7"),
    ("direct", (REFUSED,), 0, "550 5.1.1 nobody"),
]


def results_of(results: tuple[Result, ...]) -> dict[str, Result]:
    return {f"{letter}@example.org": result for letter, result in zip("abc", results, strict=False)}


@pytest.mark.parametrize(("mode", "each", "kept", "reply"), TABLE)
def test_one_data_has_one_answer(mode: str, each: tuple[Result, ...], kept: int, reply: str) -> None:
    results = results_of(each)

    keep = verdict.to_keep(results, mode=mode, gone=False, by_recipient=False)  # type: ignore[arg-type]

    assert len(keep) == kept
    assert str(verdict.answer("Q1", results, keep).reply) == reply


@pytest.mark.parametrize("mode", ["auto", "direct"])
@pytest.mark.parametrize("each", [(LATER,), (SENT, LATER), (HELD, REFUSED)])
def test_nothing_open_is_kept_for_a_client_that_has_gone(mode: str, each: tuple[Result, ...]) -> None:
    results = results_of(each)

    keep = verdict.to_keep(results, mode=mode, gone=True, by_recipient=False)  # type: ignore[arg-type]

    assert keep == {}
    assert verdict.answer("Q1", results, keep).reply.temporary


@pytest.mark.parametrize(
    ("mode", "kept", "replies"),
    [
        ("auto", ["b@example.org"], ["250 2.0.0 Ok: sent, id 7", "250 2.0.0 Ok: queued as Q1", "550 5.1.1 nobody"]),
        ("direct", [], ["250 2.0.0 Ok: sent, id 7", "451 4.3.2 later", "550 5.1.1 nobody"]),
    ],
)
def test_by_recipient_each_hears_its_own_and_only_the_open_ones_are_kept(
    mode: str, kept: list[str], replies: list[str]
) -> None:
    results = results_of((SENT, LATER, REFUSED))

    keep = verdict.to_keep(results, mode=mode, gone=False, by_recipient=True)  # type: ignore[arg-type]

    assert list(keep) == kept
    assert [str(reply) for reply in verdict.answer("Q1", results, keep).by_recipient.values()] == replies
