"""The report in a real browser: it lays out, reports no error and asks the network for nothing."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from records import deep_record, make_record, without_winner

from damoc.report import render
from damoc.selection.record import SelectionRecord

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here (apt-get install chromium)")

_ARGUMENTS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--enable-logging=stderr",
)
_PROBE = """
<script>
addEventListener("load", () => {
  const boxes = [...document.querySelectorAll("svg[role=img]")].filter((svg) => svg.closest("details") === null);
  const sizes = boxes.map((svg) => svg.getBoundingClientRect());
  const apart = [...document.querySelectorAll(".panel")].flatMap((svg) => {
    const labels = [...svg.querySelectorAll("text")].map((label) => label.getBoundingClientRect());
    return labels.flatMap((a, i) => labels.slice(i + 1).filter((b) =>
      a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 1 && b.top < a.bottom - 1));
  });
  document.body.dataset.svgs = sizes.length;
  document.body.dataset.flat = sizes.filter((box) => box.width < 40 || box.height < 8).length;
  document.body.dataset.overlaps = apart.length;
  document.body.dataset.overflow = document.documentElement.scrollWidth - innerWidth;
  document.body.dataset.requests = performance.getEntriesByType("resource").length;
  const beyond = (parent, children) => [...document.querySelectorAll(parent)].filter((frame) => {
    const box = frame.getBoundingClientRect();
    return [...frame.querySelectorAll(children)].some((child) => {
      const inner = child.getBoundingClientRect();
      return inner.width > 0 && (inner.left < box.left - 1 || inner.right > box.right + 1);
    });
  }).length;
  document.body.dataset.spilt = beyond(".card", "text, p, h3, span, summary") +
    beyond(".outcomes, .heat-map, .perplexity, .scores", "th, td, svg") + beyond("section", ".legend > span");
  document.body.dataset.beside = [...document.querySelectorAll(".sides")].filter(
    (pair) => pair.children[0].offsetTop === pair.children[1].offsetTop).length;
  document.body.dataset.struck = [...document.querySelectorAll("del")].filter(
    (run) => getComputedStyle(run).textDecorationLine === "line-through").length;
  document.body.dataset.kept = [...document.querySelectorAll(".text p")].filter(
    (text) => getComputedStyle(text).whiteSpaceCollapse === "preserve").length;
  document.body.dataset.leftward = [...document.querySelectorAll(".text")].filter(
    (text) => getComputedStyle(text).direction === "rtl").length;
  document.body.dataset.narrow = [...document.querySelectorAll(".ranking tr")].slice(1).filter(
    (row) => [...row.children].some((cell) => cell.scrollWidth > cell.clientWidth + 1)).length;
});
</script>
"""


def _browse(page: Path, profile: Path, width: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [
        str(CHROMIUM),
        *_ARGUMENTS,
        f"--user-data-dir={profile}",
        f"--window-size={width},1000",
        *arguments,
        page.as_uri(),
    ]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=90)


@pytest.mark.parametrize("width", [1280, 375])
@pytest.mark.parametrize(
    "record", [make_record(), without_winner(make_record(False)), deep_record()], ids=["winner", "none", "deep"]
)
def test_layout(tmp_path: Path, width: int, record: SelectionRecord) -> None:
    html = render(record)
    page = tmp_path / "probed.html"
    unlocked = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", html)
    page.write_text(unlocked.replace("</body>", f"{_PROBE}</body>"), encoding="utf-8")
    done = _browse(page, tmp_path / "profile", width, "--dump-dom")
    body = re.search(r"<body([^>]*)>", done.stdout)
    assert body
    measured = {name: int(value) for name, value in re.findall(r'data-(\w+)="(-?\d+)"', body[1])}
    assert measured["svgs"] == html.count('<svg role="img"')
    assert {name: measured[name] for name in ("flat", "overlaps", "requests", "narrow", "spilt")} == dict.fromkeys(
        ("flat", "overlaps", "requests", "narrow", "spilt"), 0
    )
    samples = len(record.data_evidence.samples)
    assert measured["beside"] == (samples if width == 1280 else 0)
    assert measured["struck"] == html.count("<del>") > samples
    assert measured["kept"] == len(re.findall(r'<div class="text".*?</div>', html, re.S)) + html.count("</p><details>")
    assert measured["leftward"] == 2
    assert measured["overflow"] <= 0
    rows = re.findall(r'<tr[^>]*data-candidate="([^"]+)"', done.stdout)
    assert rows == [item.candidate_id for item in record.candidates]
    assert "CONSOLE" not in done.stderr


def test_the_page_as_it_is_delivered(tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    page.write_text(render(make_record()), encoding="utf-8")
    picture = tmp_path / "report.png"
    done = _browse(page, tmp_path / "profile", 1280, f"--screenshot={picture}")
    assert "CONSOLE" not in done.stderr
    from matplotlib.image import imread

    pixels = imread(picture)
    assert pixels.shape[:2] == (1000, 1280)
    assert pixels[..., :3].std() > 0.05


def test_the_policy_of_the_page_stops_scripts(tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    page.write_text(
        render(make_record()).replace("</body>", "<script>document.title='ran'</script></body>"), encoding="utf-8"
    )
    done = _browse(page, tmp_path / "profile", 1280, "--dump-dom")
    assert "<title>ran" not in done.stdout
    assert "Content Security Policy" in done.stderr
