"""The rules: each looks at a dialogue and the settings it is judged by, and says what it finds. Pure, and of one order."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from bridge.cli.doctor.dialogue import Command, Delivered, Dialogue, Setup, Step
from bridge.cli.doctor.findings import Finding
from bridge.cli.doctor.record import HIDDEN
from bridge.cli.doctor.rules.content import CONTENT
from bridge.cli.doctor.rules.ending import ENDING
from bridge.cli.doctor.rules.envelope import ENVELOPE
from bridge.cli.doctor.rules.login import LOGIN
from bridge.cli.doctor.rules.transport import TRANSPORT
from bridge.reply import Reply

Rule = Callable[[Dialogue, Setup], Iterator[Finding]]
_NEEDED = ("HELO", "EHLO", "LHLO", "MAIL", "RCPT", "DATA", "AUTH", "STARTTLS")  # others are tried, and done without
RULES: tuple[Rule, ...] = (*TRANSPORT, *LOGIN, *ENVELOPE, *CONTENT, *ENDING)


def examine(dialogue: Dialogue, setup: Setup) -> tuple[Finding, ...]:
    """What has to change first, then guesses, then notes."""
    found = [finding for rule in RULES for finding in rule(dialogue, setup)]
    found += _unexplained(dialogue, found)
    order = ("change", "guess", "note")
    return tuple(sorted(found, key=lambda finding: order.index(finding.weight)))


def _unexplained(dialogue: Dialogue, found: list[Finding]) -> Iterator[Finding]:
    """No refusal goes untold, also one that no rule knows."""
    told = {finding.reply for finding in found}
    for step in dialogue.steps:
        for refusal in _refusals(step):
            if refusal not in told:
                told.add(refusal)
                yield _refused(step, refusal, dialogue)


def _refusals(step: Step) -> tuple[Reply, ...]:
    if isinstance(step, Delivered):
        return (step.refusal,) if step.refusal else ()
    return step.refusals if isinstance(step, Command) else ()


def _refused(step: Step, refusal: Reply, dialogue: Dialogue) -> Finding:
    what = f"The command {step.verb}" if isinstance(step, Command) else "The message"
    harmless = isinstance(step, Command) and step.verb not in _NEEDED and dialogue.brought_mail
    if isinstance(step, Command) and step.verb == HIDDEN:
        what, harmless = "What the device sends on after a refused login", True
    return Finding(
        rule="refused", weight="note" if harmless else "change", says=f"{what} is refused: {refusal}", reply=refusal
    )
