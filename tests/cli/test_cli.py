"""The command line and the sampler behind it, as a user meets them."""

import json
import re
import shutil
import subprocess
import sys

import pytest
import torch
from PIL import Image

from dmgan_fast import cli, demo, info, native
from dmgan_fast.data import Vocabulary
from dmgan_fast.errors import InputError, Interrupted
from dmgan_fast.evaluation.catalogue import METRICS
from dmgan_fast.modules import AttnGenerator, Generator, GeneratorConfig, TextEncoder, TextEncoderConfig
from dmgan_fast.sampling.bundle import save_bundle
from dmgan_fast.sampling.sampler import Sampler
from tests.cli.calls import call

COMMANDS = (
    "demo",
    "pretrain",
    "train",
    "plan",
    "report",
    "web",
    "check",
    "convert",
    "sample",
    "import",
    "export",
    "evaluate",
    "ablate",
    "study",
    "benchmark",
    "info",
    "selfcheck",
)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Untrained weights of a small model that knows five words."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("weights")
    vocabulary = Vocabulary.from_captions(["a red apple", "a blue car"])
    save_bundle(
        folder,
        vocabulary=vocabulary,
        card="untrained\n",
        generator=Generator(
            GeneratorConfig(
                image_sizes=(64, 128), base_channels=2, word_channels=8, condition_channels=4, noise_channels=4
            )
        ),
        text_encoder=TextEncoder(
            TextEncoderConfig(vocabulary_size=len(vocabulary), word_channels=8, embedding_channels=4)
        ),
    )
    return folder


def test_export_writes_their_files_and_gates_that_are_not_there_are_refused(weights, monkeypatch, capsys, tmp_path):
    status, out, _ = call(monkeypatch, capsys, "export", "--weights", weights, "--out", tmp_path / "theirs")
    assert status == 0
    assert out.split() == [str(tmp_path / "theirs" / name) for name in ("netG.pth", "text_encoder.pth")]
    model = AttnGenerator(GeneratorConfig(image_sizes=(64,), base_channels=2, word_channels=8, noise_channels=4))
    shutil.copytree(weights, tmp_path / "attention")
    model.save_pretrained(tmp_path / "attention" / "generator")
    arguments = ("sample", "a red apple", "--weights", tmp_path / "attention", "--out", tmp_path / "drawn", "--gates")
    status, _, error = call(monkeypatch, capsys, *arguments)
    assert (status, error) == (2, "dmgan-fast: --gates: this model has no response gates\n")
    assert not (tmp_path / "drawn").exists()


def test_python_m_and_version():
    result = subprocess.run(
        [sys.executable, "-m", "dmgan_fast", "--version"], capture_output=True, text=True, check=True
    )
    assert re.fullmatch(r"dmgan-fast \d+\.\d+\.\d+\n", result.stdout)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(monkeypatch, capsys, command):
    status, out, _ = call(monkeypatch, capsys, command, "--help")
    assert status == 0
    assert f"Example: dmgan-fast {command}" in " ".join(out.split())


def test_help_of_evaluate_names_every_metric(monkeypatch, capsys):
    _, out, _ = call(monkeypatch, capsys, "evaluate", "--help")
    assert [name for name in METRICS if not re.search(rf"\b{name}[,.\s]", out)] == []


def test_help_loads_no_torch():
    code = (
        "import sys; sys.argv = ['dmgan-fast', '--help']\nfrom dmgan_fast import cli\n"
        "try: cli.main()\nexcept SystemExit: pass\nprint('torch' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "False"


def test_sample_writes_every_stage_and_the_maps_asked_for(monkeypatch, capsys, weights, tmp_path):
    arguments = ("sample", "A red, shiny apple!", "--weights", weights, "--out", tmp_path, "--attention", "--gates")
    status, out, err = call(monkeypatch, capsys, *arguments)
    assert status == 0
    assert "caption 1: unknown words left out: shiny" in err
    names = sorted(file.name for file in tmp_path.iterdir())
    assert sorted(line.rsplit("/")[-1] for line in out.split()) == names
    assert names == [
        "001-a-red-apple-128.png",
        "001-a-red-apple-64-attention-01-a.png",
        "001-a-red-apple-64-attention-02-red.png",
        "001-a-red-apple-64-attention-03-apple.png",
        "001-a-red-apple-64-gate.png",
        "001-a-red-apple-64.png",
    ]
    assert Image.open(tmp_path / names[0]).size == (128, 128)
    assert Image.open(tmp_path / names[-1]).size == (64, 64)


def test_sample_without_flags_writes_no_maps(monkeypatch, capsys, weights, tmp_path):
    call(monkeypatch, capsys, "sample", "a car", "blue", "--weights", weights, "--out", tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "001-a-car-128.png",
        "001-a-car-64.png",
        "002-blue-128.png",
        "002-blue-64.png",
        "grid.png",
    ]
    assert Image.open(tmp_path / "grid.png").width > 2 * 128  # both sides of a caption beside each other


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sample", " "], "caption 1 is empty"),
        (["sample", "a car", "quux flib"], "caption 2, 'quux flib', has no word that the model knows"),
        (["sample", "a car", "--batch", "0"], "batch_size must be at least 1, got 0"),
        (["sample", "a car", "--seed", "-1"], "seed must be 0 or more, got -1"),
        (
            ["sample", "a car", "--weights", "nowhere"],
            "no weights at 'nowhere': vocabulary.json, generator, text_encoder",
        ),
        (["sample"], "CAPTION"),
        (
            ["train", "--out", "o", "--damsm", "d", "--set", "loop.stps=3"],
            "unknown key 'loop.stps'; did you mean 'steps'",
        ),
        (
            ["train", "--out", "o", "--damsm", "d", "--preset", "brids"],
            "preset must be one of birds, coco, attngan-birds, attngan-coco, demo",
        ),
        (["train", "--out", "o", "--damsm", "d"], "no weights at 'd'"),
        (["train", "--out", "o"], "encoders: the folder of a finished pretraining is needed"),
        (["train", "--out", "o", "--damsm", "d", "--config", "none.yaml"], "config none.yaml can't be read"),
        (["pretrain", "--out", "o", "--data", "nowhere"], "no data set at 'nowhere'"),
        (["pretrain", "--out", "o", "--flag"], "No such option"),
        (["evaluate"], "Missing option '--out'"),
        (["evaluate", "--out", "o", "--metrics", "fid"], "metrics: 'fid' is not one of is-tf, is-coco"),
        (
            ["evaluate", "--out", "o", "--count", "1"],
            "evaluate: count: Input should be greater than or equal to 2, got 1",
        ),
        (["evaluate", "--out", "o", "--statistics", "x.npz"], "--statistics is written METRIC=FILE, got 'x.npz'"),
        (
            ["evaluate", "--out", "o", "--data", "demo", "--pictures", "nowhere"],
            "no pictures at 'nowhere': not a folder",
        ),
        (["export", "--out", "o.txt"], "export: the file must end in .onnx or .pt2, got 'o.txt'"),
        (
            ["benchmark", "--report", "o.html", "--authors", "x"],
            "benchmark: --authors times their code, which needs --run",
        ),
        (["paint"], "No such command 'paint'"),
    ],
)
def test_bad_input_is_one_paragraph_and_writes_nothing(monkeypatch, capsys, weights, tmp_path, arguments, message):
    monkeypatch.chdir(tmp_path)
    if arguments[0] == "sample" and "--weights" not in arguments:
        arguments = [*arguments, "--weights", weights]
    status, _, err = call(monkeypatch, capsys, *arguments)
    assert status == 2
    assert message in err
    assert "Traceback" not in err
    assert not list(tmp_path.iterdir())


def test_export_writes_a_graph_and_its_vocabulary(monkeypatch, capsys, weights, tmp_path):
    file = tmp_path / "sampler.pt2"
    status, out, _ = call(monkeypatch, capsys, "export", "--weights", weights, "--out", file, "--words", 3)
    assert status == 0
    assert out.split() == [str(file), f"{file}.vocabulary.json"]
    images = torch.export.load(file).module()(
        captions=torch.ones(1, 3, dtype=torch.int64),
        lengths=torch.tensor([2]),
        noise=torch.zeros(1, 4),
        eps=torch.zeros(1, 4),
    )
    assert [tuple(image.shape) for image in images] == [(1, 3, 64, 64), (1, 3, 128, 128)]


def test_benchmark_writes_the_page_of_the_committed_results(monkeypatch, capsys, tmp_path):
    file = tmp_path / "benchmarks.html"
    status, out, _ = call(monkeypatch, capsys, "benchmark", "--report", file)
    assert (status, out.split()) == (0, [str(file)])
    assert "Ops against rivals" in file.read_text()


def test_debug_shows_the_error_itself(monkeypatch, capsys, weights):
    monkeypatch.setattr(sys, "argv", ["dmgan-fast", "sample", " ", "--weights", str(weights), "--debug"])
    with pytest.raises(InputError):
        cli.main()
    capsys.readouterr()


def test_info_as_json_and_text(monkeypatch, capsys):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    status, out, _ = call(monkeypatch, capsys, "info", "--json")
    table = json.loads(out)
    assert status == 0
    assert re.match(r"(AVX-512|AVX2|SSE2|NEON|portable) \(built: \S.*; compiler: (GCC|clang) \d+\.", table["cpu"])
    assert table["ops"]["memory_read"]["reference"].startswith("yes")
    assert table["ops"]["memory_read"]["cpu"].startswith("yes: float32")
    assert "PyTorch sees no CUDA device" in table["ops"]["memory_read"]["triton"]
    _, text, _ = call(monkeypatch, capsys, "info")
    assert "words_similarity:" in text


@pytest.mark.parametrize("level", native.cpu_levels())
def test_info_shows_the_cpu_level_in_use_first(monkeypatch, capsys, level, use_level):
    use_level(level)
    _, text, _ = call(monkeypatch, capsys, "info")
    assert re.search(rf"^cpu: {info.LEVEL_NAMES[level]} \(built: {', '.join(native.built_levels())}; ", text, re.M)


def test_an_unknown_cpu_level_is_one_paragraph(monkeypatch, capsys, use_level):
    use_level("avx1024")
    status, _, error = call(monkeypatch, capsys, "info")
    assert status == 2
    assert "Traceback" not in error
    assert "DMGAN_FAST_CPU must be one of" in " ".join(error.split())


def test_a_picture_depends_on_its_caption_seed_and_place_only(weights):
    sampler = Sampler.from_pretrained(weights)
    captions = ["a red apple", "blue", "a red car apple"]
    together = sampler.draw(captions, seed=3)
    one_by_one = sampler.draw(captions, seed=3, batch_size=1)
    for a, b in zip(together, one_by_one, strict=True):
        assert (a.images[-1] - b.images[-1]).abs().max() < 1e-5
    assert torch.equal(sampler.draw(captions, seed=3)[1].images[-1], together[1].images[-1])
    assert not torch.equal(sampler.draw(captions, seed=4)[1].images[-1], together[1].images[-1])
    swapped = sampler.draw(["a blue car", "blue", "apple"], seed=3)
    assert (swapped[1].images[-1] - together[1].images[-1]).abs().max() < 1e-5


def test_tiles_draw_the_same_pictures(weights, monkeypatch, capsys, tmp_path):
    sampler = Sampler.from_pretrained(weights)
    captions = ["a red apple", "blue"]
    for whole, tiled in zip(sampler.draw(captions, seed=3), sampler.draw(captions, seed=3, tile=64), strict=True):
        for ours, true in zip(tiled.images, whole.images, strict=True):
            assert (ours - true).abs().max() < 1e-5
    with pytest.raises(InputError, match="tiles give no maps"):
        sampler.draw(captions, maps=True, tile=64)
    code, _, error = call(
        monkeypatch, capsys, "sample", "blue", "--weights", str(weights), "--tile", "32", "--out", str(tmp_path / "o")
    )
    assert code == 2
    assert "tile must be at least 64" in error


PLAN = ("plan", "--preset", "demo", "--batch", "4", "--device", "cpu", "--set", "step.damsm_weight=0")


def test_plan_answers_people_and_programs(monkeypatch, capsys):
    code, text, _ = call(monkeypatch, capsys, *PLAN, "--size", "64", "--memory", "500MiB")
    assert code == 0
    assert re.match(r"64² in fp32, batch 4, 500 MiB: fits \(cpu\)", text)
    assert "policy       checkpointing none" in text
    code, text, _ = call(monkeypatch, capsys, *PLAN, "--size", "128", "--dtype", "bf16", "--memory", "1MiB", "--json")
    assert code == 1
    values = json.loads(text)
    assert values["fits"] is False
    assert (values["side"], values["precision"], values["batch_size"]) == (128, "bf16", 4)
    assert {"policy", "peak_bytes", "bytes_per_picture", "largest_batch", "recompute_flops"} <= values.keys()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--size", "300"), "the side must be 64 times a power of two"),
        (("--memory", "lots"), "memory must be written as 24GiB"),
        (("--dtype", "int8"), "step.precision"),
        (("--batch", "1", "--memory", "1GiB"), "batch_size must be at least 2"),
        (("--set", "step.memory.tile_rows=2"), "tile_rows"),
    ],
)
def test_bad_plans_are_refused_in_one_paragraph(monkeypatch, capsys, arguments, message):
    code, _, error = call(monkeypatch, capsys, "plan", "--preset", "demo", *arguments)
    assert code == 2
    assert message in error
    assert "Traceback" not in error


def test_training_into_an_impossible_budget_is_refused_before_any_work(monkeypatch, capsys, tmp_path):
    out = tmp_path / "run"
    code, _, error = call(
        monkeypatch,
        capsys,
        "train",
        "--preset",
        "demo",
        "--memory",
        "1MiB",
        "--set",
        "step.damsm_weight=0",
        "--out",
        str(out),
    )
    assert code == 2
    assert "does not fit into 1MiB: the most frugal policy needs" in error
    assert not out.exists()


def test_maps_fit_the_words(weights):
    (drawing,) = Sampler.from_pretrained(weights).draw(["a red apple"], maps=True)
    assert drawing.words == ["a", "red", "apple"]
    assert drawing.attention[0].shape == (3, 64, 64)
    assert torch.allclose(drawing.attention[0].sum(0), torch.ones(64, 64), atol=1e-5)
    assert drawing.response_gates[0].shape == (64, 64)
    assert Sampler.from_pretrained(weights).draw(["a"])[0].attention == []


def test_demo_trains_draws_and_reports(monkeypatch, capsys, tmp_path):
    arguments = ("demo", "--out", tmp_path / "demo", "--pretrain-steps", 1, "--train-steps", 1)
    monkeypatch.setattr(demo, "WORTH_TIMING", 2)  # so that it says first how long it will take
    status, out, err = call(monkeypatch, capsys, *arguments)
    assert status == 0
    said = re.sub(r"\s+", " ", err)
    assert re.match(r"this will take about [\d.]+ (s|min) here: 1 steps of the encoders at [\d.]+ s and 1 steps", said)
    assert re.search(r"encoders [\d.]+ (s|min), GAN [\d.]+ (s|min), drawing and page [\d.]+ (s|min)", said)
    page = (tmp_path / "demo" / "index.html").read_text()
    assert str(tmp_path / "demo" / "index.html") in out
    for promised in ("Just trained", "Words and gates", "response gate", "Real images", "1 steps in", "<svg"):
        assert promised in page
    assert page.count("<figure>") >= 16
    assert not re.findall(r'(?:src|href)="(?!data:|#)', page.split("<svg")[0])  # nothing from elsewhere
    again, _, err = call(monkeypatch, capsys, *arguments)  # finished runs are only reported again
    assert again == 0
    assert "steps/s" not in err
    assert "this will take" not in err


def test_the_demo_takes_what_its_steps_do_and_a_tenth_more():
    assert demo.forecast((0, 200), (0.0, 0.9)).startswith("this will take about 3.3 min here: 200 steps of the GAN at")
    text = demo.forecast((300, 200), (0.2, 0.9))
    assert text.startswith("this will take about 4.4 min here: 300 steps of the encoders at 0.20 s and 200 steps")


def test_ctrl_c_of_a_run_exits_with_130_and_says_how_to_go_on(monkeypatch, capsys, tmp_path):
    def stopped(config, out, *, resume):
        raise Interrupted("stopped at step 2; the state is saved, --resume goes on")

    monkeypatch.setattr("dmgan_fast.training.damsm.pretrain", stopped)
    status, _, errors = call(monkeypatch, capsys, "pretrain", "--out", tmp_path, "--preset", "demo")
    assert status == 130
    assert errors == "dmgan-fast: stopped at step 2; the state is saved, --resume goes on\n"


def test_the_shipped_weights_draw_the_colours_they_are_asked_for():
    red, blue = Sampler.from_pretrained().draw(["a red heart", "a blue car"], seed=3)
    assert [tuple(image.shape) for image in red.images] == [(3, 64, 64), (3, 128, 128)]
    assert not (red.unknown)
    assert not (blue.unknown)
    middle = slice(48, 80)
    assert red.images[-1][0, middle, middle].mean() > red.images[-1][2, middle, middle].mean() + 0.3
    assert blue.images[-1][2, middle, middle].mean() > blue.images[-1][0, middle, middle].mean() + 0.1
