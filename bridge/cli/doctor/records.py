"""The records of a sending domain: MX, SPF (RFC 7208), DKIM (RFC 6376) and DMARC (RFC 7489). What is asked is `Lookup`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from bridge.cli.doctor.check import Check, note, ok, problem

AREA = "dns"
MAX_LOOKUPS = 10  # RFC 7208 4.6.4
Kind = Literal["TXT", "MX", "A", "AAAA"]


class NoAnswer(Exception):
    """No name server could tell: not that there is none of it."""


class NoName(Exception):
    """There is no such name."""


# (name, kind) -> the records, () for none. Raises NoAnswer, NoName.
Lookup = Callable[[str, Kind], Sequence[str]]


@dataclass(frozen=True, slots=True)
class Sender:
    """A kind of provider. `include`: what the SPF record of the sending domain needs, "" where mail leaves with an envelope
    sender of the provider's own. `selectors`: of DKIM, () where each domain has others."""

    include: str = ""
    selectors: tuple[str, ...] = ()


# The usual ones: what a provider's own page shows for a domain goes before them.
SENDERS = {
    "sendgrid": Sender(selectors=("s1", "s2")),
    "mailgun": Sender("mailgun.org", ("smtp", "mailo", "k1", "krs", "pic", "mx", "email", "s1")),
    "resend": Sender(selectors=("resend",)),
    "brevo": Sender(selectors=("brevo1", "brevo2", "mail")),
    "mailjet": Sender("spf.mailjet.com", ("mailjet",)),
    "mailersend": Sender(selectors=("mlsend2", "mlsend")),
    "mailtrap": Sender(selectors=("rwmt1", "rwmt2")),
    "mandrill": Sender(selectors=("mte1", "mte2", "mandrill")),
    "graph": Sender("spf.protection.outlook.com", ("selector1", "selector2")),
    "gmail": Sender("_spf.google.com", ("google",)),
    "azure": Sender("spf.protection.outlook.com", ("selector1-azurecomm-prod-net", "selector2-azurecomm-prod-net")),
    "scaleway": Sender("_spf.tem.scaleway.com"),
}


def check_domain(domain: str, kinds: Sequence[str], lookup: Lookup) -> Iterator[Check]:
    """`kinds`: of the providers that send its mail."""
    try:
        yield _mx(domain, lookup)
        yield from _spf(domain, kinds, lookup)
        yield from _dkim(domain, kinds, lookup)
        yield _dmarc(domain, lookup)
    except NoName:
        yield problem(AREA, domain, "there is no such domain", "correct the sender's address, or register the domain")
    except NoAnswer as error:
        yield problem(
            AREA, domain, f"no name server answered: {error}", "see whether this machine can reach its DNS server"
        )


def _mx(domain: str, lookup: Lookup) -> Check:
    found = lookup(domain, "MX")
    subject = f"{domain} MX"
    if any(record.split()[-1] == "." for record in found):  # RFC 7505 4.2
        return problem(
            AREA, subject, "says that the domain takes no mail (null MX); many refuse mail from such a domain",
            "send from a domain that takes mail, or give it a real MX",
        )  # fmt: skip
    if found:
        return ok(AREA, subject, ", ".join(sorted(found)))
    if lookup(domain, "A") or lookup(domain, "AAAA"):
        return note(
            AREA, subject, "there is none; replies and bounces go to the address of the domain itself", "add an MX"
        )
    return problem(
        AREA, subject, "there is none, nor an address: replies and bounces can reach nobody, and many refuse such senders",
        "add an MX record for the domain",
    )  # fmt: skip


# --- SPF


@dataclass(slots=True)
class _Walk:
    """What an SPF record comes to with all its includes."""

    lookup: Lookup
    count: int = 0
    seen: set[str] = field(default_factory=set)
    broken: list[str] = field(default_factory=list)

    def follow(self, record: str) -> None:
        for term in record.lower().split()[1:]:
            found = re.fullmatch(r"[+?~-]?(include:|redirect=|exists:|a\b|mx\b|ptr\b)(\S*)", term)
            if not found:
                continue
            self.count += 1
            name = found[2].rstrip(".")
            if found[1] in ("include:", "redirect=") and name not in self.seen and self.count <= 4 * MAX_LOOKUPS:
                self.seen.add(name)
                self._include(name)

    def _include(self, name: str) -> None:
        if "%" in name:  # a macro: depends on the mail
            return
        records = _spf_records(name, self.lookup)
        if len(records) == 1:
            self.follow(records[0])
        else:
            self.broken.append(name)


def _spf_records(name: str, lookup: Lookup) -> list[str]:
    try:
        return [text for text in lookup(name, "TXT") if re.match(r"(?i)v=spf1( |\Z)", text)]
    except NoName:
        return []


def _spf(domain: str, kinds: Sequence[str], lookup: Lookup) -> Iterator[Check]:
    subject = f"{domain} SPF"
    records = _spf_records(domain, lookup)
    needed = {kind: SENDERS[kind].include for kind in kinds if kind in SENDERS and SENDERS[kind].include}
    includes = " ".join(f"include:{name}" for name in dict.fromkeys(needed.values()))
    if len(records) != 1:
        what = f"{len(records)} records, and more than one counts as none" if records else "there is none"
        example = " ".join(part for part in ("v=spf1", includes, "~all") if part)
        todo = "join them to one TXT record" if records else f'add a TXT record: "{example}"'
        yield problem(AREA, subject, what, todo)
        return
    walk = _Walk(lookup)
    walk.follow(records[0])
    missing = {kind: name for kind, name in needed.items() if name not in walk.seen}
    for kind, name in missing.items():
        yield problem(AREA, subject, f"does not allow {kind}: {records[0]}", f"add include:{name} to it")
    if walk.count > MAX_LOOKUPS:
        text = f"needs {walk.count} lookups, and more than {MAX_LOOKUPS} make it an error"
        yield problem(AREA, subject, text, "remove includes of services that send no more mail for this domain")
    for name in walk.broken:
        text = f"includes {name}, which has no SPF record: the whole record is an error"
        yield problem(AREA, subject, text, f"remove include:{name}, or correct it")
    if re.search(r"(?i) \+?all\b", records[0]):
        yield problem(AREA, subject, "allows everybody (+all)", "end it with ~all or -all")
    elif not missing and not walk.broken and walk.count <= MAX_LOOKUPS:
        yield ok(AREA, subject, records[0])


# --- DKIM


def _dkim(domain: str, kinds: Sequence[str], lookup: Lookup) -> Iterator[Check]:
    for kind in kinds:
        subject = f"{domain} DKIM"
        selectors = SENDERS.get(kind, Sender()).selectors
        if not selectors:
            text = f"the selector of {kind} is another for each domain, or not known here"
            yield note(AREA, subject, text, f"see whether {kind} shows the domain as verified")
            continue
        found = {name: key for name in selectors if (key := _key(f"{name}._domainkey.{domain}", lookup)) is not None}
        good = [name for name, key in found.items() if key]
        if good:
            yield ok(AREA, subject, f"{kind} signs with {', '.join(good)}")
        elif found:
            text = f"the keys of {kind} ({', '.join(found)}) are withdrawn: p= is empty"
            yield problem(AREA, subject, text, f"enter the keys that {kind} shows for this domain")
        else:
            text = f"there is no key of {kind} (looked for: {', '.join(selectors)})"
            yield problem(AREA, subject, text, f"add the records that {kind} shows when the domain is verified there")


def _key(name: str, lookup: Lookup) -> str | None:
    """ "" for one that was withdrawn, None where there is none."""
    try:
        records = lookup(name, "TXT")
    except NoName:
        return None
    for record in records:
        if found := re.search(r"(?:^|;)\s*p\s*=([^;]*)", record):
            return re.sub(r"\s", "", found[1])
    return None


# --- DMARC


def _dmarc(domain: str, lookup: Lookup) -> Check:
    """Its own policy, or else that of a domain above."""
    name = domain
    while "." in name:
        records = _dmarc_records(name, lookup)
        if records:
            return _policy(f"{domain} DMARC", name, records)
        name = name.partition(".")[2]
    return problem(
        AREA, f"{domain} DMARC", "there is none; large providers refuse bulk mail without one",
        f'add a TXT record for _dmarc.{domain}: "v=DMARC1; p=none; rua=mailto:postmaster@{domain}"',
    )  # fmt: skip


def _dmarc_records(name: str, lookup: Lookup) -> list[str]:
    try:
        return [text for text in lookup(f"_dmarc.{name}", "TXT") if re.match(r"v\s*=\s*DMARC1\s*(;|\Z)", text)]
    except NoName:
        return []


def _policy(subject: str, name: str, records: Sequence[str]) -> Check:
    if len(records) > 1:
        return problem(AREA, subject, f"{len(records)} records, and more than one counts as none", "keep one of them")
    policy = re.search(r"(?i);\s*p\s*=\s*(none|quarantine|reject)\s*(?:;|\Z)", records[0])
    if not policy:
        return problem(AREA, subject, f"no valid policy: {records[0]}", "add p=none, p=quarantine or p=reject")
    if policy[1].lower() == "none":
        return note(
            AREA, subject, f"{records[0]} (_dmarc.{name}): forged mail of this domain is not refused",
            "once the reports show that all your mail passes, p=quarantine or p=reject",
        )  # fmt: skip
    return ok(AREA, subject, f"{records[0]} (_dmarc.{name})")
