"""The custom ops inside PyTorch: opcheck, torch.compile, autocast, fake and meta tensors."""

import pytest
import torch

from dmgan_fast import functional
from dmgan_fast.ops._custom_op import CUSTOM_OPS
from tests.ops.harness import Case, inputs, run
from tests.ops.test_backends import CASES, NORM, READ

ONE_OF_EACH = {
    "memory_read": READ["official"],
    "memory_write": CASES["memory_write"]["odd"],
    "batch_norm_glu": NORM["half skip and mean"],
    "upsample_conv3x3": CASES["upsample_conv3x3"]["odd"],
    "words_similarity": CASES["words_similarity"]["odd"],
}


class Recorder(torch.utils._python_dispatch.TorchDispatchMode):
    """Collects the calls of this package's custom ops, with copies of their arguments."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "dmgan_fast":
            copies = torch.utils._pytree.tree_map_only(torch.Tensor, lambda x: x.detach().clone(), args)
            self.calls.append((func, copies))
        return func(*args, **(kwargs or {}))


def fixed_in_float32(case):
    """Fresh copies of the running statistics, which are updated in place."""
    return {name: value.float() if "running" in name else value for name, value in case.fixed.items()}


def recorded_calls(case):
    with Recorder() as recorder:
        run(case, inputs(case, torch.float32, "cpu"), "cpu")
    assert len(recorder.calls) == 2, "one forward and one backward"
    return recorder.calls


@pytest.mark.parametrize("op", ONE_OF_EACH)
def test_opcheck_accepts_forward_and_backward(op):
    (forward, forward_args), (backward, backward_args) = recorded_calls(ONE_OF_EACH[op])
    differentiable = torch.utils._pytree.tree_map_only(
        torch.Tensor, lambda x: x.requires_grad_() if x.is_floating_point() else x, forward_args
    )
    torch.library.opcheck(forward, differentiable)
    torch.library.opcheck(backward, backward_args)


@pytest.mark.parametrize("op", ONE_OF_EACH)
def test_calls_that_something_watches_give_the_same_bits_as_plain_ones(op):
    case = ONE_OF_EACH[op]

    def bits():
        results, gradients = run(case, inputs(case, torch.float32, "cpu"), "cpu")
        return [*results, *gradients.values()]

    plain = bits()
    with Recorder() as recorder:
        watched = bits()
    assert len(recorder.calls) == 2, "one forward and one backward"
    for a, b in zip(plain, watched, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("op", ONE_OF_EACH)
def test_meta_tensors_have_the_shapes_strides_and_types_of_real_ones(op, layout):
    case = ONE_OF_EACH[op]
    case = Case(op, case.tensors, case.fixed, layout, case.pictures, case.wide)
    for function, args in recorded_calls(case):
        real = function(*args)
        meta = function(*torch.utils._pytree.tree_map_only(torch.Tensor, lambda x: x.to("meta"), args))
        real, meta = ((x,) if torch.is_tensor(x) else x for x in (real, meta))
        for a, b in zip(real, meta, strict=True):
            assert b.device.type == "meta"
            assert (a.shape, a.dtype) == (b.shape, b.dtype)
            assert a.numel() == 0 or a.stride() == b.stride()


@pytest.mark.parametrize("op", ONE_OF_EACH)
def test_compiled_without_graph_breaks_it_gives_the_same_results_and_gradients(op):
    case = ONE_OF_EACH[op]
    tensors = inputs(case, torch.float32, "cpu")
    torch._dynamo.reset()
    compiled = torch.compile(getattr(functional, op), fullgraph=True, backend="aot_eager")

    def gradients(function):
        output = function(**tensors, **fixed_in_float32(case))
        output = output if isinstance(output, torch.Tensor) else output[0]
        return output, torch.autograd.grad(output.square().sum(), list(tensors.values()))

    torch.testing.assert_close(gradients(compiled), gradients(getattr(functional, op)), rtol=0, atol=0)


@pytest.mark.parametrize("op", ONE_OF_EACH)
def test_under_autocast_results_have_its_type_and_gradients_the_parameters(op):
    case = ONE_OF_EACH[op]
    tensors = inputs(case, torch.float32, "cpu")
    with torch.autocast("cpu", torch.bfloat16):
        output = getattr(functional, op)(**tensors, **fixed_in_float32(case))
        output = output if isinstance(output, torch.Tensor) else output[0]
    narrow = op in ("memory_read", "upsample_conv3x3")
    assert output.dtype == (torch.bfloat16 if narrow else torch.float32)
    grads = torch.autograd.grad(output.float().square().sum(), list(tensors.values()))
    assert all(grad.dtype == torch.float32 for grad in grads)
    assert all(grad.isfinite().all() for grad in grads)


def test_what_kernels_take_as_a_copy_is_counted():
    op, x = CUSTOM_OPS[torch.ops.dmgan_fast.batch_norm_glu.default], torch.zeros(2, 4, 6, 5)

    def copied(x, skip=None):
        values = {"x": x, "weight": torch.ones(4), "bias": torch.zeros(8)[::2], "skip": skip, "backend": "cpu"}
        return op.copied_bytes(tuple(values.get(name) for name in op.parameters))

    of_bias = 4 * 4  # every second number
    assert copied(x) == copied(x.contiguous(memory_format=torch.channels_last)) == of_bias
    assert copied(x[:, :, 1:-1]) == of_bias + x[:, :, 1:-1].nbytes
    assert copied(x, skip=x.contiguous(memory_format=torch.channels_last)) == of_bias + x.nbytes
