"""`smtp-bridge health`: what a container engine or a script asks every few seconds, so it loads next to nothing."""
