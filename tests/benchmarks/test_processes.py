"""The benchmark of processes: one, several, and several that exchange nothing."""

from benchmarks import processes


def test_rows_compare_several_processes_with_one_and_with_the_machine_s_best():
    one, together, apart = processes.rows_of("tiny", 2, 1)
    assert [row["implementation"] for row in (one, together, apart)] == [
        "1 process",
        "2 processes",
        "2 processes, no exchanges",
    ]
    assert all(row["correct"] for row in (one, together, apart))
    for row in (together, apart):  # one round, so that the median is that round's
        assert row["speed_up"] == one["median_ms"] / row["median_ms"]
    assert 0 < together["exchange_ms"] < together["median_ms"]
    assert "exchange_ms" not in apart
