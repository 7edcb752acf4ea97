"""Triggers API: every event is delivered, fast, or a person is told."""

__version__ = "0.1.0"
