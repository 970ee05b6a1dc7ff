"""The file of `dail inspect` in a real browser: what it shows, by hand and by keyboard, and what it never does."""

from __future__ import annotations

import hashlib
import json
import re

import pytest

from dail.synth.schema.units import Failure
from dail.synth.view.page_file import as_file, static
from dail.synth.view.traces import TraceSummary, viewed
from tests.browser import Watched
from tests.conftest import ROOT
from tests.hostile_texts import HOSTILE, NAMES
from tests.synth.view.conftest import a_row, placed

# elements and attributes that no text of ours becomes
_FOREIGN = """[...document.querySelectorAll("main *")].filter((one) =>
  one.matches("script, img, iframe, svg, a, style, form, meta, object, embed") ||
  [...one.attributes].some((is) => /^(on.*|href|src|style)$/.test(is.name))).length"""


@pytest.fixture
def opened(browser, tmp_path):
    """Opens traces as a file, and holds against it at the end what must never happen."""
    pages = []

    def open_(views, hash_="", said="said", **options):
        path = tmp_path / "traces.html"
        path.write_text("".join(as_file(views, "Traces", said)), "utf-8")
        pages.append(Watched(browser, **options))
        pages[-1].page.goto(f"file://{path}{hash_}")
        pages[-1].page.wait_for_selector(".dv-body > *")
        return pages[-1]

    yield open_
    for one in pages:
        assert one.breaches() == []
        assert {url.partition(":")[0] for url in one.requests} == {"file"}
        one.context.close()


def of_writers():
    """Ten tokens: the fourth refused and replaced, the eighth by nobody knows whom."""
    return a_row(
        ["So ", "$", "x", "^2", "$", " is ", "36", ".\n", "As the reference solution says, ", "6."],
        unit_id="first",
        item_id="one",
        problem="What is $x$?",
        solution="It is $x^2 = 36$.",
        waypoints=("36",),
        student_prob=placed(10, {3: 0.0, 6: 0.0, 7: None}, 1.0),
        privileged_logprob=placed(10, {3: -0.02, 6: -3.5, 2: -1.0}, -0.01),
        student_logprob=placed(10, {3: -5.0, 7: None}, -0.1),
        rejected_ids=placed(10, {3: 7}),
        rejected_texts=placed(10, {3: "^3"}),
    )


def three():
    cut = a_row(["cut"], unit_id="second", item_id="two", truncated=True)
    wrong = a_row(["wrong"], unit_id="third", item_id="three")
    return [viewed(of_writers()), viewed(cut), viewed(wrong, "wrong")]


def test_two_channels_say_who_wrote_a_token_and_how_sure_the_privileged_student_was(opened):
    page = opened(three()).page
    looks = page.evaluate("[...document.querySelectorAll('.dv-tokens [data-t]')].map((one) => one.className)")
    assert "dv-p dv-c0 dv-refused" in looks[3] and "dv-p dv-c3" in looks[6] and "dv-way" in looks[6]
    assert "dv-s dv-c2" in looks[2] and "dv-u" in looks[7] and "dv-cited" in looks[8] and "dv-cited" not in looks[7]
    style = (
        "(one) => { const is = getComputedStyle(document.querySelector(one));"
        " return [is.borderBottomStyle, is.backgroundColor] }"
    )
    lines = [page.evaluate(style, f".dv-tokens [data-t='{n}']") for n in (0, 3, 6, 7)]
    assert [line for line, _ in lines] == ["none", "solid", "solid", "dotted"]
    assert lines[1][1] != lines[2][1]


def test_by_keyboard_one_jumps_to_disagreements_and_hears_all_of_a_token(opened):
    page = opened(three()).page
    page.keyboard.press("n")
    said = page.locator(".dv-about").inner_text()
    assert page.evaluate("document.activeElement.dataset.t") == "3"
    for part in ("4 of 10", "“^2”", "the privileged student wrote it", "−5 (0.674 %)", "−0.02 (98 %)", "“^3”"):
        assert part in said
    page.keyboard.press("n")
    assert page.evaluate("document.activeElement.dataset.t") == "6"
    assert "waypoint" in page.locator(".dv-about").inner_text()
    page.keyboard.press("ArrowRight")
    assert (
        "not known who" in page.locator(".dv-about").inner_text()
        and "not computed" in page.locator(".dv-about").inner_text()
    )
    page.keyboard.press("p")
    assert page.evaluate("document.activeElement.dataset.t") == "6"
    assert page.locator(".dv-tokens [tabindex='0']").count() == 1


def test_the_pointer_tells_the_same(opened):
    page = opened(three()).page
    page.locator(".dv-tokens [data-t='3']").hover()
    assert "“^3”" in page.locator(".dv-about").inner_text()


def test_formulas_are_rendered_and_one_key_gives_the_raw_text(opened):
    whole = of_writers().model_copy(
        update={"solution": r"It is $x^2 = 36$, so \boxed{\frac{a}{6}}.", "waypoints": ("x^2 = 36",)}
    )
    page = opened([viewed(whole)]).page
    assert page.locator(".dv-solution math").count() == 2 and page.locator(".dv-solution menclose mfrac").count() == 1
    assert "dv-way" in page.locator(".dv-solution .dv-formula").first.get_attribute("class")
    assert "$x^2$" in page.locator(".dv-tokens").inner_text()  # two have written it: its tokens say who
    page.keyboard.press("r")
    assert page.locator("math").count() == 0 and r"\boxed{\frac{a}{6}}" in page.locator(".dv-solution").inner_text()
    page.keyboard.press("r")
    assert page.locator(".dv-solution math").count() == 2


def test_a_formula_of_one_writer_is_rendered_in_the_trace_and_its_tokens_are_reached(opened):
    page = opened([viewed(a_row(["So ", "$", "x", "^2", "$", " is"]))]).page
    assert page.locator(".dv-tokens math msup").count() == 1 and "$" not in page.locator(".dv-tokens").inner_text()
    page.locator(".dv-tokens [data-t='0']").click()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    assert "“^2”" in page.locator(".dv-about").inner_text()
    page.keyboard.press("r")
    assert page.locator(".dv-tokens").inner_text() == "So $x^2$ is"


def test_a_line_ends_behind_a_formula_and_a_box_has_its_frame(opened):
    page = opened([viewed(a_row(["So ", "$\\boxed{6}", "$.\n", "Then"]))]).page
    assert page.locator(".dv-tokens").inner_text().endswith(".\nThen")
    border = "getComputedStyle(document.querySelector('.dv-tokens menclose')).borderTopStyle"
    assert page.evaluate(border) == "solid"


def test_filters_count_and_choose_and_traces_have_links(opened):
    failed = TraceSummary(unit_id="none", item_id="four", error=Failure(code="boom", detail="it <b>broke</b>"))
    views = [*three(), viewed(a_row(["x"], unit_id="none")).model_copy(update={"summary": failed})]
    page = opened(views, "#trace=second").page
    counts = {one.get_attribute("data-filter"): one.locator("b").inner_text() for one in page.locator(".dv-chip").all()}
    assert counts == {"failed": "1", "cut": "1", "leaky": "1", "wrong": "1", "low-student": "0"}
    assert "two, sample" in page.locator(".dv-trace").inner_text()
    page.keyboard.press("j")
    assert page.url.endswith("#trace=third") and "three, sample" in page.locator(".dv-trace").inner_text()
    page.locator("[data-filter=leaky]").click()
    assert (
        "1 of 1" in page.locator(".dv-count").inner_text() and "one, sample" in page.locator(".dv-trace").inner_text()
    )
    page.locator("[data-filter=leaky]").click()
    page.locator("[data-filter=failed]").click()
    page.wait_for_selector(".dv-error")
    assert page.locator(".dv-error").inner_text() == "boom: it <b>broke</b>"


def test_help_lists_the_keys_and_can_switch_them_off(opened):
    page = opened(three()).page
    page.keyboard.press("?")
    assert page.locator("dialog[open]").inner_text().count("\n") > 5
    page.locator("dialog input").uncheck()
    page.keyboard.press("Escape")
    page.keyboard.press("n")
    assert page.locator(".dv-at").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 1400])
def test_axe_finds_nothing_and_no_line_is_wider_than_the_window(opened, scheme, width):
    watched = opened(three(), color_scheme=scheme, viewport={"width": width, "height": 800}, reduced_motion="reduce")
    watched.page.keyboard.press("n")
    assert watched.axe() == []
    assert watched.page.evaluate("document.documentElement.scrollWidth") <= width
    assert watched.page.locator("main").count() == 1 and watched.page.locator("main h2").count() >= 3


def test_no_hostile_text_is_obeyed_and_each_is_shown_as_text(opened):
    views = []
    for number, text in enumerate(HOSTILE):
        row = a_row([text, " a ", text], item_id=NAMES[number % len(NAMES)] + str(number), unit_id=f"u{number}",
                    problem=text, solution=text, answer=text, waypoints=(text,), model_name=text, engine=text,
                    rejected_texts=(text, None, None), rejected_ids=(1, None, None))  # fmt: skip
        views.append(viewed(row))
    failed = TraceSummary(unit_id="</script>", item_id=HOSTILE[2], error=Failure(code=HOSTILE[0], detail=HOSTILE[3]))
    views.append(views[0].model_copy(update={"summary": failed}))
    watched = opened(views, said=HOSTILE[2])
    page = watched.page
    for number, text in enumerate(HOSTILE):
        page.keyboard.press("r")  # as it is written
        shown = page.locator(".dv-problem .dv-text").text_content()
        assert page.evaluate("(text) => dailViewer.inked(text)", text) == shown, number
        page.keyboard.press("r")
        page.keyboard.press("n")
        page.locator(".dv-tokens [data-t]").first.dispatch_event("mouseover")
        assert page.evaluate(_FOREIGN) == 0
        page.keyboard.press("j")
    assert page.locator(".dv-error").text_content() == f"{HOSTILE[0]}: {HOSTILE[3]}"
    assert page.locator(".dv-title p").text_content().startswith(HOSTILE[2])


def test_a_policy_that_allows_what_is_in_the_file_and_nothing_else(opened):
    watched = opened(three())
    policy = watched.page.locator("meta[http-equiv]").get_attribute("content")
    assert (
        policy.startswith("default-src 'none'; script-src 'sha256-") and "unsafe" not in policy and "http" not in policy
    )
    inline = "Object.assign(document.createElement('script'), {textContent: 'hacked(1)'})"
    watched.page.evaluate(f"document.body.append({inline})")
    breaches = watched.breaches()
    assert len(breaches) == 1 and breaches[0].startswith("script-src")  # the check of every other test can fail
    watched.page.evaluate("globalThis.breaches.length = 0")


def test_twenty_thousand_tokens_are_laid_out_as_they_come_near(opened):
    texts = [f"step {n} is $x_{{{n}}}$.\n" if n % 40 == 39 else f"w{n} " for n in range(20_000)]
    row = a_row(texts, rejected_ids=placed(20_000, {19_990: 1}), rejected_texts=placed(20_000, {19_990: "no"}))
    page = opened([viewed(row)]).page
    nodes = "document.querySelectorAll('*').length"
    assert page.evaluate(nodes) < 5000
    page.keyboard.press("r")
    assert page.locator(".dv-tokens").text_content() == row.trace_text
    page.keyboard.press("n")
    assert page.evaluate("document.activeElement.dataset.t") == "19990"
    page.wait_for_function(f"{nodes} < 7000")
    assert page.locator(".dv-tokens").text_content() == row.trace_text


def test_katex_is_the_one_that_the_readme_names_and_its_licence_lies_beside_it():
    readme = (ROOT / "synth/view/README.md").read_text("utf-8")
    digest = hashlib.sha256(static("katex.min.js").encode()).hexdigest()
    assert f"`{digest}`" in readme and 'version:"0.19.1"' in static("katex.min.js").replace(" ", "")
    assert "The MIT License" in static("katex.LICENSE")


def test_our_scripts_never_interpret_a_text():
    for name in ("viewer.js", "file.js"):
        assert re.findall(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|new Function", static(name)) == []


def test_the_filters_of_the_page_are_those_of_python():
    from dail.synth.view.traces import FILTERS

    assert re.findall(r'^    \["([a-z-]+)", "', static("viewer.js"), re.MULTILINE)[: len(FILTERS)] == list(FILTERS)


def test_what_is_in_the_file_is_json_that_no_browser_can_leave():
    text = "".join(as_file([viewed(a_row([one])) for one in HOSTILE], "</title><script>hacked(1)</script>", "said"))
    blocks = re.findall(r'<script type="application/json" id="[\w-]+">(.*?)</script>', text)
    assert len(blocks) == len(HOSTILE) + 1 and all(json.loads(one) for one in blocks)
    assert "<script>hacked" not in text
