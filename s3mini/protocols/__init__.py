"""Protocols: how each method prompts a model, reads its actions and shows it documents.

A new protocol is one file with a subclass of ``base.Protocol`` and one line in ``REGISTRY``.
"""

from __future__ import annotations

from collections.abc import Callable

from .base import Action, History, Protocol
from .s3 import S3Protocol

REGISTRY: dict[str, Callable[..., Protocol]] = {
    "s3": S3Protocol,
}
"""Name of a method to the class (or factory) of its protocol."""

__all__ = ["REGISTRY", "Action", "History", "Protocol", "S3Protocol"]
