"""Language models behind two small interfaces (`base`): run by transformers (`local`), or asked over HTTP (`http`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..profile import ModelSpec
    from .http.served import ServedModel
    from .local import LocalModel


def open_model(spec: ModelSpec) -> LocalModel | ServedModel:
    """The model of a spec, run here or asked where it is served, by ``spec.engine``.

    Raises:
        ModelError: it cannot be loaded. Whether a server answers shows at the first question.
    """
    if spec.engine == "served":
        from .http.served import ServedModel

        return ServedModel(spec)
    from .local import load_model

    return load_model(spec)
