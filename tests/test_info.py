"""What is known of the machine."""

from dmgan_fast import info


def test_info_tells_of_a_tool_that_fails(monkeypatch, tmp_path):
    tool = tmp_path / "c++"
    tool.write_text("#!/no/such/interpreter\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert info._first_line("c++", "--version").startswith(f"{tool} fails: ")
