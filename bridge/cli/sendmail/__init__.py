"""`smtp-bridge sendmail`: what programs expect at /usr/sbin/sendmail, spooled through the running daemon.

Called for each mail by cron and PHP, so it imports little: neither the settings' classes nor Typer. What it promises: exit
status 0 means that the daemon said 250; anything else is a status of sysexits.h and one line on standard error.
"""
