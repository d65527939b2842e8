"""Sampling as people sample: captions from files, several pictures each, ways between two, little memory."""

import json
import re

import pytest
import torch
from PIL import Image

from dmgan_fast import out_of_memory
from dmgan_fast.errors import InputError
from dmgan_fast.sampling.sampler import Sampler
from tests.cli.calls import call
from tests.sampling.conftest import SIDE
from tests.sampling.test_advice import fail_to_draw
from tests.test_out_of_memory import CPU, SAYS


def test_several_pictures_of_a_caption_differ_and_their_names_sort(sample, tmp_path):
    status, written, _ = sample("a red apple", "a blue car", "--count", 3)
    assert status == 0
    largest = [name for name in written if name.endswith("-128.png")]
    assert largest == sorted(largest)
    assert largest == [
        f"00{n}-0{k}-{said}-128.png" for n, said in ((1, "a-red-apple"), (2, "a-blue-car")) for k in (1, 2, 3)
    ]
    contents = {(tmp_path / "out" / name).read_bytes() for name in largest}
    assert len(contents) == 6
    assert Image.open(tmp_path / "out" / "grid.png").width > 3 * SIDE


def test_names_of_many_captions_sort_as_the_captions_do(sample, tmp_path):
    (tmp_path / "c.txt").write_text("a red\n" * 1001)
    _, written, errors = sample("--captions", tmp_path / "c.txt", "--batch", 64)
    largest = [name for name in written if name.endswith("-128.png")]
    assert largest == sorted(largest)
    assert (largest[0], largest[-1]) == ("0001-a-red-128.png", "1001-a-red-128.png")
    assert "show the first 100 of 1001 images" in errors


# ------------------------------------------------------------------------------------------------------------- between


def test_between_on_the_command_line(sample, tmp_path):
    status, written, errors = sample("--between", "a red apple", "a blue car", "--steps", 4)
    assert status == 0, errors
    assert len([name for name in written if name.endswith("-128.png")]) == 4
    assert (tmp_path / "out" / "grid.png").is_file()
    status, _, errors = sample("a car", "--between", "a red apple", "a blue car")
    assert status == 2
    assert "--between takes two captions only" in errors


# ---------------------------------------------------------------------------------------------- truncation and the rest


def test_a_contact_sheet_shows_every_picture_with_its_caption(sample, tmp_path):
    _, written, _ = sample("a red apple", "a blue car", "--count", 3, "--sheet")
    assert written[-2:] == ["grid.png", "sheet.png"]
    with Image.open(tmp_path / "out" / "sheet.png") as sheet:
        assert sheet.width > 4 * SIDE  # four in a row
        assert sheet.height > 2 * SIDE
        below = sheet.crop((0, SIDE + 12, SIDE, SIDE + 28))
        assert below.convert("L").getextrema()[0] < 128  # the caption's letters


def test_names_of_long_words_fit_into_file_systems(sample, tmp_path):
    status, written, errors = sample(f"{'тигр ' * 40} {'x' * 100}", "--attention")
    assert status == 0, errors
    assert max(len(name.encode()) for name in written) <= 255


def test_devices_are_picked_or_refused_by_name(sample, monkeypatch, weights, tmp_path):
    status, _, errors = sample("a car", "--device", "cuda")
    assert (status, errors) == (2, "dmgan-fast: device: PyTorch sees no CUDA device here, got 'cuda'\n")
    status, _, errors = sample("a car", "--device", "gpu")
    assert status == 2
    assert "device must be auto, cpu, cuda or cuda:N, got 'gpu'" in errors
    asked = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr("dmgan_fast.sampling.bundle.Bundle.generator", lambda self, device: asked.append(device))
    monkeypatch.setattr("dmgan_fast.sampling.bundle.Bundle.text_encoder", lambda self, device: asked.append(device))
    monkeypatch.setattr(Sampler, "__init__", lambda *_: None)
    Sampler.from_pretrained(weights)
    assert asked == ["cuda", "cuda"]  # a GPU draws where there is one
    with pytest.raises(InputError, match="there are 1 CUDA devices here, from 0, got 'cuda:1'"):
        Sampler.from_pretrained(weights, device="cuda:1")


# ------------------------------------------------------------------------------------------------------- out of memory


@pytest.mark.parametrize("name", ["cpu", "cuda", "python"])
def test_sampling_that_does_not_fit_is_one_paragraph_with_numbers_and_levers(sample, monkeypatch, tmp_path, name):
    fail_to_draw(monkeypatch, SAYS[name][0])
    monkeypatch.setattr(out_of_memory, "free_memory", lambda device: 64 << 20)
    (tmp_path / "c.txt").write_text("a red\n" * 40)
    status, written, errors = sample("--captions", tmp_path / "c.txt", "--batch", 40)
    assert (status, written) == (2, [])
    assert re.fullmatch(
        r"dmgan-fast: out of memory while generating 40 images at once at resolution 128 \(about \d+ MiB needed, "
        r"\d+ MiB of it by each image, .*64 MiB free\); generate fewer at once \(--batch \d+; batch_size in Python\), "
        r"or in windows \(--tile 64, with `sample`\)\n",
        errors,
    ), errors


def test_out_of_memory_that_nobody_expected_is_one_paragraph_too(sample, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError(CPU)

    monkeypatch.setattr("dmgan_fast.sampling.sampler.Sampler.from_pretrained", fail)
    status, _, errors = sample("a car")
    assert status == 2
    assert errors.startswith("dmgan-fast: out of memory (400 MiB asked for last")
    assert "--batch 1" in errors
    assert "--tile 64" in errors
    assert errors.count("\n") == 1


def test_sample_tells_programs_its_files(weights, monkeypatch, capsys, tmp_path):
    given = ("sample", "a zebra car", "blue", "--weights", weights, "--out", tmp_path, "--json", "--sheet")
    status, out, _ = call(monkeypatch, capsys, *given)
    assert status == 0
    told = json.loads(out)
    assert [(each["caption"], each["unknown"]) for each in told["images"]] == [("a zebra car", ["zebra"]), ("blue", [])]
    files = [file for each in told["images"] for file in each["files"]] + told["sheets"]
    assert sorted(files) == sorted(map(str, tmp_path.iterdir()))


def test_paths_come_on_standard_output_though_progress_is_shown(weights, monkeypatch, capsys, tmp_path):
    given = ("sample", "a car", "--count", "5", "--batch", "2", "--weights", weights, "--out", tmp_path)
    status, out, _ = call(monkeypatch, capsys, *given)
    assert status == 0
    assert sorted(out.split()) == sorted(map(str, tmp_path.iterdir()))
