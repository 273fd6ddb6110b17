"""https://learn.microsoft.com/azure/event-grid/communication-services-email-events"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from bridge.model import Event, EventKind
from bridge.providers.events.base import (
    Call,
    Hook,
    Received,
    collect,
    first_text,
    id_at,
    json_body,
    make_event,
    text_at,
)
from bridge.providers.events.signatures import check_shared

_VALIDATION = "Microsoft.EventGrid.SubscriptionValidationEvent"
_DELIVERY = "Microsoft.Communication.EmailDeliveryReportReceived"
_ENGAGEMENT = "Microsoft.Communication.EmailEngagementTrackingReportReceived"
_KINDS: dict[str, EventKind] = {
    "Delivered": "delivered",
    "Expanded": "sent",  # a list's members get it
    "Suppressed": "rejected",
    "Bounced": "bounced",
    "Quarantined": "bounced",
    "FilteredSpam": "bounced",
    "Failed": "bounced",
}
_ORIGIN = re.compile(r"[A-Za-z0-9.-]{1,253}")  # eventgrid.azure.net
_ACTIONS: dict[str, EventKind] = {"view": "opened", "click": "clicked"}


class AzureHook(Hook):
    """Through Event Grid, which signs nothing. It asks first whether we want its events: in an event of its own schema, or by
    OPTIONS where the subscription is in the CloudEvents schema
    (https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/http-webhook.md section 4)."""

    early = True

    def verify(self, call: Call) -> None:
        check_shared(call, self.settings.secret)

    def consent(self, call: Call) -> Mapping[str, str] | None:
        self.verify(call)
        origin = call.header("webhook-request-origin")
        if not _ORIGIN.fullmatch(origin):
            return None
        return {"WebHook-Allowed-Origin": origin, "WebHook-Allowed-Rate": "*"}  # what is too much is told to come again

    def parse(self, call: Call) -> Received:
        items = list(self.items(json_body(call)))
        for item in items:
            code = text_at(item, "/data/validationCode")
            if code and first_text(item, "/eventType", "/type") == _VALIDATION:
                return Received(answer={"validationResponse": code}, ignored=len(items))
        return collect(items, self.read)

    def read(self, item: dict[str, Any]) -> Iterable[Event]:
        word, status = first_text(item, "/eventType", "/type"), text_at(item, "/data/status")
        kinds = {_DELIVERY: _KINDS.get(status), _ENGAGEMENT: _ACTIONS.get(text_at(item, "/data/userActionType"))}
        kind = kinds.get(word)
        if kind is None:
            return
        yield make_event(
            kind,
            item,
            recipient=text_at(item, "/data/recipient"),
            event_id=id_at(item, "/id"),
            message_id=id_at(item, "/data/messageId"),
            at=first_text(item, "/data/deliveryAttemptTimeStamp", "/data/userActionTimeStamp", "/eventTime", "/time"),
            text=text_at(item, "/data/deliveryStatusDetails/statusMessage"),
            final=kind == "bounced",
            permanent=status == "Bounced" and kind == "bounced",
        )
