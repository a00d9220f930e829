"""The page of a batch: what is in the file, and what a reader sees of it in a headless Chromium."""

import json
import re

import browser
import pytest
from playwright.sync_api import expect
from test_page import HOSTILE, Tags

from torch2trt_onnx.batch import overview
from torch2trt_onnx.batch.result import Result, Summary
from torch2trt_onnx.batch.store import Store

needs_browser = pytest.mark.skipif(bool(browser.missing()), reason=browser.missing() or "there is one")


def good(name, at, **changes):
    numbers = {
        "shares": {"fp16": 1 - at / 10, "fp32": at / 10},
        "error": at / 1000,
        "agrees": at < 3,
        "engine": 10**6 * at,
        "verdicts": {"honoured": 5},
        "unproven": at % 2,
    }
    given = {"seconds": 10.0 * at, "peak": 10**8 * at, "folder": f"objects/{at}", "numbers": numbers, **changes}
    return Result(name, str(at), **{"status": "done", **given})


RESULTS = [
    good("net10", 3),
    good("net9", 1),
    Result(
        "lost", "7", "failed", "there is no such file", "there is no such file\n  where: /models/lost.onnx", "load", 0.4
    ),
    good("kept", 2, status="reused", attempts=0),
    Result(
        "greedy", "8", "memory", "it held more than 3.00 GiB", "it held more than 3.00 GiB", "start", 19.0, 10**9, 3
    ),
    Result("never", "", "cancelled", "the run was stopped", is_final=False),
]
SUMMARY = Summary(RESULTS, 200.0)


@pytest.fixture
def out(tmp_path):
    """A folder of results, where each has a report and a log."""
    for result in RESULTS:
        if result.folder:
            (tmp_path / result.folder).mkdir(parents=True)
            (tmp_path / result.folder / "report.html").write_text(f"<title>{result.job}</title>")
            (tmp_path / result.folder / "log.txt").write_text("what it printed")
    return tmp_path


def test_it_links_the_report_of_each_job_that_has_one(out):
    tags = Tags(overview.render(SUMMARY, "jobs.toml", out))
    links = [attributes["href"] for tag, attributes in tags.tags if tag == "a"]
    assert [link for link in links if link.endswith("report.html")] == [f"objects/{n}/report.html" for n in (3, 1, 2)]
    assert all((out / link).is_file() for link in links if not link.startswith("#"))


def test_it_says_what_went_wrong_and_where(out):
    text = overview.render(SUMMARY, "jobs.toml", out)
    assert "3 of 6 jobs went well. It took 3 min 20 s." in text
    assert "there is no such file" in text and "where: /models/lost.onnx" in text
    assert "while at load" in text
    assert "It was stopped before its end" not in text
    assert "It was stopped before its end" in overview.render(
        Summary(RESULTS, 200.0, interrupted=True), "jobs.toml", out
    )


@pytest.mark.parametrize(
    ("results", "words"),
    [(RESULTS[:2], "All 2 jobs went well."), ([RESULTS[2]], "None of 1 job went well."), ([], "There is no job.")],
)
def test_all_none_and_nothing_are_said_as_such(results, words, out):
    assert words in overview.render(Summary(results, 1.0), "jobs.toml", out)


def test_names_and_reasons_are_text_and_nothing_else(out):
    bad = Result(HOSTILE, "9", "failed", HOSTILE, f"{HOSTILE}\n{HOSTILE}", HOSTILE)
    found = Tags(overview.render(Summary([good(HOSTILE, 1), bad], 1.0), HOSTILE, out))
    assert len([tag for tag, _ in found.tags if tag == "script"]) == 2
    assert [dict(attributes)["data-name"] for tag, attributes in found.tags if tag == "tr" and attributes] == [
        HOSTILE
    ] * 2


def test_two_thousand_jobs_are_less_than_3_megabytes(out):
    many = [good(f"net{at}", 1) for at in range(2000)]
    assert len(overview.render(Summary(many, 1.0), "jobs.toml", out)) < 3e6


def test_it_takes_the_place_of_an_older_one_whole(out):
    with Store(out) as store:
        for summary in (Summary(RESULTS[:1], 1.0), SUMMARY):
            store.publish(overview.NAME, overview.render(summary, "jobs.toml", out))
    assert (out / overview.NAME).read_text() == overview.render(SUMMARY, "jobs.toml", out)
    assert [p.name for p in out.iterdir() if p.name.startswith(".")] == [".state"]
    assert list((out / ".state" / "runs").iterdir()) == []


@pytest.fixture(scope="module")
def chromium():
    with browser.launched() as found:
        yield found


@pytest.fixture
def visit(chromium, out):
    """Opens the page; that nothing goes wrong in it, and that it asks for nothing, is part of each test."""
    (out / overview.NAME).write_text(overview.render(SUMMARY, "jobs.toml", out))
    contexts, wrong = [], []

    def go(width=1280, theme="light", **options):
        context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=theme, **options)
        contexts.append(context)
        view = context.new_page()
        view.on("console", lambda message: wrong.append(message.text))
        view.on("pageerror", lambda error: wrong.append(error.stack))
        view.on("request", lambda request: wrong.append(request.url) if request.resource_type != "document" else None)
        view.goto((out / overview.NAME).as_uri())
        return view

    yield go
    for context in contexts:
        context.close()
    assert wrong == []


def names(view):
    return view.locator(".jobs tbody tr:not([hidden])").evaluate_all("rows => rows.map(row => row.dataset.name)")


@needs_browser
class TestReader:
    """What a reader sees, clicks and types."""

    def test_a_click_on_a_status_shows_its_jobs_and_a_second_one_all(self, visit):
        view = visit()
        view.click(".filter[data-status=failed]")
        assert names(view) == ["lost"]
        expect(view.locator("#found")).to_have_text("1 of 6 jobs")
        view.click(".filter[data-status=memory]")
        assert names(view) == ["lost", "greedy"]
        view.click(".filter[data-status=failed]")
        view.click(".filter[data-status=memory]")
        assert len(names(view)) == 6

    def test_words_are_searched_in_names_and_reasons(self, visit):
        view = visit()
        view.keyboard.press("/")
        view.keyboard.type("gib more")
        assert names(view) == ["greedy"]
        view.fill("#search", "net")
        assert names(view) == ["net10", "net9"]
        view.fill("#search", "no such job")
        expect(view.locator("#none")).to_be_visible()

    def test_heads_sort_with_what_is_missing_last_and_the_third_click_undoes_it(self, visit):
        view = visit()
        head = view.locator("th[data-key=error] button")
        head.click()
        assert names(view)[:3] == ["net10", "kept", "net9"]
        assert view.locator("th[data-key=error]").get_attribute("aria-sort") == "descending"
        head.click()
        assert names(view) == ["net9", "kept", "net10", "lost", "greedy", "never"]
        head.click()
        assert names(view) == [result.job for result in RESULTS]
        view.click("th[data-key=name] button")
        assert names(view) == ["greedy", "kept", "lost", "net9", "net10", "never"]

    def test_a_name_leads_to_the_report(self, visit):
        view = visit()
        view.click("text=net9")
        assert view.title() == "net9"

    @pytest.mark.parametrize("width", [1280, 400])
    @pytest.mark.parametrize("theme", ["light", "dark"])
    def test_nothing_is_wider_than_the_screen_and_it_keeps_the_rules_of_accessible_pages(self, width, theme, visit):
        view = visit(width, theme, bypass_csp=True)
        assert view.evaluate("document.documentElement.scrollWidth") == width
        view.evaluate(browser.RULES.read_text())
        found = view.evaluate("axe.run()")
        assert json.dumps([[one["id"], [n["target"] for n in one["nodes"]]] for one in found["violations"]]) == "[]"

    def test_the_theme_can_be_chosen(self, visit):
        view = visit()
        before = view.evaluate("getComputedStyle(document.body).backgroundColor")
        view.click("#theme")
        assert view.evaluate("getComputedStyle(document.body).backgroundColor") != before

    def test_without_scripts_it_is_a_table_all_the_same(self, visit):
        view = visit(java_script_enabled=False)
        assert view.locator(".jobs tbody tr").count() == 6
        assert not view.locator(".controls").is_visible()
        assert re.search(r"lost\s+failed", view.locator("tr", has_text="lost").inner_text())
