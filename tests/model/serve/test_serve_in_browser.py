"""The page of the server in a real browser."""

import base64

import cv2
import pytest

from tests.support import browser, drawn_photos

pytest.importorskip("tornado", reason="the extra serve is not installed")
pytestmark = pytest.mark.skipif(bool(browser.missing()), reason=browser.missing())

# Drops or pastes a file that the script makes, like a file manager.
DROP = """
const [name, encoded, kind] = arguments;
const bytes = Uint8Array.from(atob(encoded), (c) => c.charCodeAt(0));
const data = new DataTransfer();
data.items.add(new File([bytes], name));
if (kind === "paste") {
  const options = {clipboardData: data, bubbles: true};
  document.dispatchEvent(new ClipboardEvent("paste", options));
} else {
  for (const type of ["dragenter", "dragover", "drop"]) {
    document.getElementById("zone").dispatchEvent(
      new DragEvent(type, {dataTransfer: data, bubbles: true, cancelable: true}));
  }
}
"""


@pytest.fixture(scope="module")
def window():
    with browser.opened() as driver:
        yield driver


@pytest.fixture
def page(window, server):
    browser.emulate(window, 1280, 900)
    window.get(server.url)
    window.get_log("browser")
    return window


photo = drawn_photos.encode_photo


def find(page, selector):
    return page.find_element("css selector", selector)


def every(page, selector):
    return page.find_elements("css selector", selector)


def until(page, condition):
    from selenium.webdriver.support.wait import WebDriverWait

    return WebDriverWait(page, 20, poll_frequency=0.05).until(condition)


def drop(page, data, name="flower.jpg", kind="drop"):
    page.execute_script(DROP, name, base64.b64encode(data).decode(), kind)


def answer(page):
    """The headline when the response is shown."""
    until(page, lambda page: not find(page, "#status").is_displayed())
    return find(page, "#answer").text if find(page, "#result").is_displayed() else ""


def loaded(page, selector):
    return page.execute_script(
        "return [...document.querySelectorAll(arguments[0])]"
        ".every((image) => image.complete && image.naturalWidth > 0)",
        selector,
    )


@pytest.mark.parametrize("kind", ["drop", "paste"])
def test_a_photo_that_is_dropped_or_pasted_is_classified(page, kind):
    drop(page, photo("green"), kind=kind)
    assert answer(page) == "green"
    rows = every(page, "#classes li")
    assert rows[0].text.split("\n")[0] == "green"
    assert len(rows) == 3
    bars = [bar.size["width"] for bar in every(page, "#classes .bar span")]
    assert bars == sorted(bars, reverse=True)
    assert bars[0] > 50
    assert len(every(page, "#neighbours img")) == 6
    until(page, lambda page: loaded(page, "#neighbours img, #seen, #looked"))
    assert "green" in find(page, "#looked").get_attribute("alt")
    assert page.get_log("browser") == []
    assert find(page, "#looked").is_displayed()
    find(page, "#heat").click()  # switches the heat off
    assert not find(page, "#looked").is_displayed()


def test_a_photo_that_is_chosen_is_classified(page, tmp_path):
    path = tmp_path / "blue.png"
    cv2.imwrite(str(path), drawn_photos.draw_photo("blue", 2))
    find(page, "#file").send_keys(str(path))
    assert answer(page) == "blue"
    assert find(page, "#file-name").text.startswith("blue.png")


def test_a_file_that_is_not_a_photo_gets_a_message_as_text(page):
    drop(page, b"no photo", "<img src=x onerror=alert(1)>.txt")
    problem = find(page, "#problem")
    until(page, lambda _: problem.is_displayed())
    assert problem.text == (
        "<img src=x onerror=alert(1)>.txt: not an image of a known format"
    )
    assert answer(page) == ""
    drop(page, photo())
    assert answer(page) == "red"
    assert not problem.is_displayed()


def test_a_photo_that_is_too_large_is_not_sent(page):
    browser.requests(page)
    page.execute_script(
        "classify(new File([new Uint8Array(arguments[0])], 'large.jpg'))",
        (20 << 20) + 1,
    )
    assert "larger than 20 MB" in find(page, "#problem").text
    assert browser.requests(page) == []


def test_the_keyboard_and_screen_readers_reach_the_photo_and_the_result(page):
    from selenium.webdriver import Keys

    find(page, "body").send_keys(Keys.TAB)
    assert page.switch_to.active_element.get_attribute("id") == "file"
    assert find(page, "#result").get_attribute("aria-live") == "polite"
    assert find(page, "#problem").get_attribute("role") == "alert"
    drop(page, photo())
    answer(page)
    assert all(image.get_attribute("alt") for image in every(page, "#result img"))


def test_the_page_fits_a_phone(page):
    browser.emulate(page, 375, 700, dark=True)
    drop(page, photo())
    assert answer(page) == "red"
    width = page.execute_script("return document.documentElement.scrollWidth")
    assert width <= 375


def test_the_page_loads_and_runs_nothing_from_other_sites(page, server):
    page.refresh()
    drop(page, photo())
    answer(page)
    assert all(url.startswith(server.url) for url in browser.requests(page))
    ran = page.execute_script(
        "const inline = document.createElement('script');"
        "inline.textContent = 'window.ran = true';"
        "document.head.append(inline); return window.ran"
    )
    assert ran is None
