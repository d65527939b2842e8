"""Files are found by the names that lists hold."""

import pytest

from dmgan_fast.data.names import Files, files_below, is_outside, without_suffix


@pytest.fixture
def folder(tmp_path):
    for name in ("a/Bird.JPG", "a/.hidden.jpg", "b/bird.jpg", "b/cat.v2.png", "__MACOSX/a.jpg", "note.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize("name", ["a/Bird.JPG", "a/bird", "A/BIRD.jpeg", "a\\Bird", "./a/Bird.png"])
def test_slashes_case_and_extensions_do_not_matter(folder, name):
    assert Files(folder).find(name) == (folder / "a/Bird.JPG", "")


def test_a_name_that_several_files_fit_is_not_guessed(folder):
    found, why = Files(folder, anywhere=True).find("bird")
    assert found is None
    assert why == "2 files fit 'bird': a/Bird.JPG, b/bird.jpg"


def test_another_extension_stands_for_a_file_only_if_asked_and_is_hinted_at(folder):
    found, why = Files(folder, by_stem=False).find("b/cat.v2.jpg")
    assert found is None
    assert why == f"not found: {folder / 'b/cat.v2.jpg'} (there is b/cat.v2.png)"


@pytest.mark.parametrize("name", ["/etc/a.jpg", "../a.jpg", "..", "C:/a.jpg", "a/../../b.jpg", "\\a.jpg"])
def test_names_outside_the_folder_are_refused(folder, name):
    assert is_outside(name)
    found, why = Files(folder).find(name)
    assert found is None
    assert "is outside the folder" in why


def test_only_known_extensions_are_taken_off():
    assert [without_suffix(name) for name in ("a/b.JPG", "a/b.v2", "b")] == ["a/b", "a/b.v2", "b"]


def test_hidden_files_and_those_of_archives_are_not_listed_and_loops_end(folder):
    (folder / "b" / "again").symlink_to(folder)
    assert list(files_below(folder, (".jpg", ".png"))) == ["a/Bird.JPG", "b/bird.jpg", "b/cat.v2.png"]
