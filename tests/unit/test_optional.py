import pytest

from corsa.errors import UsageError
from corsa.optional import optional


def test_an_installed_library_is_its_module():
    assert optional("json", "bench").loads("[1]") == [1]


def test_a_missing_library_is_named_with_what_installs_it():
    with pytest.raises(UsageError, match=r"no_such is not .*pip install 'corsa-edit\[bench\]'"):
        optional("no_such.part", "bench")
