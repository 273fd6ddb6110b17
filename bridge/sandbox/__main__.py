"""`python -m bridge.sandbox`: the sandbox as a process of its own."""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

from bridge.sandbox.app import DEFAULT_KEY, DEFAULT_PORT, run_sandbox
from bridge.sandbox.failures import Failure, parse_fail


def _failure(text: str) -> Failure:
    try:
        return parse_fail(text)
    except ValueError as error:  # argparse shows this text, but not that of a ValueError
        raise argparse.ArgumentTypeError(str(error)) from None


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bridge.sandbox", description="A local REST email API to test against"
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=DEFAULT_PORT, help=f"0 takes a free one (default {DEFAULT_PORT})")
    parser.add_argument("--key", default=DEFAULT_KEY, help=f"what clients send as Bearer (default {DEFAULT_KEY})")
    parser.add_argument("--journal", type=Path, help="append a JSON line for each message to this file")
    parser.add_argument(
        "--fail",
        type=_failure,
        action="append",
        default=[],
        help="503:3, 429:2,retry_after=30, hang:1 ...; sendgrid=429:3 for one provider",
    )
    return parser


def main() -> int:
    args = _arguments().parse_args()
    try:
        asyncio.run(run_sandbox(host=args.host, port=args.port, key=args.key, journal=args.journal, failures=args.fail))
    except OSError as error:
        print(f"the sandbox cannot start: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
