"""`tensor.cuda()` where there is no CUDA."""

from __future__ import annotations

import warnings

import pytest
import torch

from halfbyte.integrations import without_cuda

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA here")


@pytest.fixture(autouse=True)
def torchs_own():
    without_cuda.uninstall()
    yield
    without_cuda.uninstall()


def test_it_stays_and_says_so_once():
    assert without_cuda.install()
    assert without_cuda.install()  # again changes nothing
    x = torch.ones(2)
    with pytest.warns(UserWarning, match="no CUDA here"):
        assert x.cuda() is x
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert x.cuda("cuda:1", non_blocking=True) is x


def test_it_can_be_taken_back():
    without_cuda.install()
    without_cuda.uninstall()
    with pytest.raises((AssertionError, RuntimeError)):
        torch.ones(2).cuda()


def test_opting_out(monkeypatch):
    monkeypatch.setenv("HALFBYTE_NO_CUDA_SHIM", "1")
    assert not without_cuda.install()
    with pytest.raises((AssertionError, RuntimeError)):
        torch.ones(2).cuda()


def test_where_there_is_cuda(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    own = torch.Tensor.cuda
    assert not without_cuda.install()
    assert torch.Tensor.cuda is own
