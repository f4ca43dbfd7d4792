"""The face of the folder: every public name, and no torch before one is used."""

import subprocess
import sys

import pytest

from anomalyr1 import shared_prefix


def test_every_public_name_is_there():
    assert len(shared_prefix.__all__) > 20
    for name in shared_prefix.__all__:
        assert getattr(shared_prefix, name).__name__ == name


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="attribute grow"):
        shared_prefix.grow  # noqa: B018


def test_torch_waits_for_the_first_use():
    script = (
        "import sys; from anomalyr1 import shared_prefix; "
        "shared_prefix.plant_trees; assert 'torch' not in sys.modules; "
        "shared_prefix.find_groups; assert 'torch' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
