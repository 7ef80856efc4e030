from __future__ import annotations

import vitruvius.patterns


def test_every_public_name_is_there():
    for name in vitruvius.patterns.__all__:
        assert getattr(vitruvius.patterns, name) is not None


def test_importing_patterns_brings_in_nothing_but_the_standard_library(python):
    code = (
        "import sys; before = set(sys.modules); import vitruvius.patterns; "
        "roots = {name.split('.')[0] for name in set(sys.modules) - before}; "
        "print(sorted(roots - set(sys.stdlib_module_names)))"
    )
    assert python(code).stdout.strip() == "['vitruvius']"
