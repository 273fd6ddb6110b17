"""For each kind what it tells, in its own words, and what that means. ID is the message, BOB its recipient."""

# ruff: noqa: E501
from __future__ import annotations

from typing import Any

from .signing import NOW, iso

BOB, ID = "bob@example.org", "provider-message-1"
AT = NOW - 10
WHEN = iso(AT)
NO_USER = "550 5.1.1 no such user"


def _sg(event: str, **more: Any) -> Any:
    return [{"event": event, "email": BOB, "timestamp": int(AT), "sg_message_id": f"{ID}.recvd-1", "sg_event_id": event, **more}]  # fmt: skip


def _mg(event: str, **more: Any) -> Any:
    return {"event": event, "recipient": BOB, "timestamp": AT, "message": {"headers": {"message-id": ID}}, **more}


def _pm(record: str, address: str = "Recipient", **more: Any) -> Any:
    return {"RecordType": record, "MessageID": ID, address: BOB, **more}


def _ses(event: str, **more: Any) -> Any:
    return {"eventType": event, "mail": {"messageId": ID, "destination": [BOB], "timestamp": WHEN}, **more}


def _rs(event: str, **more: Any) -> Any:
    return {"type": f"email.{event}", "created_at": WHEN, "data": {"email_id": ID, "to": [BOB], **more}}


def _bv(event: str, **more: Any) -> Any:
    return {"event": event, "email": BOB, "message-id": ID, "ts_epoch": int(AT * 1000), **more}


def _mj(event: str, **more: Any) -> Any:
    return [{"event": event, "email": BOB, "MessageID": ID, "time": int(AT), **more}]


def _sp(event: str, place: str = "message_event", **more: Any) -> Any:
    about = {"type": event, "rcpt_to": BOB, "transmission_id": ID, "event_id": event, "timestamp": str(int(AT))}
    return [{"msys": {place: {**about, **more}}}]


def _ms(event: str, **more: Any) -> Any:
    email = {"message": {"id": ID}, "recipient": {"email": BOB}}
    return {"type": f"activity.{event}", "created_at": WHEN, "data": {"id": event, "email": email, "morph": more}}


def _mt(event: str, **more: Any) -> Any:
    return {"events": [{"event": event, "email": BOB, "message_id": ID, "timestamp": int(AT), "event_id": event, **more}]}  # fmt: skip


def _md(event: str, **more: Any) -> Any:
    return [{"event": event, "ts": int(AT), "_id": ID, "msg": {"_id": ID, "email": BOB, **more}}]


def _s2(event: str, **more: Any) -> Any:
    return {"event": event, "rcpt": BOB, "email_id": ID, "time": WHEN, **more}


def _az(status: str) -> Any:
    data = {"recipient": BOB, "messageId": ID, "status": status, "deliveryAttemptTimeStamp": WHEN,
            "deliveryStatusDetails": {"statusMessage": NO_USER}}  # fmt: skip
    return [{"id": f"e-{status}", "eventType": "Microsoft.Communication.EmailDeliveryReportReceived", "data": data}]


def _az_seen(action: str) -> Any:
    data = {"recipient": BOB, "messageId": ID, "userActionType": action, "userActionTimeStamp": WHEN}
    kind = "Microsoft.Communication.EmailEngagementTrackingReportReceived"
    return [{"id": f"e-{action}", "eventType": kind, "data": data}]


def _sc(event: str) -> Any:
    return {"type": event, "id": f"e-{event}", "email_id": ID, "email_to": BOB, "created_at": WHEN}


def _zm(event: str, **more: Any) -> Any:
    email = {"to": [{"email_address": {"address": BOB}}], "client_reference": "Q1"}
    told = {"object": event, "details": [{"time": WHEN, **more}]}
    return {"event_name": [event], "event_message": [{"email_info": email, "event_data": [told], "request_id": ID}]}


def _po(event: str, of: str = "message", **more: Any) -> Any:
    return {"event": event, "timestamp": AT, "uuid": event, "payload": {of: {"id": ID, "to": BOB}, **more}}


def _lm(event: str, **more: Any) -> Any:
    return {"id": event, "event": f"message.{event}", "timestamp": WHEN, "data": {"message_id": ID, "recipient": BOB, **more}}  # fmt: skip


def _ah(event: str, **more: Any) -> Any:
    """As captured in contracts/webhooks of github.com/AhaSend/ahasend-ts."""
    attempt = {"delivery_attempt": {"command": "RCPT TO", **more}} if more else {}
    data = {"event": f"on_{event}", "id": ID, "message_id_header": "<1@example.com>", "recipient": BOB, **attempt}
    return {"type": f"message.{event}", "timestamp": WHEN, "webhook_id": "w", "data": data}


_BOUNCE_SES = {"bounceType": "Permanent", "bounceSubType": "General", "timestamp": WHEN,
               "bouncedRecipients": [{"emailAddress": BOB, "status": "5.1.1", "diagnosticCode": f"smtp; {NO_USER}"}]}  # fmt: skip

# (kind, what it tells, the event's kind, final, permanent)
SAMPLES: list[tuple[str, Any, str, bool, bool]] = [
    ("sendgrid", _sg("processed"), "sent", False, False),
    ("sendgrid", _sg("delivered", response="250 OK"), "delivered", False, False),
    ("sendgrid", _sg("deferred", response="450 busy"), "deferred", False, False),
    ("sendgrid", _sg("bounce", type="bounce", reason=NO_USER, status="5.1.1"), "bounced", True, True),
    ("sendgrid", _sg("bounce", type="blocked", reason="550 5.7.1 spam"), "bounced", True, False),
    ("sendgrid", _sg("dropped", reason="Bounced Address"), "rejected", True, False),
    ("sendgrid", _sg("open"), "opened", False, False),
    ("sendgrid", _sg("click"), "clicked", False, False),
    ("sendgrid", _sg("spamreport"), "complained", False, False),
    ("sendgrid", _sg("group_unsubscribe"), "unsubscribed", False, False),
    ("mailgun", _mg("accepted"), "sent", False, False),
    ("mailgun", _mg("delivered"), "delivered", False, False),
    ("mailgun", _mg("failed", severity="temporary"), "deferred", False, False),
    ("mailgun", _mg("failed", severity="permanent", reason="bounce", **{"delivery-status": {"code": 550, "message": NO_USER}}), "bounced", True, True),
    ("mailgun", _mg("failed", severity="permanent", reason="old"), "bounced", True, False),
    ("mailgun", _mg("failed", severity="permanent", reason="suppress-bounce"), "rejected", True, False),
    ("mailgun", _mg("complained"), "complained", False, False),
    ("mailgun", _mg("unsubscribed"), "unsubscribed", False, False),
    ("mailgun", _mg("opened"), "opened", False, False),
    ("mailgun", _mg("clicked"), "clicked", False, False),
    ("postmark", _pm("Delivery", DeliveredAt=WHEN), "delivered", False, False),
    ("postmark", _pm("Bounce", "Email", ID=4, Type="HardBounce", Details=NO_USER, BouncedAt=WHEN), "bounced", True, True),
    ("postmark", _pm("Bounce", "Email", ID=5, Type="SoftBounce", BouncedAt=WHEN), "bounced", True, False),
    ("postmark", _pm("Bounce", "Email", ID=6, Type="Transient", BouncedAt=WHEN), "deferred", False, False),
    ("postmark", _pm("SpamComplaint", "Email", ID=7, BouncedAt=WHEN), "complained", False, False),
    ("postmark", _pm("SubscriptionChange", SuppressSending=True, SuppressionReason="ManualSuppression", ChangedAt=WHEN), "unsubscribed", False, False),
    ("postmark", _pm("Open", ReceivedAt=WHEN), "opened", False, False),
    ("postmark", _pm("Click", ReceivedAt=WHEN), "clicked", False, False),
    ("ses", _ses("Send", send={}), "sent", False, False),
    ("ses", _ses("Delivery", delivery={"recipients": [BOB], "timestamp": WHEN}), "delivered", False, False),
    ("ses", _ses("DeliveryDelay", deliveryDelay={"delayedRecipients": [{"emailAddress": BOB}], "timestamp": WHEN}), "deferred", False, False),
    ("ses", _ses("Bounce", bounce=_BOUNCE_SES), "bounced", True, True),
    ("ses", _ses("Bounce", bounce={**_BOUNCE_SES, "bounceType": "Transient"}), "bounced", False, False),
    ("ses", _ses("Bounce", bounce={**_BOUNCE_SES, "bounceType": "Transient", "bounceSubType": "MailboxFull"}), "bounced", True, False),
    ("ses", _ses("Bounce", bounce={**_BOUNCE_SES, "bounceSubType": "OnAccountSuppressionList"}), "rejected", True, False),
    ("ses", _ses("Complaint", complaint={"complainedRecipients": [{"emailAddress": BOB}], "timestamp": WHEN}), "complained", False, False),
    ("ses", _ses("Reject", reject={"reason": "Bad content"}), "rejected", True, False),
    ("ses", _ses("Rendering Failure", failure={"errorMessage": "x"}), "rejected", True, False),
    ("ses", _ses("Open", open={"timestamp": WHEN}), "opened", False, False),
    ("ses", _ses("Click", click={"timestamp": WHEN}), "clicked", False, False),
    ("ses", {**_ses("", bounce=_BOUNCE_SES), "notificationType": "Bounce"}, "bounced", True, True),
    ("resend", _rs("sent"), "sent", False, False),
    ("resend", _rs("delivered"), "delivered", False, False),
    ("resend", _rs("delivery_delayed"), "deferred", False, False),
    ("resend", _rs("bounced", bounce={"type": "Permanent", "message": NO_USER}), "bounced", True, True),
    ("resend", _rs("bounced", bounce={"type": "Undetermined"}), "bounced", False, False),
    ("resend", _rs("suppressed"), "rejected", True, False),
    ("resend", _rs("complained"), "complained", False, False),
    ("resend", _rs("opened"), "opened", False, False),
    ("resend", _rs("clicked"), "clicked", False, False),
    ("brevo", _bv("request"), "sent", False, False),
    ("brevo", _bv("delivered"), "delivered", False, False),
    ("brevo", _bv("deferred"), "deferred", False, False),
    ("brevo", _bv("hard_bounce", reason=NO_USER), "bounced", True, True),
    ("brevo", _bv("soft_bounce"), "bounced", False, False),
    ("brevo", _bv("blocked"), "rejected", True, False),
    ("brevo", _bv("spam"), "complained", False, False),
    ("brevo", _bv("unique_opened"), "opened", False, False),
    ("brevo", _bv("click"), "clicked", False, False),
    ("brevo", _bv("unsubscribe"), "unsubscribed", False, False),
    ("mailjet", _mj("sent", smtp_reply="250 ok"), "delivered", False, False),
    ("mailjet", _mj("bounce", hard_bounce=True, error_related_to="recipient", error="user unknown", comment=NO_USER), "bounced", True, True),
    ("mailjet", _mj("bounce", hard_bounce=False, error="mailbox full"), "bounced", False, False),
    ("mailjet", _mj("bounce", hard_bounce=False, error="greylisted"), "deferred", False, False),
    ("mailjet", _mj("blocked", error="preblocked"), "rejected", True, False),
    ("mailjet", _mj("spam"), "complained", False, False),
    ("mailjet", _mj("unsub"), "unsubscribed", False, False),
    ("mailjet", _mj("open"), "opened", False, False),
    ("mailjet", _mj("click"), "clicked", False, False),
    ("sparkpost", _sp("injection"), "sent", False, False),
    ("sparkpost", _sp("delivery"), "delivered", False, False),
    ("sparkpost", _sp("delay", error_code="421"), "deferred", False, False),
    ("sparkpost", _sp("bounce", bounce_class="10", raw_reason=NO_USER, error_code="550"), "bounced", True, True),
    ("sparkpost", _sp("bounce", bounce_class="50"), "bounced", True, False),
    ("sparkpost", _sp("out_of_band", bounce_class="60"), "bounced", False, False),
    ("sparkpost", _sp("bounce", bounce_class="90"), "unsubscribed", False, False),
    ("sparkpost", _sp("policy_rejection"), "rejected", True, False),
    ("sparkpost", _sp("spam_complaint"), "complained", False, False),
    ("sparkpost", _sp("link_unsubscribe", "unsubscribe_event"), "unsubscribed", False, False),
    ("sparkpost", _sp("initial_open", "track_event"), "opened", False, False),
    ("sparkpost", _sp("click", "track_event"), "clicked", False, False),
    ("mailersend", _ms("sent"), "sent", False, False),
    ("mailersend", _ms("delivered"), "delivered", False, False),
    ("mailersend", _ms("deferred"), "deferred", False, False),
    ("mailersend", _ms("hard_bounced", readable_reason=NO_USER), "bounced", True, True),
    ("mailersend", _ms("soft_bounced"), "bounced", False, False),
    ("mailersend", _ms("spam_complaint"), "complained", False, False),
    ("mailersend", _ms("unsubscribed"), "unsubscribed", False, False),
    ("mailersend", _ms("opened_unique"), "opened", False, False),
    ("mailersend", _ms("clicked"), "clicked", False, False),
    ("mailtrap", _mt("delivery"), "delivered", False, False),
    ("mailtrap", _mt("bounce", response=NO_USER, response_code=550), "bounced", True, True),
    ("mailtrap", _mt("soft bounce"), "bounced", False, False),
    ("mailtrap", _mt("reject", reason="suppressed"), "rejected", True, False),
    ("mailtrap", _mt("spam"), "complained", False, False),
    ("mailtrap", _mt("unsubscribe"), "unsubscribed", False, False),
    ("mailtrap", _mt("open"), "opened", False, False),
    ("mailtrap", _mt("click"), "clicked", False, False),
    ("mandrill", _md("send"), "sent", False, False),
    ("mandrill", _md("deferral"), "deferred", False, False),
    ("mandrill", _md("hard_bounce", diag=f"smtp;{NO_USER}"), "bounced", True, True),
    ("mandrill", _md("soft_bounce"), "bounced", True, False),
    ("mandrill", _md("reject"), "rejected", True, False),
    ("mandrill", _md("spam"), "complained", False, False),
    ("mandrill", _md("unsub"), "unsubscribed", False, False),
    ("mandrill", _md("open"), "opened", False, False),
    ("mandrill", _md("click"), "clicked", False, False),
    ("smtp2go", _s2("processed"), "sent", False, False),
    ("smtp2go", _s2("delivered"), "delivered", False, False),
    ("smtp2go", _s2("bounce", bounce="hard", context=NO_USER), "bounced", True, True),
    ("smtp2go", _s2("bounce", bounce="soft"), "bounced", False, False),
    ("smtp2go", _s2("spam"), "complained", False, False),
    ("smtp2go", _s2("unsubscribe"), "unsubscribed", False, False),
    ("smtp2go", _s2("reject"), "rejected", True, False),
    ("smtp2go", _s2("open"), "opened", False, False),
    ("smtp2go", _s2("click"), "clicked", False, False),
    ("azure", _az("Delivered"), "delivered", False, False),
    ("azure", _az("Bounced"), "bounced", True, True),
    ("azure", _az("FilteredSpam"), "bounced", True, False),
    ("azure", _az("Suppressed"), "rejected", True, False),
    ("azure", _az_seen("view"), "opened", False, False),
    ("azure", _az_seen("click"), "clicked", False, False),
    ("scaleway", _sc("email_queued"), "sent", False, False),
    ("scaleway", _sc("email_delivered"), "delivered", False, False),
    ("scaleway", _sc("email_deferred"), "deferred", False, False),
    ("scaleway", _sc("email_mailbox_not_found"), "bounced", True, True),
    ("scaleway", _sc("email_dropped"), "bounced", True, False),
    ("scaleway", _sc("email_blocklisted"), "rejected", True, False),
    ("zeptomail", _zm("hardbounce", bounced_recipient=BOB, diagnostic_message=NO_USER), "bounced", True, True),
    ("zeptomail", _zm("softbounce", bounced_recipient=BOB), "bounced", False, False),
    ("zeptomail", _zm("email_open"), "opened", False, False),
    ("zeptomail", _zm("email_link_click"), "clicked", False, False),
    ("postal", _po("MessageSent"), "delivered", False, False),
    ("postal", _po("MessageDelayed"), "deferred", False, False),
    ("postal", _po("MessageDeliveryFailed", output=NO_USER), "bounced", True, True),
    ("postal", _po("MessageDeliveryFailed", output="554 go away"), "bounced", True, False),
    ("postal", _po("MessageBounced", "original_message", bounce={"id": 9}), "bounced", True, False),
    ("postal", _po("MessageLoaded"), "opened", False, False),
    ("postal", _po("MessageLinkClicked"), "clicked", False, False),
    ("lettermint", _lm("delivered"), "delivered", False, False),
    ("lettermint", _lm("hard_bounced", response={"content": NO_USER, "status_code": 550}), "bounced", True, True),
    ("lettermint", _lm("spam_complaint"), "complained", False, False),
    ("lettermint", _lm("unsubscribed"), "unsubscribed", False, False),
    ("ahasend", _ah("reception"), "sent", False, False),
    ("ahasend", _ah("delivered"), "delivered", False, False),
    ("ahasend", _ah("transient_error"), "deferred", False, False),
    ("ahasend", _ah("bounced", classification="InvalidRecipient", smtp_code=550, enhanced_status_code="5.1.1",
                    response=NO_USER), "bounced", True, True),
    ("ahasend", _ah("bounced", classification="SpamBlock", smtp_code=554, response="go away"), "bounced", True, False),
    ("ahasend", _ah("failed"), "bounced", True, False),
    ("ahasend", _ah("suppressed"), "rejected", True, False),
    ("ahasend", _ah("opened"), "opened", False, False),
]  # fmt: skip


def hard_bounce(kind: str) -> Any:
    """What this kind tells when BOB is no good."""
    return next(told for of, told, *_, permanent in SAMPLES if of == kind and permanent)


def told(kind: str, event: str) -> Any:
    return next(told for of, told, what, *_ in SAMPLES if (of, what) == (kind, event))
