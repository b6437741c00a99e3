"""The page in a browser: its script runs without errors, and does what it says."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from hrnet_d2.evaluation.report import write_report
from tests.evaluation.report import planted
from tests.evaluation.report.test_write import HOSTILE

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")


def browse(page: Path, folder: Path, query: str = "", size=(1240, 900)) -> str:
    """The page's HTML after its script has run; errors of the script fail the test."""
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += ["--enable-logging=stderr", "--virtual-time-budget=5000"]
    command += ["--window-size={},{}".format(*size)]
    command += [f"--user-data-dir={folder / 'profile'}", page.as_uri() + query]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert not console, console
    assert 'data-ready="yes"' in done.stdout, "the script did not come to its end"
    return done.stdout


def with_script(page: Path, script: str) -> Path:
    """A copy of the page that runs a script after its own, and shows what that returns."""
    text = page.read_text()
    text, count = re.subn(r"script-src 'sha256-[^']+'", "script-src 'unsafe-inline'", text)
    assert count == 1
    call = f"const answer = (() => {{{script}}})();"
    call += "document.body.append(Object.assign(document.createElement('pre'), "
    call += "{id: 'answer', textContent: JSON.stringify(answer)}));"
    copy = page.with_name("with_script.html")
    copy.write_text(text.replace("</body>", f"<script>{call}</script></body>"))
    return copy


def ask(page: Path, folder: Path, script: str, query: str = "", size=(1240, 900)):
    html = browse(with_script(page, script), folder, query, size)
    found = re.search(r'<pre id="answer">(.*?)</pre>', html, re.S)
    return json.loads(found[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Random data of boxes and masks, two runs."""
    folder = tmp_path_factory.mktemp("page")
    data, found = planted.random_data(seed=2, masks=True)
    (folder / "truth.json").write_text(json.dumps(data))
    (folder / "results.json").write_text(json.dumps(found))
    (folder / "other.json").write_text(json.dumps(found[::2]))
    return write_report(
        folder / "results.json",
        folder / "truth.json",
        folder / "page.html",
        against=folder / "other.json",
    )


def test_the_page_runs_and_shows_the_numbers(files, tmp_path):
    html = browse(files.html, tmp_path)
    metrics = files.summary["runs"][0]["tasks"]["bbox"]["metrics"]
    assert f"<b>{100 * metrics['AP']:.1f}</b>" in html
    for name in ("AP50", "AP75", "APs", "APm", "APl", "AR100"):
        assert re.search(rf"<dd>{100 * metrics[name]:.1f}<", html), name
    assert html.count("<figure>") == 24
    assert html.count('<svg class="chart"') == 6
    assert re.search(r'id="comparison"[^>]*>', html)[0].count("hidden") == 0


def test_tables_sort(files, tmp_path):
    """By clicking a column: numbers descending first, names ascending; undefined values last."""
    script = """
        const rows = () => [...document.querySelectorAll('#class-table tbody tr')];
        const column = (i) => rows().map((row) => row.cells[i].textContent);
        const head = () => [...document.querySelectorAll('#class-table thead th')];
        const click = (i) => head()[i].querySelector('button').click();
        const answer = {start: column(2), names: head().map((th) => th.textContent)};
        click(1); answer.objects = column(1); answer.sorted = head()[1].getAttribute('aria-sort');
        click(1); answer.ascending = column(1); answer.then = head()[1].getAttribute('aria-sort');
        click(0); answer.classes = column(0);
        click(2); answer.ap = column(2);
        return answer;
    """
    answer = ask(files.html, tmp_path, script)
    classes = files.summary["runs"][0]["tasks"]["bbox"]["classes"]
    assert answer["names"][:4] == ["class", "objects", "AP", "change"]
    objects = [entry["objects"] for entry in classes]
    assert len(set(objects)) > 3
    assert [int(v) for v in answer["objects"]] == sorted(objects, reverse=True)
    assert [int(v) for v in answer["ascending"]] == sorted(objects)
    assert (answer["sorted"], answer["then"]) == ("descending", "ascending")
    assert answer["classes"] == sorted(entry["name"] for entry in classes)
    ap = sorted(100 * e["metrics"]["AP"] for e in classes if e["metrics"]["AP"] is not None)
    assert answer["start"] == [*(f"{v:.1f}" for v in ap), "\u2013"]
    assert answer["ap"] == [*(f"{v:.1f}" for v in ap[::-1]), "\u2013"]


def test_all_columns_of_classes_are_seen(files, tmp_path):
    """With a column for the other run, in a window of 1240 pixels: none is cut off."""
    script = """
        const table = document.querySelector('#class-table .table');
        return [window.innerWidth, table.clientWidth, table.scrollWidth];
    """
    window, seen, whole = ask(files.html, tmp_path, script, size=(1240, 900))
    assert window == 1240 and seen > 1000 and whole == seen


def test_numbers_at_every_threshold_equal_the_analysis(files, tmp_path):
    """The page adds up bins; its counts, matrix and gallery agree with those of the analysis."""
    script = """
        const at = (step) => { choose({step}); return {
            kinds: kindCounts(run(), step), point: operating(run())[step],
            matrix: [...document.querySelectorAll('.matrix tbody tr')].map(
                (row) => [...row.querySelectorAll('td')].map((cell) => cell.textContent)),
            gallery: DATA.gallery.map((entry) => [entry.image, mistakeCount(entry)]),
        }; };
        return {own: at(Math.round(100 * run().threshold)), all: at(0), images: run().byImage};
    """
    for task in ("bbox", "segm"):
        answer = ask(files.html, tmp_path, script, f"?task={task}")
        written = files.summary["runs"][0]["tasks"][task]
        errors = written["errors"].values()
        assert answer["own"]["kinds"] == [error["count"] for error in errors]
        assert answer["all"]["kinds"] == [error["count_at_any_score"] for error in errors]
        assert answer["own"]["point"]["f1"] == pytest.approx(written["threshold"]["f1"])
        assert answer["own"]["point"]["recall"] == pytest.approx(written["threshold"]["recall"])
        matrix = [
            [0 if cell in ("\u00b7", "") else int(cell.replace(",", "")) for cell in row]
            for row in answer["own"]["matrix"]
        ]
        assert matrix == written["confusion"]["matrix"]
        images = answer["images"]
        # But for the image with more detections than a drawing takes.
        agreeing = [
            count == images["false"][i] + images["lost"][i] for i, count in answer["own"]["gallery"]
        ]
        assert len(agreeing) == 40 and sum(agreeing) >= 39


def test_choices_change_the_page(files, tmp_path):
    script = """
        const $$ = (query) => [...document.querySelectorAll(query)];
        const text = (id) => $(id).textContent;
        const theme = () => document.documentElement.dataset.theme;
        const set = (id, value, event = 'change') => {
            $(id).value = value;
            $(id).dispatchEvent(new Event(event));
        };
        const answer = {all: text('gallery-words'), dark: theme()};
        $('theme').click();
        answer.theme = theme();
        $$('[data-view=confident]')[0].click();
        answer.confident = text('gallery-words');
        set('kind-choice', '3');
        answer.kinds = $$('#cards figcaption small').map((e) => e.textContent.split(' ')[0]);
        $$('[data-view=missed]')[0].click();
        answer.missed = $$('#cards figure').length;
        set('class-choice', '1');
        answer.ofClass = $$('#cards figcaption').map((e) => e.childNodes[1].textContent);
        answer.other = $('gallery-class').value;
        set('threshold', 99, 'input');
        answer.words = text('threshold-words');
        $$('#cards figure button')[0].click();
        answer.open = $('viewer').open;
        answer.sides = $$('#viewer .sides svg').length;
        $$('#viewer button')[0].click();
        answer.closed = !$('viewer').open;
        return answer;
    """
    answer = ask(files.html, tmp_path, script, "?theme=dark")
    assert (answer["dark"], answer["theme"]) == ("dark", "light")
    assert answer["all"].startswith("24 of 40") or "24 of 39" in answer["all"]
    assert "highest score" in answer["confident"]
    assert answer["kinds"] and set(answer["kinds"]) == {"duplicate"}
    assert answer["missed"] > 0 and set(answer["ofClass"]) == {"class 1"}
    assert answer["other"] == "1"
    assert answer["words"].startswith("At scores from 0.99, class 1: ")
    assert answer["open"] and answer["sides"] == 3 and answer["closed"]


def test_controls_can_be_used_from_the_keyboard(files, tmp_path):
    """What reacts to a click is a button or a form control, with a name."""
    script = """
        const $$ = (query) => [...document.querySelectorAll(query)];
        const controls = $$('button, select, input');
        const named = (e) =>
            e.textContent.trim() || e.getAttribute('aria-label') || e.closest('label');
        return {
            count: controls.length,
            nameless: controls.filter((e) => !named(e)).map((e) => e.outerHTML),
            charts: $$('svg.chart').every((e) => e.getAttribute('aria-label')),
            scrolling: $$('.table, .scroll').every((e) => e.tabIndex === 0),
        };
    """
    answer = ask(files.html, tmp_path, script)
    assert answer["count"] > 40 and answer["nameless"] == []
    assert answer["charts"] and answer["scrolling"]


def test_hostile_names_are_harmless(tmp_path):
    truth, results, images = planted.write(tmp_path, names=(HOSTILE, "<b>dog</b>"))
    data = json.loads(truth.read_text())
    data["images"][1]["file_name"] = HOSTILE
    truth.write_text(json.dumps(data))
    page = write_report(results, truth, tmp_path / "p.html", images=images, title=HOSTILE).html
    script = """
        choose({step: 0});
        for (const view of Object.keys(VIEWS)) choose({view});
        openViewer(DATA.gallery[0]);
        return {
            title: document.title,
            images: document.querySelectorAll('img').length,
            bold: document.querySelectorAll('td b').length,
            scripts: document.scripts.length,
            shown: $('class-table').textContent,
        };
    """
    answer = ask(page, tmp_path, script)
    assert answer["title"].startswith("</script>") and answer["title"].endswith("report")
    assert answer["images"] == 0 == answer["bold"] and answer["scripts"] == 4
    assert HOSTILE in answer["shown"] and "<b>dog</b>" in answer["shown"]


def test_other_scripts_do_not_run(files, tmp_path):
    """The page's policy names its own script: what was added to the file is not run."""
    copy = tmp_path / "added.html"
    added = "<script>document.documentElement.dataset.taken = 'yes'</script></body>"
    copy.write_text(files.html.read_text().replace("</body>", added))
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", copy.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert 'data-ready="yes"' in done.stdout and 'data-taken="yes"' not in done.stdout


def test_bars_of_ap_start_below_each_other(tmp_path):
    """Whatever the width of the number beside them: 100.0, 0.0 and none."""
    truth, results, _ = planted.write(tmp_path)
    data = json.loads(truth.read_text())
    data["categories"].append({"id": 99, "name": "without objects"})
    truth.write_text(json.dumps(data))
    of_dogs = [a for a in data["annotations"] if a["category_id"] == planted.DOG]
    perfect = [{k: a[k] for k in ("image_id", "category_id", "bbox")} for a in of_dogs]
    results.write_text(json.dumps([r | {"score": 0.9} for r in perfect]))
    page = write_report(results, truth, tmp_path / "p.html").html
    script = """
        return [...document.querySelectorAll('#class-table tbody tr')].map((row) => [
            row.cells[2].textContent, row.querySelector('.meter').getBoundingClientRect().left]);
    """
    rows = ask(page, tmp_path, script)
    assert [text for text, _ in rows] == ["0.0", "100.0", "\u2013"]
    assert len({left for _, left in rows}) == 1


def test_no_correct_detection(tmp_path):
    truth, results, _ = planted.write(tmp_path)
    found = [r | {"bbox": [150, 1, 9, 9]} for r in planted.results()]
    results.write_text(json.dumps(found))
    page = write_report(results, truth, tmp_path / "p.html").html
    words = ask(page, tmp_path, "return document.querySelector('.hero .words').textContent;")
    assert words == "No detection is correct at an IoU of 0.5."


def test_no_detections(tmp_path):
    truth, results, images = planted.write(tmp_path)
    results.write_text("[]")
    page = write_report(results, truth, tmp_path / "p.html", images=images).html
    assert "There is no detection." in browse(page, tmp_path)
