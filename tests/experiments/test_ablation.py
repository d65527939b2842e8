"""Ablations: equal seeds and budgets, one table, and nothing done twice."""

import json
import math

import pytest

from dmgan_fast.errors import CheckpointError, InputError, Interrupted
from dmgan_fast.experiments import VARIANTS, ablate
from dmgan_fast.experiments import ablation as module
from dmgan_fast.runs.config import TrainConfig
from dmgan_fast.runs.presets import build_config
from dmgan_fast.sampling.sampler import Sampler

PAIR = ("dm-gan", "attention")


def config_of(out, run):
    return json.loads((out / "runs" / run / "config.json").read_text())


def test_variants_differ_in_what_they_say_and_in_nothing_else(ablation):
    report = json.loads((ablation / "ablation.json").read_text())
    assert [(run["variant"], run["seed"]) for run in report["runs"]] == [(n, s) for s in (0, 1) for n in PAIR]
    one, other = config_of(ablation, "dm-gan-seed1"), config_of(ablation, "attention-seed1")
    assert one["loop"]["seed"] == other["loop"]["seed"] == 1
    assert other["generator"].pop("refinement") == "attention"
    assert one["generator"].pop("refinement") == "memory"
    assert one == other


def test_table_and_figure_hold_every_variant(ablation):
    page = (ablation / "ablation.md").read_text()
    report = json.loads((ablation / "ablation.json").read_text())
    for name in PAIR:
        values = list(module.values_of(report, name, "fid-damsm").values())
        assert len(values) == 2
        mean, half = sum(values) / 2, 12.7062 * abs(values[0] - values[1]) / 2
        assert f"{mean:.3g} ± {half:.2g}" in page
    assert "paired by seed" in page
    assert (ablation / "ablation.png").read_bytes()[:4] == b"\x89PNG"


def test_a_stopped_ablation_goes_on_with_the_same_result(ablation, small, tmp_path, monkeypatch):
    trained = []

    def stop(config, out, **options):
        if len(trained) == 2:
            raise Interrupted("stopped")
        trained.append(out.name)
        train(config, out, **options)

    train = module.train
    monkeypatch.setattr(module, "train", stop)
    arguments = {"variants": PAIR, "seeds": 2, "metrics": ("r-precision", "fid-damsm"), **small}
    with pytest.raises(Interrupted):
        ablate(tmp_path, **arguments)
    half = json.loads((tmp_path / "ablation.json").read_text())
    assert [run["seed"] for run in half["runs"]] == [0, 0]  # both variants of the first seed are compared already
    monkeypatch.setattr(module, "train", lambda config, out, **o: (trained.append(out.name), train(config, out, **o)))
    report = ablate(tmp_path, **arguments)
    assert trained == ["dm-gan-seed0", "attention-seed0", "dm-gan-seed1", "attention-seed1"]
    whole = json.loads((ablation / "ablation.json").read_text())
    for one, other in zip(report["runs"], whole["runs"], strict=True):
        assert one["values"] == pytest.approx(other["values"], rel=1e-6)


def test_another_ablation_in_the_same_folder_is_refused(ablation, small):
    other = small | {"settings": (*small["settings"], "step.damsm_weight=7")}
    with pytest.raises(CheckpointError, match=r"these differ: step\.damsm_weight"):
        ablate(ablation, variants=PAIR, seeds=1, **other)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"variants": ("dm-gam",)}, "variant must be a setting KEY=VALUE or one of dm-gan, attention"),
        ({"variants": ("dm-gan", "dm-gan")}, "each once, got dm-gan, dm-gan"),
        ({"variants": ("step.damsm_wait=1",)}, "did you mean 'damsm_weight'"),
        ({"seeds": 0}, "seeds must be at least 1, got 0"),
        ({"metrics": ("fid",)}, "'fid' is not one of"),
        ({"metrics": ("is-birds",)}, "no classifier given"),
        ({"count": 99}, "r-precision needs a count of at least 100, got 99"),
        ({"judge": "nowhere"}, "no weights at 'nowhere'"),
    ],
)
def test_bad_settings_are_refused_before_any_work(small, tmp_path, change, message):
    with pytest.raises((InputError, CheckpointError), match=message):
        ablate(tmp_path / "out", **small | change)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_is_a_configuration(name):
    config = build_config(TrainConfig, preset="demo", overrides=VARIANTS[name])
    assert (config == build_config(TrainConfig, preset="demo")) == (name in ("dm-gan", "one-refinement"))


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_trains_and_generates(small, tmp_path, name):
    values = {"encoders": small["damsm"], "data": {"source": small["data"]}}
    overrides = [*small["settings"], *VARIANTS[name]]
    config = build_config(TrainConfig, preset="demo", overrides=overrides, values=values)
    module.train(config, tmp_path)
    (drawing,) = Sampler.from_pretrained(tmp_path).sample(["a red circle"])
    assert drawing.images[-1].shape[-1] == config.generator.image_sizes[-1]
    assert drawing.images[-1].isfinite().all()


@pytest.mark.parametrize(
    ("values", "mean", "half"),
    [((1.0, 2.0, 3.0), 2.0, 4.3027 / math.sqrt(3)), ((5.0, 5.0), 5.0, 0.0), ((4.0, 8.0), 6.0, 2 * 12.7062)],
)
def test_intervals_are_students(values, mean, half):
    assert module.interval(values) == pytest.approx((mean, half), rel=1e-4)


def test_one_value_has_no_interval():
    assert math.isnan(module.interval([3.0])[1])


@pytest.mark.parametrize(("freedom", "expected"), [(2, 4.3027), (9, 2.2622), (30, 2.0423), (1000, 1.9623)])
def test_students_quantile(freedom, expected):
    assert module.student(freedom) == pytest.approx(expected, abs=5e-4)


def test_differences_are_paired_by_seed():
    values = {("dm-gan", 0): 1.0, ("dm-gan", 1): 5.0, ("attention", 0): 2.0, ("attention", 1): 6.0}
    runs = [
        {"variant": name, "seed": seed, "values": {"fid-damsm": value}, "parameters": 1, "seconds": 0.0}
        for (name, seed), value in values.items()
    ]
    report = {
        "config": {"loop": {"steps": 1, "batch_size": 2}, "data": {"source": "demo"}},
        "variants": {name: [] for name in PAIR},
        "metrics": ["fid-damsm"],
        "count": 2,
        "runs": runs,
    }
    assert "| attention | **+1 ± 0** |" in module.markdown(report)  # unpaired, the interval would hold zero
