"""What tests of verbs share: a folder to be in, and a way to run a command in this process."""

from __future__ import annotations

import pytest

from vitruvius.cli.main import run


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder of the test's own to be in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def said(capsys):
    """Run a command in this process: exit code, stdout, stderr."""

    def call(*argv):
        capsys.readouterr()
        code = run([str(word) for word in argv])
        shown = capsys.readouterr()
        assert "Traceback" not in shown.err and "Traceback" not in shown.out
        return code, shown.out, shown.err

    return call
