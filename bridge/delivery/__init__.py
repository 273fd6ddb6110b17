"""From the spool to the providers."""
