"""The page of an evaluation in a real browser."""

import pytest

from model.reports import html_report
from tests.model.conftest import HOSTILE
from tests.support import browser

pytestmark = pytest.mark.skipif(bool(browser.missing()), reason=browser.missing())


@pytest.fixture(scope="module")
def evaluation(hostile_judged):
    return hostile_judged


@pytest.fixture(scope="module")
def address(evaluation):
    return html_report.write(evaluation, "python evaluate.py").as_uri()


@pytest.fixture(scope="module")
def window():
    with browser.opened() as driver:
        yield driver


@pytest.fixture
def page(window, address):
    browser.emulate(window, 1280, 900)
    window.get(address)
    return window


def find(page, selector):
    return page.find_element("css selector", selector)


def every(page, selector):
    return page.find_elements("css selector", selector)


def press(page, *keys):
    from selenium.webdriver import ActionChains

    ActionChains(page).send_keys(*keys).perform()


def click_in_the_middle(page, element):
    """Click it where the bar of the review is not above it."""
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
    element.click()


def test_it_loads_without_an_error_and_without_the_network(page, address):
    assert browser.requests(page)[-1:] == [address]
    page.refresh()
    assert browser.requests(page) == [address]
    assert page.get_log("browser") == []


def test_pictures_are_shown(page):
    page.execute_async_script(
        "const done = arguments[0];"
        "dispatchEvent(new Event('beforeprint'));"
        "Promise.all([...document.querySelectorAll('img[data-photo]')]"
        ".map(image => image.decode())).then(() => done())"
    )
    for image in every(page, "img[data-photo]"):
        assert int(image.get_property("naturalWidth")) > 50


def test_hostile_names_are_shown_and_do_nothing(page):
    """No dialog of theirs, no element of theirs; as text they are whole."""
    names = [head.text for head in every(page, "#classes tbody th")]
    assert names == list(HOSTILE)
    assert every(page, "img[src='x']") == []
    find(page, "button[data-cell='0,0']").click()
    assert find(page, "#cell-title").text.startswith(HOSTILE[0])
    assert every(page, "#cell script, #cell img[onerror]") == []
    assert page.get_log("browser") == []


def test_a_script_that_is_not_the_pages_own_does_not_run(page):
    """Even if a name were to reach the page as markup, by its policy."""
    page.execute_script(
        "const made = document.createElement('script');"
        "made.textContent = 'window.ran = true'; document.body.append(made)"
    )
    assert page.execute_script("return window.ran") is None
    assert "Content Security Policy" in page.get_log("browser")[0]["message"]


def test_a_click_sorts_and_the_next_one_turns_it_round(page, evaluation):
    recalls = [row["recall"] for row in evaluation.figures["per_class"]]
    assert recalls != sorted(recalls)
    button = every(page, "#classes thead button")[2]

    def shown():
        cells = every(page, "#classes tbody td:nth-child(3)")
        return [float(cell.text) for cell in cells]

    button.click()
    assert shown() == pytest.approx(sorted(recalls), abs=1e-3)
    heads = [h.get_attribute("aria-sort") for h in every(page, "#classes thead th")]
    assert heads == ["none", "none", "ascending", "none", "none"]
    button.click()
    assert shown() == pytest.approx(sorted(recalls, reverse=True), abs=1e-3)


def test_sorting_by_keyboard(page):
    from selenium.webdriver import Keys

    page.execute_script("document.querySelector('#classes thead button').focus()")
    press(page, Keys.SPACE)
    press(page, Keys.ENTER)
    names = [head.text for head in every(page, "#classes tbody th")]
    head = find(page, "#classes thead th")
    assert head.get_attribute("aria-sort") == "descending"
    assert names[0] == "red"


def test_a_cell_opens_its_photos(page, evaluation):
    confusion = evaluation.figures["confusion_matrix"]
    true, guess = next(
        (t, p) for t in range(3) for p in range(3) if t != p and confusion[t][p]
    )
    dialog = find(page, "#cell")
    assert not dialog.is_displayed()
    find(page, f"button[data-cell='{true},{guess}']").click()
    assert dialog.is_displayed()
    names = evaluation.figures["class_names"]
    title = f"{names[true]} predicted as {names[guess]} ({confusion[true][guess]})"
    assert find(page, "#cell-title").text == title
    images = every(page, "#cell-photos img")
    assert len(images) == min(24, confusion[true][guess])
    expected = {
        error["path"]
        for error in evaluation.figures["errors"]
        if (error["true"], error["predicted"]) == (names[true], names[guess])
    }
    assert {path.text for path in every(page, "#cell-photos .path")} <= expected
    find(page, "#cell-close").click()
    assert not dialog.is_displayed()


def test_a_cell_by_keyboard(page):
    from selenium.webdriver import Keys

    page.execute_script("document.querySelector('button[data-cell]').focus()")
    press(page, Keys.ENTER)
    assert find(page, "#cell").is_displayed()
    press(page, Keys.ESCAPE)
    assert not find(page, "#cell").is_displayed()
    focused = page.switch_to.active_element
    assert focused.get_attribute("data-cell")  # where one came from


def test_where_the_network_looked(page):
    heats = every(page, "#worst-cards img.heat")
    assert heats and not any(heat.is_displayed() for heat in heats)
    click_in_the_middle(page, find(page, "#worst-cards button.look"))
    assert [heat.is_displayed() for heat in heats[:2]] == [True, False]
    find(page, "#errors button.look-all").click()
    assert all(heat.is_displayed() for heat in heats)
    # It lies within the photo it belongs to.
    picture = find(page, "#worst-cards .picture").rect
    heat = heats[0].rect
    assert heat["x"] >= picture["x"] - 1
    assert heat["x"] + heat["width"] <= picture["x"] + picture["width"] + 1
    find(page, "#errors button.look-all").click()
    assert not any(heat.is_displayed() for heat in heats)


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_no_width_makes_the_page_scroll_sideways(page, width):
    browser.emulate(page, width, 800)
    assert page.execute_script("return window.innerWidth") == width
    reach = page.execute_script("return document.documentElement.scrollWidth")
    assert reach <= width


def test_dark(page):
    """Light letters on a dark page, and so in the drawings."""
    script = (
        "const style = getComputedStyle(document.querySelector(arguments[0]));"
        "return style[arguments[1]].match(/\\d+/g).slice(0, 3).map(Number)"
    )
    for dark in (False, True):
        browser.emulate(page, 1280, 900, dark=dark)
        page_level = sum(page.execute_script(script, "body", "backgroundColor"))
        ink = sum(page.execute_script(script, "body", "color"))
        drawn = sum(page.execute_script(script, ".drawing svg text", "fill"))
        if dark:
            assert page_level < 150 < 500 < min(ink, drawn)
        else:
            assert max(ink, drawn) < 200 < 600 < page_level


def test_every_picture_and_button_has_a_name(page):
    unnamed = page.execute_script(
        "return [...document.querySelectorAll('img:not([alt]), svg:not([aria-label])')]"
        ".map(one => one.outerHTML.slice(0, 80))"
    )
    assert unnamed == []
    buttons = page.execute_script(
        "return [...document.querySelectorAll('button')].filter(one =>"
        " !one.textContent.trim() && !one.ariaLabel).length"
    )
    assert buttons == 0


def test_a_mistake_is_corrected_wherever_it_is_shown(page):
    """Mistakes are doubtful, too; the class that was predicted is suggested."""
    page.execute_script("localStorage.clear()")
    page.refresh()
    card = find(page, "#worst-cards .card")
    number = card.get_attribute("data-review")
    selector = ".answers button:nth-child(2)"
    click_in_the_middle(page, card.find_element("css selector", selector))
    cards = every(page, f"[data-review='{number}']")
    assert len(cards) > 1
    suggested = card.find_element("css selector", ".other").text
    for other in cards:
        pressed = other.find_elements("css selector", "[aria-pressed=true]")
        texts = [
            b.get_property("textContent")
            for b in pressed
            if "look" not in b.get_attribute("class")
        ]
        assert texts == [f"is: {suggested}"]
    assert find(page, "#review-count").text.endswith("answered, 1 to save")


def test_a_photo_behind_a_cell_is_enlarged(page):
    find(page, "button[data-cell='0,0']").click()
    find(page, "#cell-photos img").click()
    assert find(page, "#enlarged").is_displayed()
    path = find(page, "#cell-photos .path").text
    assert find(page, "#enlarged-title").text.endswith(path)
    find(page, "#enlarged-close").click()
    assert not find(page, "#enlarged").is_displayed()
    assert find(page, "#cell").is_displayed()
