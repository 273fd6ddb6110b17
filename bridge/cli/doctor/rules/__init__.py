"""The rules: each looks at a dialogue and the settings it is judged by, and says what it finds. Pure, and of one order."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from bridge.cli.doctor.dialogue import Command, Delivered, Dialogue, Setup
from bridge.cli.doctor.findings import Finding
from bridge.cli.doctor.rules.content import CONTENT
from bridge.cli.doctor.rules.ending import ENDING
from bridge.cli.doctor.rules.envelope import ENVELOPE
from bridge.cli.doctor.rules.login import LOGIN
from bridge.cli.doctor.rules.transport import TRANSPORT

Rule = Callable[[Dialogue, Setup], Iterator[Finding]]
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
        if isinstance(step, Command | Delivered) and step.refusal and step.refusal not in told:
            told.add(step.refusal)
            what = f"the command {step.verb}" if isinstance(step, Command) else "the message"
            weight = "note" if isinstance(step, Command) and _is_harmless(step, dialogue) else "change"
            yield Finding(rule="refused", weight=weight, says=f"{what} is refused.", reply=step.refusal)  # type: ignore[arg-type]


def _is_harmless(command: Command, dialogue: Dialogue) -> bool:
    """Clients try commands of other servers, and go on without them."""
    return command.verb not in ("MAIL", "RCPT", "DATA", "AUTH", "STARTTLS") and dialogue.brought_mail
