"""The page in a headless Chromium: what a reader sees, clicks and types."""

import json
import re

import browser
import pytest
import torch
from large_report import large_report
from playwright.sync_api import expect
from test_page import HOSTILE

from torch2trt_onnx import convert, page
from torch2trt_onnx.page import words

pytestmark = pytest.mark.skipif(bool(browser.missing()), reason=browser.missing() or "there is one")

SECOND = "/second/Conv"
TONES = ("fp32", "fp16", "bf16", "int8", "fp8", "int4")
THEMES = ("light", "dark")
ANSWER = """async (word) => {
    const field = document.querySelector("#search");
    field.value = word;
    field.dispatchEvent(new Event("input"));
    await new Promise(requestAnimationFrame);
    return [document.querySelector("#found").textContent, performance.now()];
}"""


class Branches(torch.nn.Module):
    """A convolution in fp16 before an if, in whose branches are layers."""

    def __init__(self):
        super().__init__()
        self.first = torch.nn.Linear(8, 8).half()
        self.yes, self.no = torch.nn.Linear(8, 8), torch.nn.Linear(8, 8)

    def forward(self, x):
        x = self.first(x.half()).float()
        if x.sum() > 0:  # noqa: SIM108 - as TorchScript has it
            y = self.yes(x)
        else:
            y = self.no(x)
        return y.relu()


@pytest.fixture(scope="module")
def chromium():
    with browser.launched() as found:
        yield found


@pytest.fixture(scope="module")
def report():
    from conftest import SmallNet

    torch.manual_seed(0)
    return convert(SmallNet().eval(), [torch.randn(1, 3, 8, 8)], {"fp32", "fp16"}).report


@pytest.fixture(scope="module")
def folder(tmp_path_factory, report):
    folder = tmp_path_factory.mktemp("pages")
    page.write(folder / "small.html", page.render(report))
    page.write(folder / "large.html", page.render(large_report(10_000)))
    return folder


@pytest.fixture
def visit(chromium, folder):
    """Opens a page; that nothing goes wrong in it, and that it asks for nothing, is part of each test."""
    contexts, wrong = [], []

    def go(name="small.html", *, width=1280, theme="light", fragment="", **options):
        context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=theme, **options)
        contexts.append(context)
        view = context.new_page()
        view.on("console", lambda message: wrong.append(message.text))
        view.on("pageerror", lambda error: wrong.append(error.stack))
        view.on("dialog", lambda dialog: wrong.append(dialog.message))
        view.on("request", lambda request: wrong.append(request.url) if request.resource_type != "document" else None)
        view.goto(f"{(folder / name).as_uri()}{fragment}")
        return view

    yield go
    for context in contexts:
        context.close()
    assert wrong == []


def planned(report):
    return {node["name"]: node for node in report.to_json()["nodes"]}


def luminance(color):
    parts = [int(part) / 255 for part in re.findall(r"\d+", color)[:3]]
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one, other):
    """As WCAG 2 has it."""
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def test_the_page_opens_from_disk_without_an_error_or_a_request(visit):
    view = visit()
    assert view.title() == "SmallNet: precision report"
    assert view.locator("h1").inner_text() == "SmallNet"
    view.wait_for_timeout(200)  # what comes late is wrong as well


def test_search_finds_nodes_by_name_module_operator_and_reason(visit, report):
    view = visit()
    for word, node in (
        ("second/conv", SECOND),
        ("second.weight", SECOND),
        ("gemm", "/head/Gemm"),
        ("mean", "/ReduceMean"),
    ):
        view.fill("#search", word)
        assert node in view.locator(".body .row").evaluate_all("rows => rows.map(row => row.dataset.name)")
    view.fill("#search", "conv second")
    assert view.locator("#found").inner_text() == f"1 of {len(report.nodes)} nodes"
    view.fill("#search", "no such node")
    assert view.locator(".body").inner_text() == "No node has all of this."


def test_a_click_on_a_row_shows_the_story_of_the_node(visit, report):
    view = visit()
    view.click(f".row[data-name='{SECOND}']")
    expect(view.locator("#story-title")).to_have_text(SECOND)
    story = view.locator("#story").inner_text()
    node = planned(report)[SECOND]
    for text in (
        SECOND,
        node["module"],
        node["reason"],
        node["source"],
        node["evidence"],
        node["verdict"],
        *node["layers"],
    ):
        assert text in story
    weight = next(w for w in report.weights if w.name == "second.weight")
    assert f"{weight.name} {words.shape(weight.dims)}, {words.size(weight.bytes)}" in story
    assert "Cast fp32 → fp16" in story
    assert view.evaluate("location.hash") == f"#node={SECOND.replace('/', '%2F')}"


def test_the_address_names_the_node_and_going_back_closes_its_story(visit):
    view = visit(fragment="#node=%2Fsecond%2FConv")
    assert view.locator("#story-title").inner_text() == SECOND
    view.locator(".graph a:not(.middle)").first.click()
    expect(view.locator("#story-title")).not_to_have_text(SECOND)
    view.go_back()
    expect(view.locator("#story-title")).to_have_text(SECOND)
    view.click("#story [aria-label=Close]")
    assert not view.locator("#story").is_visible()
    assert view.evaluate("location.hash") == ""


@pytest.mark.parametrize("theme", THEMES)
def test_the_colours_of_the_picture_are_those_of_the_precisions_in_the_report(visit, report, theme):
    view = visit(theme=theme)
    view.click("input[value=bytes] + span")
    tiles = view.locator(".tile[data-node]").evaluate_all(
        "tiles => tiles.map(t => [t.dataset.node, t.dataset.precision, getComputedStyle(t.firstChild).fill])"
    )
    nodes = planned(report)
    assert {name for name, _, _ in tiles} == {name for name, node in nodes.items() if node["bytes"]}
    legend = dict(
        view.locator("#summary .swatch").evaluate_all(
            "all => all.map(s => [s.dataset.precision, getComputedStyle(s).backgroundColor])"
        )
    )
    assert set(legend) == {"fp32", "fp16"} and len(set(legend.values())) == 2
    for name, precision, fill in tiles:
        assert precision == (nodes[name]["precision"] or "none")
        assert fill == legend[precision]


def test_the_area_of_a_tile_is_its_work(visit, report):
    view = visit()
    area = dict(
        view.locator(".tile[data-node]").evaluate_all(
            "all => all.map(t => [t.dataset.node, t.firstChild.width.baseVal.value * t.firstChild.height.baseVal.value])"
        )
    )
    work = {name: node["work"] for name, node in planned(report).items()}
    total, whole = sum(area.values()), sum(work.values())
    work = {name: part for name, part in work.items() if part / whole > 0.01}
    assert area.keys() == work.keys()  # what is less than a dot is not drawn
    assert {n: a / total for n, a in area.items()} == pytest.approx({n: w / whole for n, w in work.items()}, abs=0.02)


@pytest.mark.parametrize("theme", THEMES)
def test_text_has_contrast_enough_on_each_tone(visit, theme):
    view = visit(theme=theme, fragment=f"#node={SECOND}")
    colour = """([name, other]) => {
        const probe = document.body.appendChild(document.createElement("i"));
        const read = (name) => { probe.style.color = `var(--${name})`; return getComputedStyle(probe).color; };
        const found = [read(name), read(other)];
        probe.remove();
        return found;
    }"""
    pairs = [("on-tone", tone) for tone in TONES] + [
        (ink, "surface") for ink in ("ink", "muted", "accent", "good", "bad", "unknown")
    ]
    pairs += [("muted", "page"), ("muted", "soft"), ("on-accent", "accent")]
    for pair in pairs:
        assert contrast(*view.evaluate(colour, pair)) >= 4.5, pair
    for tone in TONES:
        assert contrast(*view.evaluate(colour, (tone, "surface"))) >= 3, tone


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("fragment", ["", f"#node={SECOND}"])
def test_the_page_breaks_no_rule_of_accessible_pages(visit, width, fragment):
    """As axe-core knows them; it takes the addresses of nodes for places on the page (skip-link)."""
    view = visit(width=width, fragment=fragment, bypass_csp=True)
    view.locator("details").evaluate_all("all => all.forEach(one => { one.open = true; })")
    view.add_script_tag(content=browser.RULES.read_text())
    found = view.evaluate("axe.run(document, { rules: { 'skip-link': { enabled: false } } })")
    assert [(rule["id"], [node["html"] for node in rule["nodes"]]) for rule in found["violations"]] == []
    assert len(found["passes"]) > 20


def test_light_and_dark_follow_the_system_until_the_reader_chooses(visit):
    def paper(view):
        return luminance(view.evaluate("getComputedStyle(document.body).backgroundColor"))

    assert paper(visit(theme="dark")) < 0.05
    view = visit(theme="light")
    assert paper(view) > 0.8
    view.click("#theme")
    assert paper(view) < 0.05
    view.reload()
    assert paper(view) < 0.05
    view.click("#theme")
    assert paper(view) > 0.8


class TestKeyboard:
    """Everything without a mouse."""

    def test_slash_searches_arrows_choose_enter_opens_and_escape_comes_back(self, visit, report):
        view = visit()
        view.keyboard.press("/")
        view.keyboard.type("conv")
        assert view.locator("#search").input_value() == "conv"
        for _ in range(30):
            view.keyboard.press("Tab")
            if view.evaluate("document.activeElement.id") == "grid":
                break
        view.keyboard.press("ArrowDown")
        active = view.evaluate(
            "document.getElementById(document.activeElement.getAttribute('aria-activedescendant')).dataset.name"
        )
        view.keyboard.press("Enter")
        expect(view.locator("#story-title")).to_have_text(active)
        assert view.evaluate("document.activeElement.id") == "story-title"
        view.keyboard.press("Escape")
        assert not view.locator("#story").is_visible()
        assert view.evaluate("document.activeElement.id") == "grid"

    def test_the_tree_opens_closes_and_leads_to_each_node_with_work(self, visit, report):
        view = visit()
        view.focus("#tree")
        seen = set()
        for _ in range(3 * len(report.nodes)):
            view.keyboard.press("ArrowRight")
            seen.add(view.locator(".branch.active .label").inner_text())
            view.keyboard.press("ArrowDown")
        assert {"first", "second", "head", "Conv", "Gemm"} <= seen
        view.keyboard.press("Home")
        view.keyboard.press("ArrowLeft")
        assert view.locator(".branch").count() == 1

    def test_a_module_chosen_in_the_tree_is_the_picture(self, visit):
        view = visit()
        view.focus("#tree")
        view.keyboard.press("ArrowDown")
        module = view.locator(".branch.active .label").inner_text()
        view.keyboard.press("Enter")
        assert view.locator("#crumbs [aria-current]").inner_text() == module
        view.click("#crumbs .aside")
        assert view.evaluate("document.activeElement.id") == "grid"
        names = view.locator(".body .row").evaluate_all("rows => rows.map(row => row.dataset.name)")
        assert names and all(name.startswith(f"/{module}/") for name in names)

    def test_the_graph_can_be_walked(self, visit):
        view = visit(fragment=f"#node={SECOND}")
        view.locator(".graph a:not(.middle)").first.focus()
        name = view.evaluate("decodeURIComponent(document.activeElement.getAttribute('href').slice('#node='.length))")
        view.keyboard.press("Enter")
        expect(view.locator("#story-title")).to_have_text(name)


def test_the_graph_has_the_neighbours_of_the_node_and_marks_casts(visit, report):
    view = visit(fragment=f"#node={SECOND}")
    view.click(".around label:has(input[value='1']) span")
    nodes = planned(report)
    node = nodes[SECOND]
    near = {
        n["name"]
        for n in nodes.values()
        if set(n["tensors"]) & set(node["inputs"]) or set(n["inputs"]) & set(node["tensors"])
    }
    read = "all => all.map(a => decodeURIComponent(a.getAttribute('href').slice('#node='.length)))"
    assert set(view.locator(".graph a").evaluate_all(read)) == {SECOND, *near}
    casts = {name for name in near if nodes[name]["op"] == "Cast"}
    assert casts and set(view.locator(".graph a.cast").evaluate_all(read)) == casts


def test_what_the_filters_leave_is_told_and_shown(visit, report):
    view = visit()
    count = sum(node["precision"] == "fp16" for node in planned(report).values())
    view.click(".filter[data-filter=fp16]")
    assert view.locator("#found").inner_text() == f"{count} of {len(report.nodes)} nodes"
    assert view.locator("#found").get_attribute("aria-live") == "polite"
    assert view.locator(".filter[data-filter=fp16]").get_attribute("aria-pressed") == "true"
    view.click(".filter[data-filter=fp16]")
    cell = view.locator(".matrix .cell").first
    cell.click()
    assert view.locator("#found").inner_text().startswith(f"{cell.inner_text()} of ")


def test_a_click_on_a_head_sorts_the_table(visit, report):
    view = visit()
    view.click("[data-sort=work]")
    works = sorted((node["work"] for node in planned(report).values()), reverse=True)
    first = view.locator(".body .row").first.get_attribute("data-name")
    assert planned(report)[first]["work"] == works[0]
    assert view.locator("[role=columnheader][aria-sort=descending]").inner_text().startswith("work")


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("fragment", ["", f"#node={SECOND}"])
def test_a_narrow_screen_needs_no_scrolling_sideways(visit, theme, fragment):
    view = visit(width=400, theme=theme, fragment=fragment)
    view.locator("details").evaluate_all("all => all.forEach(one => { one.open = true; })")
    view.wait_for_timeout(100)
    assert view.evaluate("document.documentElement.scrollWidth") <= 400
    assert view.locator("#story").evaluate("story => story.scrollWidth <= story.clientWidth + 1")


def test_searching_moves_nothing_on_the_page(visit):
    view = visit()
    places = "['grid', 'proof', 'asked'].map(id => document.getElementById(id).offsetTop)"
    before = view.evaluate(places)
    view.fill("#search", "no such node")
    assert view.evaluate(places) == before


class TestTenThousandNodes:
    """Size is held in test_page.py; tools/bench/page.py prints the numbers."""

    def test_the_table_answers_within_two_seconds_of_opening(self, visit):
        found, answered = visit("large.html").evaluate(ANSWER, "matmul_72")
        assert found == "32 of 10,000 nodes"
        assert answered < 2000 * 3  # three times the goal: the machines of tests are slow, and busy

    def test_scrolling_makes_the_rows_in_sight_and_no_others(self, visit):
        view = visit("large.html")
        view.locator("#grid").evaluate("grid => { grid.scrollTop = 170000; }")
        expect(view.locator(".body .row").first).to_have_attribute("aria-rowindex", re.compile(r"49\d\d"))
        assert view.locator(".body .row").count() < 60
        assert view.evaluate("document.getElementsByTagName('*').length") < 6000

    def test_long_lists_of_changes_are_cut_until_they_are_asked_for(self, visit):
        view = visit("large.html")
        view.click("[data-pass=Retype] summary")
        expect(view.locator("[data-pass=Retype] li")).to_have_count(40)
        view.click("[data-pass=Retype] .more")
        expect(view.locator("[data-pass=Retype] li")).to_have_count(10_000)

    def test_every_node_is_in_the_picture_or_in_a_tile_of_many(self, visit):
        view = visit("large.html")
        assert 0 < view.locator(".tile").count() <= 1000
        view.click("input[value=bytes] + span")
        assert 0 < view.locator(".tile").count() <= 1000


def test_names_that_look_like_markup_are_shown_as_names(visit, folder, report):
    from dataclasses import replace

    nodes = [replace(node, plan=replace(node.plan, name=f"{HOSTILE}{at}")) for at, node in enumerate(report.nodes)]
    page.write(folder / "hostile.html", page.render(replace(report, source=HOSTILE, nodes=nodes, warnings=[HOSTILE])))
    view = visit("hostile.html")
    view.locator(".body .row").first.click()
    view.locator("#story").wait_for()
    assert view.locator("#story-title").text_content() == f"{HOSTILE}0"
    view.reload()
    assert view.locator("#story-title").text_content() == f"{HOSTILE}0"


def test_nodes_in_bodies_lead_to_the_node_around_them(visit, folder):
    model = torch.jit.script(Branches().eval())
    report = convert(model, [torch.randn(2, 8)], backend="none").report
    inside = [node["name"] for node in report.to_json()["nodes"] if node["scope"]]
    assert inside
    page.write(folder / "branches.html", page.render(report))
    view = visit("branches.html")
    view.locator(f".row[data-name='{inside[0]}']").click()
    view.locator("#story .eyebrow a").click()
    expect(view.locator("#story .eyebrow")).to_have_text("If")


def test_a_graph_without_nodes_has_a_page_too(visit, folder):
    page.write(folder / "empty.html", page.render(large_report(0)))
    view = visit("empty.html")
    assert view.locator("#found").inner_text() == "0 nodes"
    assert view.locator(".lead").inner_text() == "Large has no node that computes with floats."


def test_the_page_says_the_same_without_scripts(visit, report):
    view = visit(java_script_enabled=False)
    assert "runs" in view.locator(".lead").inner_text()
    assert view.locator("#numbers").is_visible()
    assert view.locator("noscript").count() == 1


def test_the_data_of_the_page_is_what_the_page_works_on(visit, report):
    view = visit()
    shown = view.locator(".body .row").evaluate_all("rows => rows.map(row => row.dataset.name)")
    assert shown == [node["name"] for node in json.loads(json.dumps(report.to_json()))["nodes"]][: len(shown)]
