"""The compress_data component."""

from damoc_components.data_processing.compress_data.component import compress_data

__all__ = ["compress_data"]
