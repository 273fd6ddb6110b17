"""The SMTP side: the only place that knows aiosmtpd."""
