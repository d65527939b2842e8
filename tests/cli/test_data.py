"""``check``, ``convert`` and ``--skip-bad`` as a user meets them."""

import json

import pytest
from PIL import Image

from dmgan_fast.data import Vocabulary, open_dataset
from dmgan_fast.data.record import read_bytes
from dmgan_fast.errors import DataError
from dmgan_fast.modules import TextEncoder, TextEncoderConfig
from dmgan_fast.sampling.bundle import save_bundle

from .test_cli import call

TINY = (
    "word_channels=8 embedding_channels=6 image_encoder.channels=8 image_encoder.image_size=32 "
    "image_encoder.base_channels=2"
)
PRETRAIN = ("pretrain", "--preset", "demo", *(part for value in TINY.split() for part in ("--set", value)))
PRETRAIN += ("--set", "image_size=32", "--set", "loop.batch_size=4", "--set", "loop.steps=1", "--threads", 1)


@pytest.fixture
def shapes(tmp_path):
    """Sixteen images, a quarter of them held out."""
    folder = tmp_path / "shapes"
    folder.mkdir()
    rows = []
    for k in range(16):
        Image.new("RGB", (40, 44 + k), (15 * k, 90, 60)).save(folder / f"{k}.png")
        split = "test" if k % 4 == 0 else "train"
        rows.append({"image": f"{k}.png", "captions": [f"shape {k} in a row", f"one of {k}"], "split": split})
    write(folder, rows)
    return folder


def write(folder, rows):
    (folder / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def rows_of(folder):
    return [json.loads(line) for line in (folder / "captions.jsonl").read_text().splitlines()]


def damage(folder, *names):
    for name in names:
        file = folder / name
        file.write_bytes(file.read_bytes()[:50])


def test_check_tells_people_and_programs_the_same(monkeypatch, capsys, shapes):
    status, out, _ = call(monkeypatch, capsys, "check", shapes, "--size", 32)
    assert (status, out.splitlines()[-1]) == (0, "a run goes on with this set")
    damage(shapes, "3.png", "4.png")
    (shapes / "7.png").unlink()
    status, out, err = call(monkeypatch, capsys, "check", shapes, "--size", 32)
    assert (status, out.splitlines()[-1]) == (1, "a run refuses this set")
    assert all(name in out for name in ("3.png", "4.png", "7.png", "--skip-bad 3"))
    assert "Traceback" not in err
    status, out, _ = call(monkeypatch, capsys, "check", shapes, "--json", "--decode", "--size", 32)
    values = json.loads(out)
    assert (status, values["ok"]) == (1, False)
    assert {item["name"]: item["kind"] for item in values["left_out"]} == {
        "3.png": "unreadable image",
        "4.png": "unreadable image",
        "7.png": "missing image",
    }
    assert values["train"] + values["test"] + len(values["left_out"]) == values["rows"] == 16
    status, out, _ = call(monkeypatch, capsys, "check", shapes, "--skip-bad", 3, "--size", 32)
    assert status == 0


def test_check_compares_with_the_words_of_given_encoders(monkeypatch, capsys, shapes, tmp_path):
    words = Vocabulary.from_captions(["shape in row", *map(str, range(16))])
    encoder = TextEncoder(TextEncoderConfig(vocabulary_size=len(words), word_channels=8, embedding_channels=4))
    save_bundle(tmp_path / "encoders", vocabulary=words, card="", text_encoder=encoder)
    status, out, _ = call(monkeypatch, capsys, "check", shapes, "--damsm", tmp_path / "encoders", "--json")
    (unknown,) = (finding for finding in json.loads(out)["findings"] if finding["kind"] == "unknown words")
    assert status == 0
    assert unknown["text"].startswith(
        "38% of the words are unknown to the encoders and left out, most often a, one, of"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("check", "nowhere"), "no data set at 'nowhere': not a folder"),
        (("check",), "DATA"),
        (("check", "demo", "--damsm", "nowhere"), "no weights at 'nowhere'"),
        (("check", "demo", "--size", "0"), "--size"),
        (("check", "demo", "--skip-bad", "-1"), "--skip-bad"),
        (("convert", "nowhere", "--out", "o"), "no data set at 'nowhere'"),
        (("convert", "demo"), "--out"),
    ],
)
def test_bad_input_is_one_paragraph(monkeypatch, capsys, tmp_path, arguments, message):
    monkeypatch.chdir(tmp_path)
    status, _, err = call(monkeypatch, capsys, *arguments)
    assert status == 2
    assert message in err
    assert "Traceback" not in err
    assert not list(tmp_path.iterdir())


def test_a_run_names_all_that_it_can_not_use_before_any_work(monkeypatch, capsys, shapes, tmp_path):
    damage(shapes, "1.png", "4.png")
    (shapes / "6.png").unlink()
    status, _, err = call(monkeypatch, capsys, *PRETRAIN, "--data", shapes, "--out", tmp_path / "run")
    assert status == 2
    assert all(f"{name}.png" in err.splitlines()[-1] for name in (1, 4, 6))
    assert not (tmp_path / "run").exists()
    status, _, err = call(monkeypatch, capsys, *PRETRAIN, "--data", shapes, "--out", tmp_path / "run", "--skip-bad", 3)
    assert status == 0
    assert all(f"{name}.png" in err for name in (1, 4, 6))
    assert (tmp_path / "run/weights/vocabulary.json").is_file()


def test_a_run_without_a_bad_image_goes_on_with_it_once_it_is_mended_and_says_so(monkeypatch, capsys, shapes, tmp_path):
    whole = (shapes / "1.png").read_bytes()
    damage(shapes, "1.png")
    run = (*PRETRAIN, "--data", shapes, "--out", tmp_path / "run")
    assert call(monkeypatch, capsys, *run, "--skip-bad", 2)[0] == 0
    (shapes / "1.png").write_bytes(whole)
    status, _, err = call(monkeypatch, capsys, *run, "--set", "loop.steps=2", "--resume")
    assert (status, "warning: resuming: data" in err, "skip_bad" in err) == (0, True, False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"class_id": 1}, "all 12 training images are in class 1"),
        ({"captions": ["a photo"]}, "all 12 training images have the same captions"),
        ({"split": "train"}, "no images in its test split; splits found: train (16)"),
        ({"split": "fold1"}, "no images in its train split; splits found: fold1 (16)"),
    ],
)
def test_a_run_that_could_learn_nothing_is_refused(monkeypatch, capsys, shapes, tmp_path, change, message):
    write(shapes, [row | change for row in rows_of(shapes)])
    status, _, err = call(monkeypatch, capsys, *PRETRAIN, "--data", shapes, "--out", tmp_path / "run")
    assert status == 2
    assert message in err
    assert not (tmp_path / "run").exists()


def test_a_gan_that_matches_nothing_may_train_on_one_class(monkeypatch, capsys, shapes, tmp_path):
    call(monkeypatch, capsys, *PRETRAIN, "--data", shapes, "--out", tmp_path / "damsm")
    write(shapes, [row | {"class_id": 1} for row in rows_of(shapes)])
    settings = "generator.image_sizes=[64] generator.base_channels=2 generator.word_channels=8 discriminator_channels=2"
    settings += " generator.condition_channels=4 generator.noise_channels=4 loop.batch_size=3 loop.steps=1"
    train = ("train", "--preset", "demo", "--damsm", tmp_path / "damsm", "--data", shapes, "--out", tmp_path / "gan")
    train += (*(part for value in settings.split() for part in ("--set", value)), "--threads", 1)
    status, _, err = call(monkeypatch, capsys, *train)
    assert (status, (tmp_path / "gan").exists()) == (2, False)
    assert "both DAMSM losses would be 0" in err
    status, _, err = call(monkeypatch, capsys, *train, "--set", "step.damsm_weight=0")
    assert status == 0
    assert "warning: all 12 training images are in class 1" in err


def test_convert_writes_a_set_that_reads_the_same(monkeypatch, capsys, shapes, tmp_path):
    write(shapes, [row | {"class_id": 3 + k % 5, "box": [1, 2, 30, 20]} for k, row in enumerate(rows_of(shapes))])
    status, out, _ = call(monkeypatch, capsys, "convert", shapes, "--out", tmp_path / "out")
    assert (status, out) == (0, f"16 images in {tmp_path / 'out'}\n")
    for split in ("train", "test"):
        old, new = (open_dataset(folder, split, image_sizes=(16,)) for folder in (shapes, tmp_path / "out"))
        assert [(r.captions, r.class_id, r.box) for r in new.records] == [
            (r.captions, r.class_id, r.box) for r in old.records
        ]
        assert [r.file.read_bytes() for r in new.records] == [r.file.read_bytes() for r in old.records]
    status, _, err = call(monkeypatch, capsys, "convert", shapes, "--out", tmp_path / "out")
    assert status == 2
    assert "is there already and not empty" in err


def test_convert_leaves_nothing_behind_if_it_can_not_go_through(monkeypatch, capsys, shapes, tmp_path):
    damage(shapes, "2.png")
    (shapes / "9.png").unlink()
    status, _, err = call(monkeypatch, capsys, "convert", shapes, "--out", tmp_path / "out")
    assert status == 2
    assert "2.png" in err
    assert "9.png" in err
    assert [entry.name for entry in tmp_path.iterdir()] == ["shapes"]
    status, out, err = call(monkeypatch, capsys, "convert", shapes, "--out", tmp_path / "out", "--skip-bad", 2)
    assert (status, out.split()[0]) == (0, "14")
    assert err.count("left out: ") == 2
    assert len(rows_of(tmp_path / "out")) == 14


def test_convert_that_is_stopped_leaves_nothing_behind(monkeypatch, capsys, shapes, tmp_path):
    def stopped(record):
        if record.key == "5.png":
            raise DataError("image not found: 5.png")
        return read_bytes(record)

    monkeypatch.setattr("dmgan_fast.data.conversion.read_bytes", stopped)
    status, _, err = call(monkeypatch, capsys, "convert", shapes, "--out", tmp_path / "out")
    assert (status, err.splitlines()[-1]) == (2, "dmgan-fast: image not found: 5.png")
    assert [entry.name for entry in tmp_path.iterdir()] == ["shapes"]


def test_an_evaluation_names_all_held_out_images_that_it_can_not_read(monkeypatch, capsys, shapes, tmp_path):
    call(monkeypatch, capsys, *PRETRAIN, "--data", shapes, "--out", tmp_path / "damsm")
    drawn = tmp_path / "drawn"
    drawn.mkdir()
    for k in range(12):
        Image.new("RGB", (16, 16), (k, 20 * k, 9)).save(drawn / f"{k}.png")
    damage(shapes, "4.png", "12.png")
    command = (
        "evaluate",
        "--images",
        drawn,
        "--data",
        shapes,
        "--damsm",
        tmp_path / "damsm",
        "--metrics",
        "fid-damsm",
    )
    command += ("--cache", tmp_path / "cache", "--out", tmp_path / "report", "--device", "cpu")
    status, _, err = call(monkeypatch, capsys, *command)
    assert status == 2
    assert "4.png" in err
    assert "12.png" in err
    status, _, err = call(monkeypatch, capsys, *command, "--skip-bad", 2)
    assert status == 0
    assert err.count("left out of the real images: ") == 2
    assert json.loads((tmp_path / "report/evaluation.json").read_text())["real"]["count"] == 2


def test_shard_writes_a_set_that_trains_and_says_how_much(monkeypatch, capsys, shapes, tmp_path):
    status, out, _ = call(monkeypatch, capsys, "shard", shapes, "--out", tmp_path / "out", "--shard-size", "4KiB")
    count = len(list((tmp_path / "out").glob("*.tar")))
    assert (status, out.strip()) == (0, f"16 images in {count} shards in {tmp_path / 'out'}")
    address = f"file://{tmp_path}/there"
    assert call(monkeypatch, capsys, "shard", tmp_path / "out", "--out", address)[0] == 0
    monkeypatch.setenv("DMGAN_FAST_SHARDS", str(tmp_path / "copies"))
    status, _, err = call(monkeypatch, capsys, *PRETRAIN, "--data", address, "--out", tmp_path / "run")
    assert status == 0, err
    status, _, err = call(monkeypatch, capsys, "shard", shapes, "--out", tmp_path / "out")
    assert (status, "is there already and not empty" in err) == (2, True)
    status, _, err = call(monkeypatch, capsys, "shard", shapes, "--out", tmp_path / "new", "--shard-size", "much")
    assert (status, "--shard-size must be written as" in err) == (2, True)
