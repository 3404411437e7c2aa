"""The page: what a reader sees, in a real browser without a screen. Skipped where there is none."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import traces

from mtcli.seeing.page import page

FLAGS = """--headless=new --no-sandbox --disable-gpu --no-first-run --disable-background-networking
    --disable-component-update --disable-sync --disable-dev-shm-usage""".split()
EVIL = "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\"> & <b>bold"

Show = Callable[..., Any]


pytestmark = pytest.mark.slow  # a browser for each process of the tests


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    reason = "selenium is not installed: pip install 'mtcli[test-browser]'"
    webdriver = pytest.importorskip("selenium.webdriver", reason=reason)
    names = "chromium", "chromium-browser", "google-chrome"
    binary = next(filter(None, map(shutil.which, names)), None)
    service = shutil.which("chromedriver")
    if binary is None or service is None:
        pytest.skip("Chromium and chromedriver are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in [*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(service))
    driver.execute_cdp_cmd("Emulation.setFocusEmulationEnabled", {"enabled": True})
    try:
        yield driver
    finally:
        driver.quit()


@pytest.fixture
def show(browser: Any, tmp_path: Path) -> Iterator[Show]:
    """Open a page of some data; in the end, no console has an error and no request left the page."""

    def open_page(data: dict[str, Any], width: int = 1280, scheme: str = "light") -> Any:
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        path = tmp_path / "page.html"
        path.write_text(page("A page", data), encoding="utf-8")
        browser.get(path.as_uri())
        return browser

    yield open_page
    assert browser.get_log("browser") == []
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0


def all_of(browser: Any, selector: str) -> list[Any]:
    return browser.find_elements("css selector", selector)


def one(browser: Any, selector: str, text: str = "") -> Any:
    """The first element with this text; what is out of sight in a window has none, so the document is asked."""
    found = [node for node in all_of(browser, selector) if text in node.get_property("textContent")]
    assert found, f"no {selector} with {text!r}"
    return found[0]


def point(browser: Any, element: Any) -> None:
    from selenium.webdriver import ActionChains

    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
    ActionChains(browser).move_to_element(element).perform()


def press(browser: Any, *keys: str) -> None:
    from selenium.webdriver import ActionChains, Keys

    names = {"right": Keys.ARROW_RIGHT, "left": Keys.ARROW_LEFT, "down": Keys.ARROW_DOWN}
    ActionChains(browser).send_keys(*(names.get(key, key) for key in keys)).perform()


def choose(browser: Any, label: str, value: str) -> None:
    one(browser, "label", label).find_element("css selector", f"option[value='{value}']").click()


def wait(browser: Any, until: Callable[[], Any]) -> Any:
    from selenium.webdriver.support.wait import WebDriverWait

    return WebDriverWait(browser, 20).until(lambda _: until())


def said(browser: Any) -> str:
    return one(browser, ".readout").text


# ------------------------------------------------------------------------------------------------------------ the file


def test_a_page_is_one_file_that_loads_nothing_and_holds_text_as_data() -> None:
    text = page(EVIL, {"traces": [traces.trace(EVIL, "x")], "loss": math.nan})
    assert re.findall(r"https?://[^\"'/]*", text) == ["http://www.w3.org"]  # SVG's name
    assert text.count("</script>") == 2 and "<img" not in text
    data = json.loads(text.split('id="data">')[1].split("</script>")[0])
    assert data["traces"][0]["source"]["text"] == EVIL and data["loss"] is None


def test_what_people_wrote_is_never_markup(show: Show) -> None:
    report = traces.report(sentences=1)
    report["runs"][0]["sentences"][0] |= {"source": EVIL, "trace": traces.trace(EVIL, EVIL)}
    report["runs"][0]["facts"].append([EVIL, EVIL])
    browser = show({"report": report})
    one(browser, "button.open").click()
    browser = show({"traces": [traces.trace(EVIL, EVIL)]})
    assert one(browser, ".source").text == EVIL
    assert browser.title == "A page" and not all_of(browser, "img, b")
    assert len(all_of(browser, "script")) == 2


def test_the_browser_refuses_what_is_not_in_the_file(show: Show) -> None:
    browser = show({"traces": []})
    blocked = browser.execute_async_script(
        "const [found, done] = [[], arguments[0]];"
        "addEventListener('securitypolicyviolation', (event) => {"
        "  found.push(event.effectiveDirective); if (found.length === 2) done(found); });"
        "new Image().src = 'http://localhost:9/x.png';"
        "const script = document.createElement('script');"
        "script.textContent = 'document.title = \"owned\"';"
        "document.body.append(script);"
    )
    assert sorted(blocked) == ["img-src", "script-src-elem"] and browser.title == "A page"
    assert len(browser.get_log("browser")) == 2  # which say so
    browser.execute_script("performance.clearResourceTimings()")


# ----------------------------------------------------------------------------------------------------------- a trace


def test_pointing_at_a_cell_tells_its_weight_in_the_chosen_layer_and_head(show: Show) -> None:
    trace = traces.trace("a red apple", "ein roter Apfel")  # each word is one token
    browser = show({"traces": [trace]})
    cell = "[data-at='1,2']"
    maps = trace["attention"]
    point(browser, one(browser, cell))  # shifted: read where the token is the input
    assert said(browser) == f"roter → apple {maps['cross.1'][1][2][2]}"
    assert "on" in one(browser, ".item", "roter").get_attribute("class")
    one(browser, "label", "shifted").click()
    for kind, layer, head in (("cross", 0, 0), ("encoder", 1, 1), ("decoder", 0, 1)):
        choose(browser, "Attention", kind)
        choose(browser, "Layer", str(layer))
        choose(browser, "Head", str(head))
        point(browser, one(browser, cell))
        assert said(browser).endswith(f" {maps[f'{kind}.{layer}'][head][1][2]}")
    assert said(browser).startswith("roter → roter")  # the decoder's input 2 is token 1
    choose(browser, "Head", "mean")
    point(browser, one(browser, cell))
    mean = sum(head[1][2] for head in maps["decoder.0"]) / 2
    assert float(said(browser).split()[-1]) == pytest.approx(mean, abs=1e-4)


def test_a_word_has_the_weights_of_all_its_tokens(show: Show) -> None:
    trace = traces.trace("yesterday evening", "gestern Abend")
    trace["shown"] = {
        "map": "cross.0",
        "head": 1,
        "shifted": False,
    }  # asked for by who made the page
    browser = show({"traces": [trace]})
    point(browser, one(browser, "[data-at='0,0']"))  # two tokens look at two tokens
    matrix = trace["attention"]["cross.0"][1]
    mean = sum(matrix[row][column] for row in (0, 1) for column in (0, 1)) / 2
    assert float(said(browser).split()[-1]) == pytest.approx(mean, abs=1e-4)
    one(browser, "label", "whole words").click()
    assert len(all_of(browser, ".cell")) == len(matrix) * len(matrix[0])


def test_arrow_keys_move_over_cells_and_words_and_arcs_follow(show: Show) -> None:
    trace = traces.trace("a red apple", "ein roter Apfel")
    browser = show({"traces": [trace]})
    browser.execute_script("document.querySelector('.heatmap').focus()")
    press(browser, "down", "right", "right", "left")
    assert said(browser).startswith("roter → red")
    browser.execute_script("document.querySelectorAll('.line')[1].querySelector('.item').focus()")
    press(browser, "right")
    row = trace["attention"]["cross.1"][1][2]
    assert said(browser).startswith("roter looks at")
    shown = [node.get_attribute("data-w") for node in all_of(browser, ".line:first-child .item")]
    assert shown == [f"{weight:.2f}" if weight >= 0.01 else None for weight in row]
    assert len(all_of(browser, ".arcs path")) == sum(weight >= 0.02 for weight in row)


def test_tokens_tell_what_else_was_likely(show: Show) -> None:
    trace = traces.trace("a red apple", "ein roter Apfel", sharp=0)
    browser = show({"traces": [trace]})
    for index, chip in enumerate(all_of(browser, ".chip")):
        point(browser, chip)
        best = trace["steps"][index]["alternatives"][0]
        share = math.exp(best["log_probability"])
        first = one(browser, ".panel .bar").text.split()
        assert first[0] == best["token"]
        assert f"rank {trace['steps'][index]['rank']}," in one(browser, ".panel").text
        assert abs(float(first[-1].strip("<>%")) - 100 * share) <= 1


def test_the_tree_shows_and_hides_what_was_pruned_and_keys_walk_it(show: Show) -> None:
    trace = traces.trace("a red apple", "ein roter Apfel")
    browser = show({"traces": [trace]})
    assert len(all_of(browser, ".node")) == len(trace["tree"])
    browser.execute_script("document.querySelector('.node').focus()")
    press(browser, "right", "right", "down")
    text = all_of(browser, ".readout")[-1].text
    assert "pruned" in text and "▁ein ▁other1" in text
    one(browser, "label", "what was pruned").click()
    kept = [node for node in trace["tree"] if node["end"] != "width"]
    assert len(all_of(browser, ".node")) == len(kept)


def test_a_trace_shows_what_it_has_and_leaves_out_the_rest(show: Show) -> None:
    trace = traces.trace("a red apple", "ein roter Apfel")
    trace |= {"attention": {}, "alignment": [], "alignment_from": None, "tree": []}
    for step in trace["steps"]:
        step |= {"rank": None, "entropy": None, "alternatives": []}
    browser = show({"traces": [trace]})
    assert "is no attention" in one(browser, ".trace").text and not all_of(
        browser, ".heatmap, .tree"
    )
    assert len(all_of(browser, ".chip")) == len(trace["steps"])


def test_scripts_flow_in_their_own_direction(show: Show) -> None:
    trace = traces.trace("ترجمت «ok» الثلاثة أمس", "she translated (3) sentences")
    browser = show({"traces": [trace]})
    places = [
        [item.rect["x"] for item in all_of(line, ".item")] for line in all_of(browser, ".line")
    ]
    assert places[0] == sorted(places[0], reverse=True) and places[1] == sorted(places[1])
    cells = [one(browser, f"[data-at='0,{column}']").rect["x"] for column in range(5)]
    assert cells == sorted(cells, reverse=True)
    browser.execute_script("document.querySelector('.heatmap').focus()")
    press(browser, "left")
    assert "«ok»" in said(browser)  # the second word of the source
    words = (
        "return [...document.querySelectorAll('.line .item')].map((item) => item.childNodes.length)"
    )
    assert set(browser.execute_script(words)) == {1}  # one run of text, whose letters are joined
    one(browser, "label", "whole words").click()
    texts = [
        node.get_property("textContent") for node in all_of(browser, ".line:first-child .item")
    ]
    assert (
        "▁الث\u200d" in texts and "\u200dلاثة" in texts
    )  # the shapes that the letters have in the word


# ---------------------------------------------------------------------------------------------------------- a report


def test_curves_tell_the_numbers_of_all_runs_at_an_update(show: Show) -> None:
    report = traces.report(runs=2)
    browser = show({"report": report})
    plot = one(browser, "figure", "Loss")
    browser.execute_script("arguments[0].focus()", plot.find_element("css selector", "svg"))
    press(browser, "left")
    text = plot.find_element("css selector", ".readout").text
    assert text.startswith("update 480")
    for run in report["runs"]:
        (line,) = (line for line in run["log"] if line["update"] == 480)
        assert f"{run['name']}, training {line['loss']:.6g}" in text
    before = [node.text for node in plot.find_elements("css selector", "svg text")]
    one(browser, "label", "logarithmic").click()
    axis = wait(browser, lambda: all_of(one(browser, "figure", "Loss"), "svg text"))
    assert before != [node.text for node in axis]


def test_sentences_are_sorted_and_opened(show: Show) -> None:
    report = traces.report(runs=2, sentences=30)
    browser = show({"report": report})
    table = one(browser, "table", "reference")
    scores = (
        "return [...arguments[0].tBodies[0].rows].map((row) => Number(row.cells[3].textContent))"
    )
    all_scores = sorted(line["score"] for line in report["runs"][0]["sentences"])
    assert len(browser.execute_script(scores, table)) == 20
    button = table.find_element("xpath", ".//button[text()='score']")
    button.click()
    assert browser.execute_script(scores, table) == all_scores[:20]
    button.click()
    one(browser, "button.more", "Show all 30").click()
    assert browser.execute_script(scores, table) == all_scores[::-1]
    table.find_element("css selector", "button.open").click()
    opened = all_of(table, ".inside .trace")
    assert len(opened) == 2  # the same sentence in both runs
    source = table.find_element("css selector", "tbody td").text
    assert opened[1].find_element("css selector", ".source").text == source


def test_the_scrubber_moves_and_plays_through_the_checkpoints(show: Show) -> None:
    report = traces.report(checkpoints=3)
    history = report["runs"][0]["history"]
    del history[0]["traces"][1]  # what a checkpoint has of other sentences keeps its place
    browser = show({"report": report})
    slider = one(browser, "input[type=range]")
    target = ".history .target"
    assert one(browser, target).text == history[2]["traces"][0]["target"]["text"]
    slider.send_keys("\ue012")  # arrow left
    assert one(browser, target).text == history[1]["traces"][0]["target"]["text"]
    assert one(browser, ".update").text == "update 200"
    choose(browser, "Attention", "encoder")  # a choice lasts from one checkpoint to the next
    one(browser, ".versions button").click()
    assert one(browser, ".history select option:checked", "source looks").is_displayed()
    source = history[0]["traces"][2]["source"]["text"]
    choose(browser, "Sentence", source)
    assert one(browser, ".history .source").text == source
    button = one(browser, ".scrubber button", "Play")
    button.click()
    assert button.text == "Pause"
    wait(browser, lambda: button.text == "Play")
    assert one(browser, ".update").text == "update 300"


def test_a_report_shows_each_part_also_as_text(show: Show) -> None:
    report = traces.report(runs=2)
    browser = show({"report": report})
    assert len(all_of(browser, "nav a")) == len(all_of(browser, "h2")) == 7
    for summary in all_of(browser, "section details > summary"):
        browser.execute_script("arguments[0].parentNode.open = true", summary)
    text = one(browser, "main").get_property("textContent")
    for number in ("30,000", "29.9", "0.013", "45.1", report["runs"][0]["scores"][0]["signature"]):
        assert number in text
    unnamed = "svg:not([aria-label]):not([aria-hidden])"
    assert not all_of(browser, unnamed)
    lengths = one(browser, "figure", "train")
    bins = report["runs"][0]["data"][0]["lengths"]["source"]
    assert f"{bins[0][1]:,}" in lengths.find_element("css selector", "td.number + td").text


def test_a_report_of_nothing_yet_is_a_page(show: Show) -> None:
    report = {"format": 1, "runs": [{"name": "runs/new", "log": []}], "significance": []}
    assert one(show({"report": report}), "h1").text == "A page"


# ------------------------------------------------------------------------------------------------------ all readers


def test_a_page_fits_a_narrow_screen(show: Show) -> None:
    words = "Donaudampfschifffahrtsgesellschaftskapitän " * 3 + "x" * 90
    browser = show({"traces": [traces.trace(words, words)]}, width=360)
    overflow = "return document.documentElement.scrollWidth - innerWidth"
    assert browser.execute_script(overflow) <= 0
    browser = show({"report": traces.report(runs=2, sentences=2)}, width=360)
    one(browser, "button.open").click()
    assert browser.execute_script(overflow) <= 0


def test_colours_follow_the_readers_scheme(show: Show) -> None:
    colours = "return [getComputedStyle(document.body).backgroundColor, getComputedStyle(document.querySelector('.cell')).fill]"
    data = {"traces": [traces.trace("a red apple", "ein roter Apfel")]}
    light, dark = (
        show(data, scheme=scheme).execute_script(colours) for scheme in ("light", "dark")
    )
    assert light[0] != dark[0] and light[1] != dark[1]
