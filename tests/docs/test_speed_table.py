"""What docs/training.md says of speed is what was measured."""

import json
from pathlib import Path

from benchmarks.training import CASES, DATA, OURS, PLAIN
from docs.generated import DOCS
from docs.speed_table import MEASURED, speed_table


def test_the_page_has_the_measured_table() -> None:
    assert speed_table() in (DOCS / "training.md").read_text(encoding="utf-8")


def test_what_is_said_of_the_table_holds() -> None:
    rows = json.loads(MEASURED.read_text())["results"]["training"]
    medians = {
        (row["network"], row["arm"]): float(row[f"× {PLAIN}, clock"].split()[0])
        for row in rows
        if row["network"] != "–"
    }
    networks = {network for network, _ in medians}
    assert len(networks) == len(CASES)
    for network in networks:
        assert medians[network, OURS] >= 0.97
        # Below a hundredth of the time of a ResNet-20.
        assert medians[network, DATA] > (100 if network.startswith("resnet20") else 5)


def test_a_figure_is_that_of_the_file(tmp_path: Path) -> None:
    row = {"network": "resnet8", "arm": OURS, "images/s, clock": "12", f"× {PLAIN}, clock": "1.234 [1.111, 1.999]"}
    plain = row | {"arm": PLAIN, f"× {PLAIN}, clock": "1.000 [1.000, 1.000]"}
    file = tmp_path / "measured.json"
    file.write_text(json.dumps({"results": {"training": [plain, row]}}))
    assert "| plain loop | 12 images/s |" in speed_table(file)
    assert "| ours | 1.23 [1.11, 2.00] |" in speed_table(file)
