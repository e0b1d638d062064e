"""The profile `wiki`: real Wikipedia leads, a real instruct model and hand-written questions, from PyPI alone."""
