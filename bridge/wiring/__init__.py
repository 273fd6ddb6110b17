"""From the settings to the values and parts of the stages. With the daemon and the CLI, the only readers of the settings."""

from bridge.wiring.providers import ProviderError, build_provider, build_providers

__all__ = ["ProviderError", "build_provider", "build_providers"]
