"""The web page: made here with jinja2, works without a script, fetches nothing from elsewhere."""
