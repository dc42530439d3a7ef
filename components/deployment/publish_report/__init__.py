"""The publish_report component."""

from damoc_components.deployment.publish_report.component import publish_report

__all__ = ["publish_report"]
