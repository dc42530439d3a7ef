"""The register_winner component."""

from damoc_components.deployment.register_winner.component import register_winner

__all__ = ["register_winner"]
