"""The prepare_data component."""

from damoc_components.data_processing.prepare_data.component import prepare_data

__all__ = ["prepare_data"]
