"""The random graphs of ``test_property.py`` on a GPU: a few if emulated, many if real."""

from __future__ import annotations

import pytest
import test_property
from cuda_fake import fake_gpu
from hypothesis import given, settings
from hypothesis import strategies as st

import tetractys as tx
from tetractys.compiler.pipeline import PASSES

GRAPHS = test_property.graphs()
PROPERTIES = {
    test_property.test_compiled_code_agrees_with_the_references: (GRAPHS,),
    test_property.test_every_pass_can_be_switched_off: (
        GRAPHS, st.sets(st.sampled_from(PASSES), min_size=1)),
    test_property.test_every_level_agrees: (GRAPHS,),
    test_property.test_symbolic_sizes_agree_with_specialised_ones: (GRAPHS,),
    test_property.test_any_layout_of_arguments: (GRAPHS, st.sampled_from(test_property.LAYOUTS)),
}
"""Tests of what holds on any device, and what they are given."""

EXAMPLES = {"emulated": 12, "real": 60}


@pytest.fixture(params=["emulated", pytest.param("real", marks=pytest.mark.cuda)])
def kind(request, monkeypatch):
    """Let functions run on a GPU of a kind."""
    monkeypatch.setattr(tx.config, "device", "cuda")
    if request.param == "real":
        request.getfixturevalue("real_gpu")
        yield request.param
        return
    with fake_gpu() as gpu:
        yield request.param
        assert gpu.launched, "the tests do not say where functions run"


@pytest.mark.parametrize("test", PROPERTIES, ids=lambda test: test.__name__)
def test_random_graphs(test, kind):
    limited = settings(max_examples=EXAMPLES[kind], **test_property.SETTINGS)
    limited(given(*PROPERTIES[test])(test.hypothesis.inner_test))()
