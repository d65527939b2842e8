"""The self-check lets right kernels run and refuses wrong ones; on a GPU before their first use."""

import json
import logging
import threading
from types import SimpleNamespace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from dmgan_fast import contract, functional, native
from dmgan_fast.errors import BackendError
from dmgan_fast.ops import _backends, selfcheck

CPU = torch.device("cpu")


class Kernels:
    """The CPU library's kernels, counted, and with ``wrong``: function name → what becomes of its results."""

    def __init__(self):
        self.calls, self.wrong = 0, {}

    def __getattr__(self, name):
        def run(*arguments):
            self.calls += 1
            found = getattr(native.load("cpu"), name)(*arguments)
            return self.wrong[name](found) if name in self.wrong else found

        return run


@pytest.fixture
def kernels(monkeypatch, tmp_path):
    """A backend ``stand_in`` for CPUs that ``auto`` tries first, and that is checked as a GPU's."""
    found = Kernels()
    registered = _backends.Kernels(lambda op: None, lambda op: found, lambda: ("cpu",))
    monkeypatch.setitem(_backends.REGISTRY, "stand_in", registered)
    monkeypatch.setattr(_backends, "_order", lambda *_: ("stand_in", "cpu", "reference"))
    monkeypatch.setattr(_backends, "why_not", lambda op, backend: None)
    monkeypatch.setattr(selfcheck, "AUTOMATIC", ("cpu",))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv(selfcheck.VARIABLE, raising=False)
    monkeypatch.delenv(_backends.VARIABLE, raising=False)
    return found


def off_by_a_little(place):
    """One element of a result is wrong by a thousandth of the largest."""

    def change(results):
        changed = [x.clone() for x in results]
        flat = changed[place].view(-1)
        flat[-1] += 1e-3 * flat.abs().max()
        return tuple(changed)

    return change


H, KEY = torch.randn(1, 8, 4, 4, generator=torch.Generator().manual_seed(0)), torch.ones(1, 8, 3)


def read(backend=None):
    return functional.memory_read(H, KEY, KEY, None, None, backend=backend)


def chosen(op="memory_read", dtype=torch.float32):
    return _backends.choose(contract.OPS[op], None, H.to(dtype), {"C": 8})


@pytest.mark.parametrize("dtype", selfcheck.DTYPES, ids=str)
@pytest.mark.parametrize("op", _backends.OPS)
def test_right_kernels_pass(op, dtype):
    assert selfcheck.check(op, "cpu", CPU, dtype) is None


@pytest.mark.parametrize("op", ["memory_write", "words_similarity"])
def test_right_triton_kernels_pass(op):
    import tests.kernels.interpreter  # noqa: F401, makes bfloat16 right

    if not torch.cuda.is_available():
        assert selfcheck.check(op, "triton", CPU, torch.float32) is None


@pytest.mark.parametrize(
    ("op", "function", "place", "named"),
    [
        ("memory_read", "memory_read_forward", 0, "result 1"),
        ("memory_read", "memory_read_backward", 1, "the gradient of key"),
        ("memory_write", "memory_write_backward", 4, "the gradient of word_weight"),
        ("batch_norm_glu", "batch_norm_glu_backward", 0, "the gradient of x"),
    ],
)
def test_one_wrong_element_is_found_and_named(op, function, place, named, kernels):
    kernels.wrong[function] = off_by_a_little(place)
    fault = selfcheck.check(op, "stand_in", CPU, torch.float32)
    assert fault.startswith("small shapes: ")
    assert named in fault


def test_an_element_that_no_kernel_writes_is_found(kernels):
    def forget_one(results):
        results[0].view(-1)[-1] = torch.nan
        return results

    kernels.wrong["memory_read_forward"] = forget_one
    assert "result 1 is off by nan" in selfcheck.check("memory_read", "stand_in", CPU, torch.float32)


def test_memory_that_kernels_get_holds_nan(kernels, monkeypatch):
    filled = []
    full = torch.full
    monkeypatch.setattr(torch, "full", lambda size, value, **where: filled.append(value) or full(size, value, **where))
    kernels.wrong["memory_read_forward"] = lambda found: filled.append("kernel") or found
    assert selfcheck.check("memory_read", "stand_in", CPU, torch.float32) is None
    first = filled.index("kernel")
    assert first > 0
    assert all(value != value for value in filled[:first])


def test_a_kernel_that_fails_is_refused_with_its_error(kernels):
    def fail(results):
        raise RuntimeError("no kernel image is available\nmore")

    kernels.wrong["memory_read_forward"] = fail
    fault = selfcheck.check("memory_read", "stand_in", CPU, torch.float32)
    assert fault == "it raises RuntimeError: no kernel image is available"


def test_auto_goes_on_with_the_next_and_says_why(kernels, caplog):
    kernels.wrong["memory_read_forward"] = off_by_a_little(0)
    with caplog.at_level(logging.WARNING, "dmgan_fast"):
        assert chosen() == "cpu"
        assert chosen("memory_write") == "stand_in", "other ops run where they did"
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.startswith(
        "memory_read on stand_in is wrong in float32 and passed over: small shapes: result 1 is off"
    )


def test_a_backend_asked_for_by_name_says_why_it_does_not_run(kernels):
    kernels.wrong["memory_read_forward"] = off_by_a_little(0)
    message = r"'stand_in' can't run: the self-check found it wrong on this device in float32: .*DMGAN_FAST_SELFCHECK=0"
    for _ in range(2):
        with pytest.raises(BackendError, match=message):
            read("stand_in")


def test_a_verdict_is_kept_for_later_processes(kernels, tmp_path):
    assert chosen() == "stand_in"
    calls = kernels.calls
    assert calls > 0
    kernels.wrong["memory_read_forward"] = off_by_a_little(0)
    _backends.forget()
    assert chosen() == "stand_in"
    assert kernels.calls == calls, "checked once"
    (file,) = (tmp_path / "dmgan_fast").iterdir()
    assert json.loads(file.read_text())["verdicts"] == {"stand_in/memory_read/float32": None}


@pytest.mark.parametrize("part", ["device", "driver", "torch", "triton", "dmgan_fast", "kernels"])
def test_another_device_or_version_is_checked_anew(part, kernels, monkeypatch):
    assert chosen() == "stand_in"
    before = selfcheck.what_counts(CPU)
    monkeypatch.setattr(selfcheck, "what_counts", lambda device: before | {part: "another"})
    kernels.wrong["memory_read_forward"] = off_by_a_little(0)
    _backends.forget()
    assert chosen() == "cpu"


def test_a_changed_kernel_counts_as_another_version(monkeypatch, tmp_path):
    def state():
        return selfcheck.what_counts(CPU)["kernels"]

    monkeypatch.setattr(selfcheck, "__file__", str(tmp_path / "ops" / "selfcheck.py"))
    library = tmp_path / "_cuda.abi3.so"
    library.write_bytes(b"one")
    first = state()
    library.write_bytes(b"another")
    assert state() != first


def test_each_dtype_has_its_own_verdict(kernels):
    kernels.wrong["memory_read_forward"] = lambda found: (
        off_by_a_little(0)(found) if found[0].dtype == torch.float32 else found
    )
    assert [chosen(dtype=dtype) for dtype in selfcheck.DTYPES] == ["cpu", "stand_in", "stand_in"]


def test_it_can_be_skipped(kernels, monkeypatch, tmp_path):
    monkeypatch.setenv(selfcheck.VARIABLE, "0")
    kernels.wrong["memory_read_forward"] = off_by_a_little(0)
    assert chosen() == "stand_in"
    assert kernels.calls == 0
    assert not (tmp_path / "dmgan_fast").exists()


def test_cpus_are_not_checked_unasked(kernels, monkeypatch):
    monkeypatch.setattr(selfcheck, "AUTOMATIC", ("cuda",))
    assert chosen() == "stand_in"
    assert kernels.calls == 0


def test_what_is_set_where_it_is_asked_does_not_reach_the_check(kernels, monkeypatch):
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    with torch.autocast("cpu"), torch.inference_mode(), fake, torch.device("meta"):
        assert chosen() == "stand_in"
    assert selfcheck.Verdicts(CPU).found == {"stand_in/memory_read/bfloat16": None}


def test_compiled_code_is_checked_too(kernels):
    kernels.wrong["memory_read_forward"] = off_by_a_little(0)
    compiled = torch.compile(read, backend="eager", fullgraph=True)
    assert torch.equal(compiled(), read("cpu"))
    assert selfcheck.Verdicts(CPU).found["stand_in/memory_read/float32"]


def test_threads_check_once(kernels, monkeypatch):
    checks = []
    check = selfcheck.check
    monkeypatch.setattr(selfcheck, "check", lambda *what: checks.append(what) or check(*what))
    threads = [threading.Thread(target=chosen) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(checks) == 1


OF_ANOTHER_DEVICE = '{"key": 1, "verdicts": {"stand_in/memory_read/float32": null}}'


@pytest.mark.parametrize("content", ["", "[]", "{}", OF_ANOTHER_DEVICE, "\x00"])
def test_a_damaged_cache_is_as_none(content, kernels):
    file = selfcheck.Verdicts(CPU).file
    file.parent.mkdir(parents=True)
    file.write_text(content)
    kernels.wrong["memory_read_forward"] = off_by_a_little(0)
    assert chosen() == "cpu"
    assert selfcheck.Verdicts(CPU).found["stand_in/memory_read/float32"]


def test_a_cache_that_cannot_be_written_stops_nothing(kernels, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert chosen() == "stand_in"


def test_running_out_of_memory_is_no_verdict(kernels, tmp_path):
    def too_much(results):
        raise torch.OutOfMemoryError("no memory")

    kernels.wrong["memory_read_forward"] = too_much
    assert chosen() == "stand_in"
    assert selfcheck.Verdicts(CPU).found == {}


def test_nothing_is_checked_while_a_graph_is_captured(kernels, monkeypatch):
    monkeypatch.setattr(selfcheck, "AUTOMATIC", ("cuda",))
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    monkeypatch.setattr(selfcheck, "Verdicts", None)
    assert selfcheck.refusal("memory_read", "triton", SimpleNamespace(type="cuda"), torch.float32) is None


def test_known_faults_are_those_of_the_gpus_here(kernels, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(selfcheck, "what_counts", lambda device: {"device": device.type})
    kernels.wrong["memory_read_forward"] = off_by_a_little(0)
    verdicts = selfcheck.Verdicts(torch.device("cuda", 0))
    verdicts.device = CPU
    for op in ("memory_read", "memory_write"):
        verdicts.renew(op, "stand_in", torch.float32)
    ((name, fault),) = selfcheck.known_faults().items()
    assert name == "stand_in/memory_read/float32 on GPU 0"
    assert "result 1 is off" in fault


def test_every_op_has_cases():
    assert set(selfcheck.CASES) == set(_backends.OPS)
