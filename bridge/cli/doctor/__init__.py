"""`smtp-bridge doctor --listen`: what a device does that cannot send, and which settings let it through.

`dialogue`, `hello` and `content` are values; `findings` and `rules` are pure: a recorded dialogue and the settings in, advice
out. `recording` and `session` are the product's own Session, noted and made lenient; `listening` brings it a connection.
"""
