"""smtp-rest-bridge: SMTP in, a REST email API out."""

__version__ = "0.1.0"
