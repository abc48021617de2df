"""The page of the server in a real browser."""

import base64

import cv2
import numpy as np
import pytest

from tests.support import browser, drawn_photos, server_process

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


def test_a_photo_of_none_of_the_classes_is_doubted_in_the_headline(page):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    drop(page, cv2.imencode(".png", noise)[1].tobytes())
    headline = answer(page)
    best = find(page, "#classes li .name span").text
    assert headline == f"None of these? Otherwise {best}"
    reason = find(page, "#file-name").text
    assert "unlike the training photos: stranger score" in reason
    assert reason.endswith("the limit is 1.00")


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


def drop_all(page, photos):
    """Drops several files at once."""
    page.execute_script(
        "classifyAll(arguments[0].map(([name, encoded]) => new File("
        "[Uint8Array.from(atob(encoded), (c) => c.charCodeAt(0))], name)))",
        [[name, base64.b64encode(data).decode()] for name, data in photos.items()],
    )


def test_several_photos_are_listed_with_their_answers_or_errors(page):
    drop_all(page, {"r.jpg": photo(), "bad.jpg": b"no photo", "b.jpg": photo("blue")})
    until(page, lambda page: "%" in every(page, "#list .said")[2].text)
    red, bad, blue = (said.text for said in every(page, "#list .said"))
    assert red.startswith("red · ")
    assert bad == "not an image of a known format"
    assert blue.startswith("blue · ")
    assert not find(page, "#result").is_displayed()
    every(page, "#list button")[2].click()
    until(page, lambda page: find(page, "#answer").text == "blue")
    assert find(page, "#file-name").text.startswith("b.jpg")
    drop(page, photo("green"))
    until(page, lambda page: find(page, "#answer").text == "green")
    assert not find(page, "#list").is_displayed()


def test_each_photo_that_is_shown_can_be_enlarged(page):
    drop(page, photo())
    answer(page)
    for selector, width in (("#enlarge", 160), ("#neighbours button", 0)):
        find(page, selector).click()
        until(page, lambda page: loaded(page, "#large-photo"))
        large = find(page, "#large-photo")
        assert large.is_displayed()
        assert large.size["width"] > 300
        natural = page.execute_script("return arguments[0].naturalWidth", large)
        assert natural == width or not width
        find(page, "#close").click()
        assert not large.is_displayed()
    drop(page, photo(extension=".tiff"))  # which browsers do not show
    until(page, lambda page: find(page, "#file-name").text.startswith("flower"))
    answer(page)
    find(page, "#enlarge").click()
    until(page, lambda page: loaded(page, "#large-photo"))


def test_the_camera_is_classified_live_without_a_queue_of_requests(page):
    find(page, "#camera").click()
    until(page, lambda page: "%" in find(page, "#live-answer").text)
    page.execute_script(
        "window.sent = window.most = window.open = 0;"
        "const send = window.fetch;"
        "window.fetch = async (...words) => {"
        "  sent += 1; open += 1; most = Math.max(most, open);"
        "  await new Promise((done) => setTimeout(done, 1000));"
        "  try { return await send(...words); } finally { open -= 1; }"
        "};"
    )
    until(page, lambda page: page.execute_script("return sent") == 2)
    assert page.execute_script("return most") == 1
    find(page, "#stop").click()
    assert not find(page, "#live").is_displayed()
    until(page, lambda page: find(page, "#file-name").text.startswith("camera.jpg"))
    assert page.execute_script("return camera") is None
    assert page.get_log("browser") == []


def test_without_https_a_phone_takes_single_photos(page, tmp_path):
    script = "Object.defineProperty(navigator, 'mediaDevices', {value: undefined});"
    added = page.execute_cdp_cmd(
        "Page.addScriptToEvaluateOnNewDocument", {"source": script}
    )
    try:
        page.refresh()
        assert not find(page, "#camera").is_displayed()
        assert find(page, "#snap").is_displayed()
        snapshot = find(page, "#snapshot")
        assert snapshot.get_attribute("capture") == "environment"
        (tmp_path / "phone.jpg").write_bytes(photo("blue"))
        snapshot.send_keys(str(tmp_path / "phone.jpg"))
        assert answer(page) == "blue"
    finally:
        page.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", added)


def test_a_wrong_answer_is_corrected_and_collected(window, shared_run, tmp_path):
    folder = tmp_path / "collected"
    with server_process.running(shared_run, f"--collect={folder}") as server:
        browser.emulate(window, 375, 700)
        window.get(server.url)
        drop(window, photo())
        assert answer(window) == "red"
        select = find(window, "#label")
        assert select.get_attribute("value") == "red"
        select.send_keys("blue")
        find(window, "#correct").click()
        until(window, lambda page: find(page, "#kept").text == "saved as blue")
        width = window.execute_script("return document.documentElement.scrollWidth")
        assert width <= 375
    (path,) = folder.glob("*/*")
    assert path.parent.name == "blue"
    assert path.read_bytes() == photo()


def test_nothing_can_be_collected_unless_a_folder_is_named(page):
    drop(page, photo())
    answer(page)
    assert not every(page, "#correction")
