"""The names that students import from ``s3mini`` itself."""

from __future__ import annotations

import subprocess
import sys

import pytest

import s3mini


@pytest.mark.parametrize("name", s3mini.__all__)
def test_each_name_is_that_of_its_room(name: str) -> None:
    (room,) = (room for room, names in s3mini._NAMES.items() if name in names)
    assert getattr(s3mini, name) is getattr(sys.modules[f"s3mini.{room}"], name)


def test_importing_the_package_loads_nothing_and_a_wrong_name_is_told() -> None:
    code = "import sys, s3mini; print([m for m in sys.modules if m.startswith('s3mini.') or m == 'torch'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    with pytest.raises(AttributeError, match="no attribute 'evalute'"):
        _ = s3mini.evalute
