"""The HTTP side: health, metrics, the REST door, provider events, the API and the pages. Loaded only when it is listened on."""
