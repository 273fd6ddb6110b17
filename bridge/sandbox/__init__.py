"""A local REST email API that behaves like a real one: for the demo, for users' tests and for ours.

What it answers is told in `api`, how it can be made to fail in `failures`.
"""

from bridge.sandbox.app import Sandbox, run_sandbox
from bridge.sandbox.failures import Failure, parse_fail
from bridge.sandbox.state import Received

__all__ = ["Failure", "Received", "Sandbox", "parse_fail", "run_sandbox"]
