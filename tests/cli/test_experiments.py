"""``ablate`` and ``study`` on the command line."""

from dmgan_fast.experiments import ablation
from tests.cli.calls import call


def test_an_ablation_gets_what_was_asked_and_its_table_is_printed(monkeypatch, capsys, tmp_path):
    asked = {}

    def ablate(out, **options):
        asked.update(options, out=out)
        out.mkdir()
        (out / f"{ablation.NAME}.md").write_text("| a table |", encoding="utf-8")

    monkeypatch.setattr(ablation, "ablate", ablate)
    arguments = ("--variants", "dm-gan, no-text", "--seeds", 2, "--count", 50, "--set", "loop.steps=4")
    status, out, _ = call(monkeypatch, capsys, "ablate", "--out", tmp_path / "a", *arguments)
    assert (status, out) == (0, "| a table |\n")
    assert (asked["out"], asked["seeds"], asked["count"]) == (tmp_path / "a", 2, 50)
    assert (asked["variants"], asked["metrics"]) == (["dm-gan", "no-text"], ablation.MEASURES)
    assert (asked["preset"], asked["settings"]) == ("demo", ["loop.steps=4"])


def test_bad_names_are_one_paragraph_and_nothing_is_written(monkeypatch, capsys, tmp_path):
    for arguments, message in (
        (("ablate", "--variants", "dm-gun"), "dm-gun"),
        (("study", "recovry", "--runs", tmp_path / "none"), "recovry"),
    ):
        status, _, error = call(monkeypatch, capsys, *arguments, "--out", tmp_path / "out")
        assert status == 2
        assert message in error
        assert "Traceback" not in error
        assert not (tmp_path / "out").exists()
