"""What a session answers of its own accord, each with its enhanced status code (RFC 3463, RFC 2034).

Short, true, and never with a word of the client's in it.
"""

from __future__ import annotations

import math

from bridge.reply import Reply

OK = Reply(250, "2.0.0", "Ok")
CHUNK_OK = Reply(250, "2.0.0", "Ok: chunk received")
SENDER_OK = Reply(250, "2.1.0", "Ok")
RECIPIENT_OK = Reply(250, "2.1.5", "Ok")
BYE = Reply(221, "2.0.0", "Bye")
HELP = Reply(214, "2.0.0", "See the documentation of smtp-rest-bridge")
CANNOT_VRFY = Reply(252, "2.0.0", "Cannot verify, send some mail, I will try my best")  # RFC 5321 3.5.3
START_DATA = Reply(354, "", "End data with <CR><LF>.<CR><LF>")
READY_FOR_TLS = Reply(220, "2.0.0", "Ready to start TLS")
AUTHENTICATED = Reply(235, "2.7.0", "Authentication successful")

IDLE = Reply(421, "4.4.2", "Idle for too long, closing the connection")
BROKEN = Reply(421, "4.3.0", "Local error, closing the connection")
TOO_MANY_CONNECTIONS = Reply(421, "4.7.0", "Too many connections, try again later")
TOO_MANY_ERRORS = Reply(421, "4.7.0", "Too many errors, closing the connection")
TOO_MANY_RECIPIENTS = Reply(452, "4.5.3", "Too many recipients, send the rest in another message")
TOO_MANY_COMMANDS = Reply(421, "4.7.0", "Too many commands in one connection, connect again")
TOO_MANY_FAILED_LOGINS = Reply(454, "4.7.0", "Too many failed logins, try again later")
AUTH_UNAVAILABLE = Reply(454, "4.7.0", "Temporary authentication failure")

UNKNOWN_COMMAND = Reply(500, "5.5.1", "Command not recognized")
LINE_TOO_LONG = Reply(500, "5.5.2", "Line too long")
GARBLED = Reply(500, "5.5.2", "Command line is not valid")
AUTH_LINE_TOO_LONG = Reply(500, "5.5.6", "Authentication exchange line is too long")
NO_ARGUMENT = Reply(501, "5.5.4", "No argument allowed")
NEED_HOSTNAME = Reply(501, "5.5.4", "Host name required")
MAIL_SYNTAX = Reply(501, "5.5.4", "Syntax: MAIL FROM:<address> [parameters]")
RCPT_SYNTAX = Reply(501, "5.5.4", "Syntax: RCPT TO:<address> [parameters]")
BDAT_SYNTAX = Reply(501, "5.5.4", "Syntax: BDAT size [LAST]")
AUTH_SYNTAX = Reply(501, "5.5.4", "Syntax: AUTH mechanism [initial-response]")
BAD_PARAMETER = Reply(501, "5.5.4", "Bad parameter value")
BAD_BASE64 = Reply(501, "5.5.2", "Cannot decode the base64 response")
AUTH_CANCELLED = Reply(501, "5.7.0", "Authentication cancelled")
BAD_CREDENTIALS_SYNTAX = Reply(501, "5.5.2", "Malformed authentication response")
SENDER_HAS_CONTROLS = Reply(501, "5.1.7", "Control characters in the sender address")
RECIPIENT_HAS_CONTROLS = Reply(501, "5.1.3", "Control characters in the recipient address")
NOT_IMPLEMENTED = Reply(502, "5.5.1", "Command not implemented")
BAD_SEQUENCE = Reply(503, "5.5.1", "Bad sequence of commands")
NEED_HELO = Reply(503, "5.5.1", "Send HELO or EHLO first")
NEED_EHLO = Reply(503, "5.5.1", "Send EHLO first")
NESTED_MAIL = Reply(503, "5.5.1", "Nested MAIL command")
NEED_MAIL = Reply(503, "5.5.1", "Need MAIL command")
NEED_RCPT = Reply(503, "5.5.1", "Need RCPT command")
ALREADY_AUTHENTICATED = Reply(503, "5.5.1", "Already authenticated")
TLS_ACTIVE = Reply(503, "5.5.1", "TLS is active already")
UNKNOWN_MECHANISM = Reply(504, "5.5.4", "Authentication mechanism not supported")
NEED_TLS = Reply(530, "5.7.0", "Must issue a STARTTLS command first")
NEED_AUTH = Reply(530, "5.7.0", "Authentication required")
BAD_CREDENTIALS = Reply(535, "5.7.8", "Authentication credentials invalid")
AUTH_NEEDS_TLS = Reply(538, "5.7.11", "Encryption required for the requested authentication mechanism")
RELAY_DENIED = Reply(550, "5.7.1", "Relay access denied")
SENDER_NOT_ALLOWED = Reply(550, "5.7.1", "Sender address not allowed for this user")
BARE_NEWLINE = Reply(550, "5.5.2", "Bare carriage return or line feed in the message")
BAD_SENDER = Reply(553, "5.1.7", "Malformed sender address")
BAD_RECIPIENT = Reply(553, "5.1.3", "Malformed recipient address")
SENDER_NEEDS_SMTPUTF8 = Reply(553, "5.6.7", "Sender address needs SMTPUTF8")
RECIPIENT_NEEDS_SMTPUTF8 = Reply(553, "5.6.7", "Recipient address needs SMTPUTF8")
NO_VALID_RECIPIENTS = Reply(554, "5.5.1", "No valid recipients")
UNKNOWN_PARAMETER = Reply(555, "5.5.4", "Parameter not recognized or not implemented")
NOT_HTTP = Reply(421, "4.7.0", "This is SMTP, closing the connection")


def banner(hostname: str, protocol: str) -> Reply:
    return Reply.safe(220, "", f"{hostname} {'LMTP' if protocol == 'lmtp' else 'ESMTP'} smtp-rest-bridge")


def rate_limited(seconds: float) -> Reply:
    """With the time to wait, rounded up: up to two minutes in seconds, up to two hours in minutes."""
    whole = max(1, math.ceil(seconds))
    for unit, length in (("h", 3600), ("min", 60)):
        if whole >= 2 * length:
            return Reply(451, "4.7.1", f"Rate limit exceeded, try again in {math.ceil(whole / length)} {unit}")
    return Reply(451, "4.7.1", f"Rate limit exceeded, try again in {whole} s")
