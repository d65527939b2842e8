"""What several processes hold in parts is saved by all of them and read by any number."""

import json
import shutil
from multiprocessing import get_context

import pytest
import torch
from torch import distributed, multiprocessing, nn

from dmgan_fast.errors import CheckpointError, DamagedCheckpointError
from dmgan_fast.parallel.ending import end_after_gloo
from dmgan_fast.runs.checkpoints import Checkpoints, load_checkpoint, steps_of

SIZES = (2, 1, 3)  # processes, one run after another


def model_and_optimizer(sharded):
    """Odd sizes, so that no number of processes divides them."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(7, 5), nn.Tanh(), nn.Linear(5, 3))
    if sharded:
        mesh = init_device_mesh("cpu", (distributed.get_world_size(),))
        for layer in (model[0], model[2], model):
            fully_shard(layer, mesh=mesh)
    return model, torch.optim.Adam(model.parameters(), lr=0.1)


def steps(model, optimizer, count):
    for _ in range(count):
        optimizer.zero_grad()
        model(torch.linspace(-1, 1, 14).view(2, 7)).square().sum().backward()
        optimizer.step()


def state_of(model, optimizer, step):
    return {
        "kind": "gan",
        "step": step,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "same everywhere": torch.arange(4),
        "rates": [0.1, {"text": "x"}],
    }


def part_of_a_run(rank, size, folder, store, done):
    """One of ``size`` processes: continues from the newest checkpoint for two steps, and saves each."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size)
    end_after_gloo()
    model, optimizer = model_and_optimizer(sharded=True)
    with Checkpoints(folder, keep=9) as saving:
        if done:
            steps(model, optimizer, 1)  # so that there are moments to load into
            _, found = saving.load("gan", template=state_of(model, optimizer, done))
            assert found["step"] == done
            model.load_state_dict(found["model"])
            optimizer.load_state_dict(found["optimizer"])
        for step in (done + 1, done + 2):
            steps(model, optimizer, 1)
            saving.save(state_of(model, optimizer, step))
            before = [p.detach().to_local().clone() for p in model.parameters()]
        assert all(torch.equal(p.detach().to_local(), b) for p, b in zip(model.parameters(), before, strict=True))
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Six steps on 2, then 1, then 3 processes."""
    folder = tmp_path_factory.mktemp("sharded")
    get_context("forkserver").set_forkserver_preload(["torch.distributed.fsdp", "dmgan_fast.runs.sharded"])
    for number, size in enumerate(SIZES):
        args = (size, folder / "checkpoints", folder / f"store{number}", 2 * number)
        multiprocessing.start_processes(part_of_a_run, args, nprocs=size, start_method="forkserver")
    return folder / "checkpoints"


def test_a_run_goes_on_from_two_to_one_to_three_processes_as_one_process_would(run):
    assert steps_of(run) == [1, 2, 3, 4, 5, 6]
    model, optimizer = model_and_optimizer(sharded=False)
    for step in range(1, 7):
        steps(model, optimizer, 1)
        found = load_checkpoint(run / f"step-{step:08d}", "gan")  # whole tensors, read by this process alone
        for name, value in model.state_dict().items():
            torch.testing.assert_close(found["model"][name], value, rtol=1e-5, atol=1e-6)
        for number, moments in optimizer.state_dict()["state"].items():
            for name, value in moments.items():
                torch.testing.assert_close(found["optimizer"]["state"][number][name], value, rtol=1e-5, atol=1e-6)
        assert torch.equal(found["same everywhere"], torch.arange(4))
        assert found["rates"] == [0.1, {"text": "x"}]


def test_each_process_wrote_its_part_and_the_manifest_names_all(run):
    for step, size in zip((2, 4, 6), SIZES, strict=True):
        files = sorted(file.name for file in (run / f"step-{step:08d}").iterdir())
        assert len([name for name in files if name.endswith(".safetensors")]) == size
        named = json.loads((run / "manifest.json").read_text())["files"]
        assert sorted(name for name in named if name.startswith(f"step-{step:08d}/")) == [
            f"step-{step:08d}/{name}" for name in files
        ]


def test_a_damaged_part_is_found_and_the_one_before_is_taken(run, tmp_path, caplog):
    shutil.copytree(run, tmp_path / "copy")
    shard = next((tmp_path / "copy" / "step-00000006").glob("*.safetensors"))
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    with pytest.raises(DamagedCheckpointError, match="is not what was written"):
        load_checkpoint(shard.parent)
    file, state = Checkpoints(tmp_path / "copy").load()
    assert (file.name, state["step"]) == ("step-00000005", 5)
    assert "going on from step 5" in caplog.text
    (tmp_path / "copy" / "manifest.json").unlink()
    (tmp_path / "copy" / "step-00000005" / "rest.pt").unlink()
    with pytest.raises(CheckpointError, match=r"rest\.pt"):
        load_checkpoint(tmp_path / "copy" / "step-00000005")


def test_no_file_of_a_checkpoint_is_a_pickle_that_is_run(run, monkeypatch):
    monkeypatch.setattr("pickle.load", None)
    monkeypatch.setattr("pickle.loads", None)
    assert load_checkpoint(run / "step-00000002")["step"] == 2
    names = {file.name.rpartition(".")[2] for file in (run / "step-00000002").iterdir()}
    assert names == {"safetensors", "pt"}
