"""What rows are known by: common names of their fields, and the shapes in which one JSON object holds rows."""

from __future__ import annotations

from typing import Any

# The first that a row has is taken, in lower case.
COMMON = {
    "id": "id _id doc_id docid document_id passage_id question_id qid uid uuid".split(),
    "text": "text contents content body passage document article page_content chunk".split(),
    "title": "title headline heading name subject".split(),
    "question": "question query q prompt input".split(),
    "answer": "golden_answers answers answer gold_answers expected_answer expected ground_truth target a".split(),
    "split": ["split"],
    "options": "options choices".split(),
}
ROW_NAMES = frozenset(COMMON["text"] + COMMON["question"])  # what a row of ours has under one of its names


def rows_in(content: Any) -> list[Any] | None:
    """The rows in one object, None where it is not plain what they are.

    Itself, where a text stands under a common name (``{"question": "…"}``); pandas' ``split``, ``index`` and
    ``columns``, and columns as lists (``to_dict("list")``); the only list of objects in it (``{"data": […]}``, ``table``).
    """
    if not isinstance(content, dict) or not content:
        return None
    values = list(content.values())
    texts = {key.strip().lower() for key in content if isinstance(content[key], str)} & ROW_NAMES
    if texts:
        inner = [row for value in values if isinstance(value, list) for row in value if isinstance(row, dict)]
        twice = any(str(key).strip().lower() in texts for row in inner for key in row)
        return (
            None if twice else [content]
        )  # a file's own text above its rows, or a row with parts of its kind
    names, rows = content.get("columns"), content.get("data")
    if isinstance(names, list) and isinstance(rows, list) and all(isinstance(row, list) for row in rows):
        if len(set(map(str, names))) < len(names) or any(len(row) != len(names) for row in rows):
            return None
        return [dict(zip(map(str, names), row, strict=True)) for row in rows]
    if all(isinstance(value, dict) for value in values):
        inner = list(dict.fromkeys(key for value in values for key in value))
        as_rows, as_columns = _named(inner), _named(content)
        if as_rows == as_columns:
            return None
        return values if as_rows else [{key: value.get(i) for key, value in content.items()} for i in inner]
    if _named(content) and all(isinstance(value, list) for value in values):
        if len(set(map(len, values))) > 1:
            return None
        return [dict(zip(content, row, strict=True)) for row in zip(*values, strict=True)]
    lists = [value for value in values if isinstance(value, list) and value and isinstance(value[0], dict)]
    return lists[0] if len(lists) == 1 else None


def _named(keys: Any) -> bool:
    return any(str(key).strip().lower() in ROW_NAMES for key in keys)
