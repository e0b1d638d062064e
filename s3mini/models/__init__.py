"""Language models behind two small interfaces: see ``base``; ``local`` runs them with transformers."""

from .base import ChatModel, Sample, Sampler, Session, chat_ids, strip_reasoning

__all__ = ["ChatModel", "Sample", "Sampler", "Session", "chat_ids", "strip_reasoning"]
