"""Whole runs of three processes: one set of files, the weights of one process, and one end for all."""

import csv
import shutil

import pytest
import torch
from safetensors.torch import load_file

from dmgan_fast.parallel import rows_of
from dmgan_fast.runs.checkpoints import checkpoint_file, find_checkpoint, load_checkpoint
from dmgan_fast.sampling.bundle import open_bundle
from dmgan_fast.training.trainer import train
from tests.parallel.runs import sampled
from tests.training.conftest import train_config
from tests.training.test_engine import same


def told(of_three, name):
    return [found["run"][name] for found in of_three[0]]


def losses_of(run):
    with (run / "metrics.csv").open(newline="") as stream:
        return [{k: float(v) for k, v in row.items() if k not in ("seconds",)} for row in csv.DictReader(stream)]


@pytest.fixture(scope="module")
def one(pictures, encoders, tmp_path_factory):
    """The same run on one process."""
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("one") / "gan"
    train(train_config(pictures, encoders, batch_size=4, steps=4), out)
    return out


def test_a_run_of_three_writes_what_a_run_of_one_does(of_three, one):
    folder = of_three[1] / "gan"
    assert told(of_three, "train") == told(of_three, "pretrain") == [None] * 3
    files = lambda run: {p.relative_to(run).parts[:2] for p in run.rglob("*") if "events" not in p.name}  # noqa: E731
    assert files(folder) == files(one)
    assert [row["step"] for row in losses_of(folder)] == [1, 2, 3, 4]
    assert (of_three[1] / "damsm" / "weights" / "text_encoder" / "model.safetensors").is_file()


def test_the_losses_of_a_run_are_those_of_one_process(of_three, one):
    """The same images, noise and order; float32 rounds sums of parts otherwise."""
    for found, wanted in zip(losses_of(of_three[1] / "gan")[:2], losses_of(one)[:2], strict=True):
        assert found == pytest.approx(wanted, rel=2e-3)


def test_a_folder_that_holds_a_run_is_refused_on_all_processes(of_three):
    for kind, message, _ in told(of_three, "again"):
        assert kind == "CheckpointError"
        assert "already holds a run (step 00000004); give --resume or another --out" in message


def test_fewer_images_than_processes_are_refused(of_three):
    for kind, message, _ in told(of_three, "few"):
        assert kind == "InputError"
        assert "loop.batch_size is of all processes together and must be at least their number 3, got 2" in message
    assert not (of_three[1] / "few").exists()


def test_ctrl_c_on_one_process_stops_all_after_the_same_step(of_three):
    told_of = told(of_three, "stopped")
    assert {each[:2] for each in told_of} == {
        ("Interrupted", "stopped at step 2; the state is saved, --resume continues it")
    }
    assert [each[2] for each in told_of] == [False, True, True]


def test_three_processes_resume_to_the_bits_of_an_undisturbed_run(of_three):
    assert told(of_three, "resumed") == [None] * 3
    whole, parts = (load_checkpoint(checkpoint_file(of_three[1] / n / "checkpoints", 4)) for n in ("gan", "stopped"))
    same(whole["task"], parts["task"])
    same(whole["random"], parts["random"])


def test_a_run_of_three_goes_on_with_one_process(of_three, pictures, encoders, tmp_path):
    shutil.copytree(of_three[1] / "gan", tmp_path / "gan")
    train(train_config(pictures, encoders, batch_size=4, steps=5), tmp_path / "gan", resume=True)
    assert [row["step"] for row in losses_of(tmp_path / "gan")] == [1, 2, 3, 4, 5]


def test_a_loss_that_is_not_finite_on_one_process_ends_all_and_names_the_whole_batch(of_three):
    told_of = told(of_three, "bad")
    assert {each[0] for each in told_of} == {"NonFiniteLossError"}
    (message,) = {each[1] for each in told_of}
    assert "a loss is not finite at step 2, on the batch of " in message
    assert message.count(".png") == len(rows_of(4, 0, 1))
    assert not list((of_three[1] / "bad" / "checkpoints").glob("*step-*"))


def test_a_run_that_divides_rows_of_images_has_the_losses_of_one_process(of_three, pictures, encoders, tmp_path):
    """Two images on three processes, each a third of their rows; any number resumes it."""
    assert told(of_three, "rows") == [None] * 3
    config = train_config(pictures, encoders, batch_size=2, steps=2)
    train(config, tmp_path / "one")
    for found, wanted in zip(losses_of(of_three[1] / "rows"), losses_of(tmp_path / "one"), strict=True):
        assert found == pytest.approx(wanted, rel=2e-3)
    shutil.copytree(of_three[1] / "rows", tmp_path / "rows")
    train(train_config(pictures, encoders, batch_size=2, steps=3), tmp_path / "rows", resume=True)
    assert [row["step"] for row in losses_of(tmp_path / "rows")] == [1, 2, 3]


def test_a_run_in_parts_has_the_losses_and_the_files_of_one_process(of_three, one):
    """But for its checkpoints, which are folders."""
    folder = of_three[1] / "in parts"
    assert told(of_three, "in parts") == [None] * 3
    for found, wanted in zip(losses_of(folder)[:2], losses_of(one)[:2], strict=True):
        assert found == pytest.approx(wanted, rel=2e-3)
    files = lambda run: {p.relative_to(run).parts[:1] for p in run.iterdir()}  # noqa: E731
    assert files(folder) == files(one)
    assert sorted(p.name for p in (folder / "checkpoints").glob("step-*")) == ["step-00000002", "step-00000004"]


def test_weights_of_a_run_in_parts_are_the_whole_average(of_three):
    folder = of_three[1] / "in parts"
    (saved,) = (folder / "weights" / "generator").glob("*.safetensors")
    found, bundle = load_file(saved), open_bundle(folder, "generator", step=4)
    same(found, dict(bundle.generator().state_dict()))
    assert all(file.is_file() for file in bundle.files("generator"))


def test_a_run_in_parts_resumes_to_the_bits_of_an_undisturbed_one(of_three):
    assert told(of_three, "in parts again") == [None] * 3
    found = (find_checkpoint(of_three[1] / name / "checkpoints", 4) for name in ("in parts", "in parts again"))
    whole, parts = map(load_checkpoint, found)
    same(whole["task"], parts["task"])
    same(whole["random"], parts["random"])


def test_a_run_goes_from_two_processes_to_one_to_three(of_three, handed_on, one):
    """In parts, whole, in parts again."""
    assert told(of_three, "handed on") == [None] * 3
    names = sorted(p.name for p in (handed_on / "checkpoints").glob("step-*"))
    assert names[-2:] == ["step-00000003.pt", "step-00000004"]
    found, wanted = losses_of(handed_on), losses_of(one)
    assert [row["step"] for row in found] == [1, 2, 3, 4]
    for row, other in zip(found, wanted, strict=True):
        assert row == pytest.approx(other, rel=2e-3 if row["step"] < 3 else 2e-2)


def test_a_part_that_is_not_finite_ends_all_processes_and_is_not_saved(of_three):
    first, second, last = told(of_three, "bad part")
    assert last[0] == "NonFiniteLossError"
    assert "generator.initial_stage.projection.weight is not finite after step 1" in last[1]
    assert {first[0], second[0]} == {"ProcessError"}
    assert not list((of_three[1] / "bad part" / "checkpoints").glob("*step-*"))


def test_processes_sample_together_what_one_samples(of_three, tmp_path):
    """The same files with the same bits, named once and in order by the first."""
    torch.set_num_threads(1)
    status, said, _ = sampled(tmp_path / "sampled")
    together = of_three[1] / "sampled"
    assert told(of_three, "sample")[0][:2] == (status, said.replace(str(tmp_path), str(of_three[1])))
    assert status == 0
    assert sorted(said.split()) == sorted(map(str, (tmp_path / "sampled").iterdir()))
    assert [each[:2] for each in told(of_three, "sample")[1:]] == [(0, "")] * 2
    for file in (tmp_path / "sampled").iterdir():
        assert (together / file.name).read_bytes() == file.read_bytes(), file.name


def test_a_caption_refused_on_one_process_ends_sampling_on_all(of_three):
    statuses = [status for status, _, _ in told(of_three, "no caption")]
    assert 0 not in statuses
    assert "'xyzzy', has no word that the model knows" in told(of_three, "no caption")[1][2]
