"""The typed settings, and where they come from."""

from .schema import CodePolicy, Settings

__all__ = ["CodePolicy", "Settings"]
