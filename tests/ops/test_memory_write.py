"""memory_write: words are written independently of each other, and gates choose between words and image."""

import pytest
import torch

from tests.ops.arguments import call, write_arguments


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_each_word_is_written_alone(backend):
    arguments = {name: value.float() for name, value in write_arguments().items()}
    key, value = call("memory_write", arguments, backend=backend)
    for word in range(arguments["words"].shape[2]):
        alone = arguments | {"words": arguments["words"][:, :, word : word + 1].contiguous()}
        for found, whole in zip(call("memory_write", alone, backend=backend), (key, value), strict=True):
            torch.testing.assert_close(found[:, :, 0], whole[:, :, word])


@pytest.mark.parametrize(("gate", "without"), [(-1e6, "words"), (1e6, "image_mean")])
def test_a_closed_gate_writes_of_one_source_only(gate, without):
    arguments = write_arguments()
    arguments["words"], arguments["image_mean"] = arguments["words"].abs() + 0.1, arguments["image_mean"].abs() + 0.1
    arguments["gate_word"], arguments["gate_image"] = arguments["gate_word"] * 0 + gate, arguments["gate_image"] * 0
    before = call("memory_write", arguments)
    after = call("memory_write", arguments | {without: 3 * arguments[without]})
    for one, other in zip(before, after, strict=True):
        torch.testing.assert_close(one, other)


def test_under_autocast_it_computes_in_float32():
    arguments = {name: value.float() for name, value in write_arguments().items()}
    plain = call("memory_write", arguments)
    with torch.autocast("cpu", torch.bfloat16):
        found = call("memory_write", arguments)
    for one, other in zip(found, plain, strict=True):
        assert one.dtype == torch.float32
        assert torch.equal(one, other)
