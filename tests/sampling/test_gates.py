"""Writing gates beside the images."""

import threading

import torch

from dmgan_fast.sampling.gates import writing_gates


def test_the_gates_are_those_of_the_memory(sampler):
    seen = []
    memory = sampler.generator.stages[0].memory
    memory.register_forward_hook(
        lambda module, inputs, options, _: seen.append(module.writing_gates(inputs[1], options["image_mean"])),
        with_kwargs=True,
    )
    with writing_gates(sampler.generator) as found:
        sampler.sample(["a red apple", "a car"])
    (gates,) = found
    assert gates.shape == (2, 3)
    assert torch.equal(gates[0], seen[0][0])
    assert torch.equal(gates[1, :2], seen[0][1, :2])
    assert gates[1, 2].isnan(), "padding"


def test_maps_bring_the_gates_of_each_caption(sampler):
    short, long = sampler.sample(["a car", "a red apple"], maps=True)
    assert [tuple(gate.shape) for gate in (*short.writing_gates, *long.writing_gates)] == [(2,), (3,)]
    assert all(0 < value < 1 for value in long.writing_gates[0].tolist())
    assert sampler.sample(["a car"])[0].writing_gates == []


def test_nothing_is_left_behind_and_other_threads_are_not_heard(sampler):
    with writing_gates(sampler.generator) as found:
        other = threading.Thread(target=sampler.sample, args=(["a car"],))
        other.start()
        other.join()
    assert found == []
    sampler.sample(["a car"])
    assert found == []
    assert not sampler.generator.stages[0].memory._forward_hooks
