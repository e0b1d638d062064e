"""Your own documents and questions: imported, indexed and, with questions, trained on, in one step.

``own(documents, questions)`` is the whole pipeline; ``import_data`` is its first step alone. What comes out is a
profile file that every command and notebook takes.
"""

from .fields import Fields
from .importing import import_data
from .pipeline import Owned, own

__all__ = ["Fields", "Owned", "import_data", "own"]
