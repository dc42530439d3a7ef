"""The close_selection component."""

from damoc_components.deployment.close_selection.component import close_selection

__all__ = ["close_selection"]
