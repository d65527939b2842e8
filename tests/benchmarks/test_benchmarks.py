"""The benchmarks themselves: gates that close on wrong code, ratios that fall, bounds that are arithmetic."""

import argparse
import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from benchmarks import components, regression, roofline, sampling, scaling, step
from benchmarks.authors.checkout import CheckoutStep
from benchmarks.common import Table, Target, case_table, load_rows, some_of
from benchmarks.common import environment as environment_of
from benchmarks.harness import is_out_of_memory, measure, spread, take_turns
from benchmarks.models import Models, Setting, batch_of, ours, theirs
from benchmarks.ops import batch_norm_glu, memory_path, work
from benchmarks.report import page, replace_after
from dmgan_fast.errors import InputError
from dmgan_fast.modules import GeneratorConfig
from dmgan_fast.runs.config import StepConfig, TrainConfig
from dmgan_fast.runs.presets import build_config

TINY = Setting("tiny B2", build_config(TrainConfig, values={"data": {"max_words": 4}}), batch=2).narrow()


@pytest.fixture(scope="module")
def environment():
    return environment_of()


def row(op="step", case="birds", implementation="dmgan_fast", ms=100.0, **more):
    known = {"device": "cpu", "threads": 2, "dtype": "float32", "direction": "step", "allocator": "same"}
    known |= {"level": "avx2", "compiler": "GCC 12.2.0", "commit": "1234567"}
    known |= {"versions": {"torch": "2.14"}, "correct": True, "p20_ms": ms, "p80_ms": ms}
    return {"op": op, "case": case, "implementation": implementation, "median_ms": ms} | known | more


# -------------------------------------------------------------------------------------------------------------- steps


def test_our_step_is_the_authors_step():
    assert step.gate(TINY)


def test_the_gate_closes_on_a_step_that_learns_something_else(monkeypatch):
    wrong = step.ours
    monkeypatch.setattr(
        step, "ours", lambda models, config: wrong(models, replace(config, gamma1=config.gamma1 * 1.01))
    )
    assert not step.gate(TINY)


def test_rows_of_a_step_name_every_implementation(environment, monkeypatch):
    monkeypatch.setattr(step, "default_allocator", _Here)
    monkeypatch.setattr(step, "gate", lambda setting, target: True)
    rows = step.case(TINY, 1, None, environment, compiled=False)
    names = [row["implementation"] for row in rows]
    assert names == [
        "authors",
        "dmgan_fast",
        "dmgan_fast, keeps ops",
        "dmgan_fast, keeps blocks",
        step.DEFAULT_ALLOCATOR,
    ]
    peaks = {row["implementation"]: row["peak_bytes"] for row in rows}
    assert peaks["dmgan_fast, keeps blocks"] < peaks["dmgan_fast"] < peaks["authors"]
    assert all(row["p20_ms"] <= row["median_ms"] <= row["p80_ms"] for row in rows)


class _Here:
    def __init__(self, setting):
        self.step, self.inputs = theirs(Models.build(setting), setting.config), batch_of(setting)

    def __enter__(self):
        return lambda: self.step(**self.inputs)

    def __exit__(self, *error):
        pass


def test_a_cell_out_of_memory_says_so(environment, monkeypatch):
    class Greedy:
        def __call__(self, batch, **noise):
            if len(batch.sentence) > 2:
                torch.empty(1 << 60, dtype=torch.uint8)

    monkeypatch.setattr(step, "ours", lambda models, config: Greedy())
    rows = step.throughput(TINY, (2, 4), 1, environment)
    cells = {(row["implementation"], row["batch"]): row for row in rows}
    assert cells["dmgan_fast", 4]["out_of_memory"]
    assert "median_ms" not in cells["dmgan_fast", 4]
    assert "median_ms" in cells["dmgan_fast", 2]
    assert "median_ms" in cells["authors", 4]


def test_errors_of_other_kinds_are_not_taken_for_a_lack_of_memory():
    assert is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory"))
    assert not is_out_of_memory(RuntimeError("shapes do not fit"))


def test_components_cover_the_phases_of_both_steps():
    models = Models.build(TINY)
    steps = {make.__name__: make(models.copy(), TINY.config) for make in (theirs, ours)}
    for parts in components.in_turn(steps, batch_of(TINY), rounds=1).values():
        assert {"draw", "discriminator", "adversarial", "generator"} <= parts["phase"].keys()
        assert parts["kind"]["convolutions"] > 0


def test_components_are_medians_of_steps_in_turn(monkeypatch):
    seen = []

    def profiled(step, inputs):
        seen.append(step)
        return {"phase": {}, "kind": {"memory": float(len(seen))}}

    monkeypatch.setattr(components, "components", profiled)
    steps = {"authors": lambda: None, "dmgan_fast": lambda: None}
    found = components.in_turn(steps, {}, rounds=3)
    assert seen == list(steps.values()) * 3
    assert [found[name]["kind"]["memory"] for name in steps] == [3.0, 4.0], "of runs 1, 3, 5 and 2, 4, 6"


def test_operations_of_a_step_grow_with_the_batch():
    (one, direct), (two, _) = (components.operations(replace(TINY, batch=size)) for size in (2, 4))
    assert 0 < one["convolutions"] < two["convolutions"] < 2.2 * one["convolutions"]
    assert one.total() < direct < 36 / 16 * one.total(), "some convolutions save products"


@pytest.mark.parametrize(
    ("operator", "kind"),
    [
        ("aten::mkldnn_convolution", "convolutions"),
        ("dmgan_fast::batch_norm_glu", "batch norm, GLU, skip"),
        ("dmgan_fast_cpu_avx2::memory_read_forward", "memory"),
        ("aten::add_", "moves and element by element"),
    ],
)
def test_operators_are_sorted_by_kind(operator, kind):
    assert components.kind_of(operator) == kind


@pytest.mark.parametrize("level", ["sse2", "avx512", "neon"])
def test_saved_products_are_of_both_convolutions_at_every_level(level):
    assert components.saved(f"dmgan_fast_cpu_{level}::conv3x3_backward") == components.SAVED["conv3x3"]
    assert components.saved(f"dmgan_fast_cpu_{level}::upsample_conv3x3_forward") == components.SAVED["upsample_conv3x3"]
    assert components.saved(f"dmgan_fast_cpu_{level}::memory_read_forward") == 1
    assert components.saved("aten::convolution") == 1


# ---------------------------------------------------------------------------------------------------------- sampling


def test_sampling_rows_are_correct_and_forward_only():
    rows = sampling.rows_of(1, TINY, compiled=False)
    assert [row["implementation"] for row in rows] == ["authors", "dmgan_fast", "dmgan_fast, folded"]
    assert all(row["correct"] and row["median_ms"] > 0 and row["direction"] == "forward" for row in rows)


def test_a_wrong_picture_is_not_timed(monkeypatch):
    exact = sampling.truth
    monkeypatch.setattr(sampling, "truth", lambda *given: exact(*given) + 1)
    assert not any(row["correct"] or "median_ms" in row for row in sampling.rows_of(1, TINY, compiled=False))


# --------------------------------------------------------------------------------------------------------------- ops


def test_a_wrong_op_is_not_timed(environment):
    case = batch_norm_glu.case(Target(), batch=2, channels=8, side=8)
    case.implementations = {"authors": case.implementations["authors"], "wrong": lambda **x: case.reference(**x) + 1e-3}
    rows = {row["implementation"]: row for row in measure(case, 2, Target(), environment)}
    assert rows["authors"]["correct"]
    assert not rows["wrong"]["correct"]
    assert "median_ms" not in rows["wrong"]


@pytest.mark.parametrize("make", [memory_path.case, memory_path.attention_case])
def test_every_rival_of_the_memory_path_computes_the_same(make, environment):
    case = make(Target(), batch=2, side=8, words=5)
    case.implementations.pop("authors+compile")
    assert {"authors", "sdpa", "dmgan_fast"} <= case.implementations.keys()
    assert all(row["correct"] for row in measure(case, 2, Target(), environment))


def test_scaling_covers_axes_and_leaves_the_threads_as_they_were():
    threads = torch.get_num_threads()
    rows = scaling.rows_of(1, ops=("memory_path",), largest=6)
    assert {row["axis"] for row in rows} >= {"batch", "words"}
    assert {row["implementation"] for row in rows} == {"authors", "dmgan_fast"}
    assert torch.get_num_threads() == threads


def test_implementations_take_turns():
    order = []
    times = take_turns({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 2)
    assert order == list("ab" * 3)
    assert {name: len(runs) for name, runs in times.items()} == {"a": 2, "b": 2}
    assert spread([]) == {}
    assert spread([1.0, 2.0, 3.0])["median_ms"] == 2.0


# --------------------------------------------------------------------------------------------------- roofline, history


def test_bounds_are_the_larger_of_arithmetic_and_traffic():
    peaks = roofline.Peaks(flops=100.0, bandwidth=10.0)
    assert peaks.bound_ms(200, 5) == 2000
    assert peaks.bound_ms(200, 50) == 5000
    assert (peaks.limit(200, 5), peaks.limit(200, 50)) == ("arithmetic", "memory")


def test_places_reach_the_bound_at_the_bound():
    given = row("memory_path", ms=5000.0, flops=200, bytes=50)
    (place,) = roofline.places([given, row("step")], roofline.Peaks(100.0, 10.0))
    assert place["reached"] == 1.0
    assert place["intensity"] == 4.0
    assert place["limit"] == "memory"


def test_bounds_of_a_step_say_which_part_of_the_peak_each_reaches():
    peaks = [row("peak", "gemm", "torch", per_second=1e12), row("peak", "stream", "torch", per_second=1e10)]
    parts = [
        row("components", "moves", ms=50.0, direction="kind"),
        row("components", "convolutions", ms=100.0, direction="kind", operations=8e10),
        row("components", "convolutions", "authors", ms=400.0, direction="kind"),
    ]
    _, bounds = roofline.bounds_of_step(peaks + parts)
    assert bounds.cells == [
        ["convolutions", "100", "66.7%", "400", "80.0", "800", "80%", "arithmetic"],
        ["moves", "50", "33.3%", "", "", "", "", "memory traffic, launches"],
        ["all", "150", "", "400", "80.0", "533", "53%", ""],
    ]
    assert roofline.bounds_of_step(parts) is None


def test_the_work_of_convolutions_is_what_pytorch_counts():
    from torch.utils.flop_counter import FlopCounterMode

    x, weight = torch.randn(2, 6, 5, 5), torch.randn(6, 10, 4, 4)
    with FlopCounterMode(display=False) as counter:
        nn.functional.conv_transpose2d(x, weight, stride=2, padding=1)
    assert work.upsample_conv3x3(2, 6, 10, 25)["forward"][0] == counter.get_total_flops()
    with FlopCounterMode(display=False) as counter:
        nn.functional.conv2d(x, torch.randn(10, 6, 3, 3), padding=1)
    assert work.conv3x3(2, 6, 10, 25)["forward"][0] == counter.get_total_flops()


def test_bounds_on_cards_are_marked_computed_and_halve_with_the_width():
    rows = {(r["op"].split()[0], r["dtype"], r["card"]): r for r in roofline.on_cards()}
    assert all(r["computed"] for r in rows.values())
    wide, narrow = (rows["memory_path", dtype, "H100 SXM"] for dtype in ("float32", "bfloat16"))
    assert wide["limit"] == narrow["limit"] == "memory"
    assert wide["bound_ms"] == pytest.approx(2 * narrow["bound_ms"])


def test_ratios_compare_with_the_authors_of_the_same_case():
    rows = [row(implementation="authors", ms=300.0), row(ms=100.0), row("peak"), row(case="alone")]
    assert [(r["case"], r["ratio"]) for r in regression.ratios(rows)] == [("birds", 3.0)]


def test_a_ratio_that_fell_is_reported_and_noise_is_not(tmp_path, capsys):
    def ran(ms):
        return [row(implementation="authors", ms=300.0), row(ms=ms)]

    file = tmp_path / "history.csv"
    assert regression.check(ran(100.0), file) == []
    assert "nothing recorded" in capsys.readouterr().out
    regression.record(regression.ratios(ran(100.0)), file)
    assert regression.check(ran(105.0), file) == []
    (fallen,) = regression.check(ran(150.0), file)
    assert (fallen.before, fallen.now) == (3.0, 2.0)
    assert "3.00x -> 2.00x" in capsys.readouterr().out
    regression.record(regression.ratios(ran(150.0)), file)
    assert regression.check(ran(150.0), file) == []  # the last one counts
    assert len(regression.history(file)) == 2


def test_another_machine_level_or_compiler_has_its_own_history(tmp_path):
    file = tmp_path / "history.csv"
    regression.record(regression.ratios([row(implementation="authors", ms=300.0), row(ms=50.0)]), file)
    for other in ({"device": "other"}, {"level": "avx512"}, {"compiler": "clang 14.0.6"}):
        elsewhere = [row(implementation="authors", ms=300.0, **other), row(ms=100.0, **other)]
        assert regression.check(elsewhere, file) == []
    assert regression.check([row(implementation="authors", ms=300.0), row(ms=100.0)], file), "the same machine fell"


def test_a_file_that_is_no_history_is_refused(tmp_path):
    file = tmp_path / "history.csv"
    file.write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match=r"not a history of benchmarks: its columns are \['a', 'b'\]"):
        regression.history(file)


# -------------------------------------------------------------------------------------------------------------- report


def test_the_page_is_self_contained_and_shows_every_part(tmp_path):
    cells = [row(implementation="authors", ms=200.0, peak_bytes=2 << 20), row(ms=100.0, peak_bytes=1 << 20)]
    cells += [row("throughput", "birds B64", ms=None, out_of_memory=True)]
    ops = [
        row("memory_path", implementation=i, direction="forward+backward", flops=2e9, bytes=1e8)
        for i in ("authors", "dmgan_fast")
    ]
    cells += ops + [o | {"axis": "batch", "value": v} for o in ops for v in (1, 4)]
    cells += [row("peak", name, per_second=1e11) for name in ("gemm", "stream")]
    cells += [row("components", "draw", i, direction="phase") for i in ("authors", "dmgan_fast")]
    (tmp_path / "step.json").write_text(json.dumps(cells))
    page.write(load_rows(tmp_path), tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    for name in page.SECTIONS:
        assert f'<h2 id="{name}">' in text
    assert "out of memory" in text
    assert "Computed, not measured" in text
    assert "src=" not in text
    assert "<script" not in text


@pytest.mark.parametrize("write", [page.write, page.first_figure])
def test_a_page_of_nothing_is_refused(tmp_path, write):
    with pytest.raises(InputError, match="there are no results"):
        write([], tmp_path / "page.html")
    assert not list(tmp_path.iterdir())


def test_a_table_of_a_case_says_what_was_not_timed():
    ops = [row("op", "c", i, ms, direction=d) for d, ms in (("forward", 2.0), ("forward+backward", 6.0)) for i in "x"]
    ops += [row("op", "c", "authors", 12.0, direction=d, saved_bytes=3 << 20) for d in ("forward", "forward+backward")]
    ops += [row("op", "c", "wrong", None, direction="forward+backward", correct=False)]
    assert case_table(ops).cells == [
        ["x", "2.00", "6.00 (6.00–6.00)", "2.00", "", ""],
        ["authors", "12.00", "12.00 (12.00–12.00)", "1.00", "3.0", ""],
        ["wrong", "wrong result: not timed", "", "", "", ""],
    ]


def test_short_lines_of_a_table_are_filled_up():
    assert Table(["a", "b"], [[1], [2, "x"]]).markdown() == "| a | b |\n|---|---|\n| 1 |  |\n| 2 | x |"


def test_text_is_written_between_markers_and_the_rest_stays(tmp_path):
    file = tmp_path / "page.md"
    file.write_text("head\n<a>\nold\n<b>\ntail\n")
    replace_after(file, "<a>\n", "new\n", "<b>\n")
    assert file.read_text() == "head\n<a>\nnew\n<b>\ntail\n"
    replace_after(file, "<a>\n", "to the end\n")
    assert file.read_text() == "head\n<a>\nto the end\n"


def test_an_unknown_part_is_named_with_those_there_are():
    assert some_of(("ops", "step"))("step,ops") == ["step", "ops"]
    with pytest.raises(argparse.ArgumentTypeError, match="no part stp; there are ops, step"):
        some_of(("ops", "step"))("stp")


# ------------------------------------------------------------------------------------------------------------ checkout


def test_a_folder_without_the_authors_code_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"is no checkout of DM-GAN: it has no code/model.py"):
        CheckoutStep(tmp_path, GeneratorConfig(), 32, StepConfig())


def test_sizes_the_authors_code_does_not_know_are_refused(tmp_path):
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "model.py").touch()
    with pytest.raises(InputError, match=r"their networks generate 64, 128, 256, not \(64, 128\)"):
        CheckoutStep(tmp_path, GeneratorConfig(image_sizes=(64, 128)), 32, StepConfig())
