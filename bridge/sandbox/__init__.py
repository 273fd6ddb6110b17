"""A local REST email API that behaves like a real one: for the demo, for users' tests and for ours.

What it answers is told in `api`, how it can be made to fail in `failures`. It also stands in for the APIs of providers:
each has a twin in `twins`, which checks what it gets as strictly as the real one and says what it understood.
"""

from bridge.sandbox.app import Sandbox, run_sandbox
from bridge.sandbox.failures import Failure, parse_fail
from bridge.sandbox.mail import Attachment, Mail
from bridge.sandbox.state import Received

__all__ = ["Attachment", "Failure", "Mail", "Received", "Sandbox", "parse_fail", "run_sandbox"]
