"""The version, in one place: read at build time without importing the package."""

__version__ = "0.1.0"
