"""s3mini: learn, reproduce and use s3, training only the searcher of a RAG system by RL."""

__version__ = "0.1.0"
