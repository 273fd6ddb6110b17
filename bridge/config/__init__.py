"""The settings: TOML < environment < secret files, checked, with every mistake named at once."""
