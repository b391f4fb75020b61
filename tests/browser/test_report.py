"""Reports in a real browser: nothing is fetched, tables work, nothing overflows, all can read it."""

import pytest
from axe_playwright_python.sync_playwright import Axe

from corsa import write_bench_report, write_report
from report_stores import (
    HOSTILE,
    answered,
    bench,
    commit,
    fact,
    probed,
    store,
    two_rounds,
)

KINDS = ("store", "hostile", "empty", "bench", "long")
FACTS = "table[aria-label=Facts]"
HIDDEN = ".scroll, .visually-hidden, .skip, .long .said"


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """One report of every kind."""
    folder = tmp_path_factory.mktemp("reports")
    two_rounds(folder / "store")
    two_rounds(folder / "hostile", HOSTILE[:4])
    store(folder / "empty")
    bench(folder / "bench", ("corsa", *HOSTILE[2:4], "x" * 200))
    made = store(folder / "long")
    for number in range(14):
        edits = [
            fact(
                f"f{number}-{n}", round=number + 1, prompt=f"{number}: {text}", new=text, old="old"
            )
            for n, text in enumerate(HOSTILE[4:])
        ]
        earlier = [p for r in made.lineage(made.head) for p in r.edits()]
        scores = [answered(p, p.edit.target_new) for p in (*edits, *earlier)]
        scores += [probed(p, "locality", p.edit.prompt, "new", leak=True) for p in edits]
        commit(made, edits, scores)
    for kind in KINDS:
        write = write_bench_report if kind == "bench" else write_report
        write(folder / kind, folder / f"{kind}.html")
    return folder


@pytest.fixture(params=KINDS)
def report(request, reports):
    return reports / f"{request.param}.html"


@pytest.fixture
def of_store(reports):
    return reports / "store.html"


def unfold(page):
    page.get_by_role("button", name="Unfold everything").click()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1600])
def test_nothing_overflows(visit, report, width, scheme):
    page = visit(report, width=width, scheme=scheme)
    for _ in range(2):
        assert page.evaluate("document.documentElement.scrollWidth") == width
        wide = page.evaluate(
            """hidden => [...document.querySelectorAll("body *")]
                .filter(e => !e.closest(hidden) && e.getBoundingClientRect().right > innerWidth + 1)
                .map(e => e.outerHTML.slice(0, 200))""",
            HIDDEN,
        )
        assert not wide
        if page.get_by_role("button", name="Unfold everything").is_visible():
            unfold(page)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("kind", ["store", "hostile", "empty", "bench"])
def test_axe_finds_nothing_in_anybodys_way(visit, reports, kind, scheme):
    page = visit(reports / f"{kind}.html", scheme=scheme)
    unfold(page)
    found = Axe().run(page)
    assert not found.response["violations"], found.generate_report()


def test_untrusted_text_is_text(visit, reports):
    page = visit(reports / "hostile.html")
    unfold(page)
    assert page.title() == "hostile: corsa report"
    assert page.locator("script").count() == 1
    assert page.locator("img, iframe, main style").count() == 0
    for text in HOSTILE[:3]:
        assert page.get_by_text(f"Prompt {HOSTILE.index(text)}: {text}").first.is_visible()


def test_long_texts_and_controls_are_folded_and_named(visit, reports):
    page = visit(reports / "long.html")
    unfold(page)
    assert page.get_by_text("x" * 5000, exact=False).first.is_visible()
    shown = page.locator("main").inner_text()
    assert "⟨U+202E⟩txet⟨U+202C⟩" in shown
    assert "⟨U+0000⟩" in shown
    assert "\u202e" not in shown
    assert "שלום مرحبا" in shown


def test_every_figure_has_words_for_those_who_cannot_see_it(visit, report):
    page = visit(report)
    drawings = page.locator("svg")
    for place in range(drawings.count()):
        around = drawings.nth(place).locator("xpath=..")
        assert around.get_attribute("role") == "img"
        assert len(around.get_attribute("aria-label")) > 20
    for place in range(page.locator("figure").count()):
        figure = page.locator("figure").nth(place)
        assert figure.locator("figcaption").inner_text().strip()
        assert figure.locator("[role=img], table").count() == 1


def column(page, label, number):
    rows = page.locator(f"table[aria-label='{label}'] > tbody:visible > tr:first-child")
    return [row.locator("td, th").nth(number).inner_text().strip() for row in rows.all()]


def test_tables_sort_by_mouse_and_by_keyboard(visit, of_store):
    page = visit(of_store)
    table = page.get_by_role("table", name="Facts", exact=True)
    head = table.get_by_role("columnheader", name="State")
    before = column(page, "Facts", 5)
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    states = [text.split()[0] for text in column(page, "Facts", 5)]
    assert states == sorted(states)
    assert states != [text.split()[0] for text in before]
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "descending"
    rounds = table.get_by_role("columnheader", name="Round")
    rounds.get_by_role("button").click()
    assert head.get_attribute("aria-sort") is None
    assert column(page, "Facts", 0) == ["1", "1", "1", "2", "2"]


def test_numbers_sort_as_numbers_and_what_is_behind_a_row_stays_with_it(visit, reports):
    page = visit(reports / "long.html")
    table = page.get_by_role("table", name="Facts", exact=True)
    head = table.get_by_role("columnheader", name="Round").get_by_role("button")
    head.click()
    head.click()
    rounds = [int(text) for text in column(page, "Facts", 0)]
    assert rounds == sorted(rounds, reverse=True)
    assert rounds[0] == 14
    assert page.locator(f"{FACTS} > tbody").first.locator("> tr.behind").count() == 1


def test_tables_filter_by_text_and_by_state(visit, of_store):
    page = visit(of_store)
    page.get_by_label("Filter facts").fill("PROMPT third")
    assert column(page, "Facts", 1) == ["Prompt 2: third"]
    tools = page.locator("#facts form.tools output")
    assert tools.inner_text() == "1 of 5 rows"
    page.get_by_label("Filter facts").fill("")
    page.get_by_label("Show of facts").select_option("replaced")
    assert column(page, "Facts", 1) == ["Prompt 1: second"]
    page.get_by_label("Show of facts").select_option("")
    assert tools.inner_text() == "5 rows"


def test_everything_is_reached_and_unfolded_by_keyboard(visit, of_store):
    page = visit(of_store)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the numbers"
    summary = page.locator(".behind summary").first
    summary.focus()
    page.keyboard.press("Enter")
    assert page.locator(".behind details").first.get_attribute("open") is not None
    assert page.get_by_text("asked after round 1").first.is_visible()


def test_it_reads_without_its_script(visit, of_store):
    page = visit(of_store, java_script_enabled=False)
    assert page.locator(f"{FACTS} > tbody").count() == 5
    assert not page.get_by_label("Filter facts").is_visible()
    assert not page.locator("#unfold").is_visible()
    page.locator(".behind summary").first.click()
    assert page.get_by_text("Answered before its round").first.is_visible()


def luminance(page, selector, name):
    colour = page.locator(selector).first.evaluate(f"e => getComputedStyle(e).{name}")
    parts = [float(part) for part in colour.strip("rgba()").split(",")[:3]]
    return sum(parts) / 3


def test_dark_is_dark_and_print_is_light(visit, of_store):
    light, dark = visit(of_store), visit(of_store, scheme="dark")
    assert luminance(light, "body", "backgroundColor") > 200
    assert luminance(dark, "body", "backgroundColor") < 60
    assert luminance(dark, "svg text", "fill") > 180
    dark.emulate_media(media="print", color_scheme="dark")
    assert luminance(dark, "body", "backgroundColor") > 200
    assert luminance(dark, "svg text", "fill") < 60
    assert not dark.locator("nav").is_visible()
    assert dark.pdf(format="A4").startswith(b"%PDF")
