"""Answers about photos on a page, in a real browser, and what is saved of them."""

import csv
import time

import pytest

from pipeline.review import photo_review
from tests.support import browser, review_pages

pytestmark = pytest.mark.skipif(bool(browser.missing()), reason=browser.missing())

CLASSES = ["ants", "bees", "wasps, and others"]
PHOTOS = [
    {"path": "ants/1.jpg", "label": "ants", "suggested": "bees", "sha256": "a" * 64},
    {"path": "ants/2.jpg", "label": "ants", "suggested": "bees", "sha256": "b" * 64},
    {"path": 'bees/"3", x\n.jpg', "label": "bees", "sha256": "c" * 64},
    {"path": "bees/\udcff.jpg", "label": "bees", "sha256": "d" * 64},
    # The second card of a photo that has been shown already.
    {"path": "ants/1.jpg", "label": "ants", "suggested": "bees", "sha256": "a" * 64},
]


@pytest.fixture(scope="module")
def window():
    with browser.opened() as driver:
        yield driver


@pytest.fixture
def page(window, tmp_path):
    """A page without earlier answers, whose downloads go to tmp_path / "saved"."""
    browser.emulate(window, 1280, 900)
    window.execute_cdp_cmd(
        "Browser.setDownloadBehavior",
        {"behavior": "allow", "downloadPath": str(tmp_path / "saved")},
    )
    window.get(review_pages.write(tmp_path, PHOTOS, CLASSES).as_uri())
    window.execute_script("localStorage.clear()")
    window.refresh()
    return window


def every(page, selector):
    return page.find_elements("css selector", selector)


def click(page, card, text):
    buttons = every(page, "[data-review]")[card].find_elements("css selector", "button")
    next(button for button in buttons if button.text == text).click()


def press(page, *keys):
    from selenium.webdriver import ActionChains

    ActionChains(page).send_keys(*keys).perform()


def pressed(page):
    """Text of the pressed buttons of each card."""
    return page.execute_script(
        "return [...document.querySelectorAll('[data-review]')].map(card => "
        "[...card.querySelectorAll('[aria-pressed=true]')].map(b => b.textContent)"
        ".join())"
    )


def counted(page):
    return every(page, "#review-count")[0].text


def saved(page, tmp_path, name="corrections.csv"):
    every(page, "#review-save")[0].click()
    path = tmp_path / "saved" / name
    for _ in range(100):
        if path.exists():
            break
        time.sleep(0.05)
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def test_clicks_become_a_csv_file_of_what_differs_from_the_labels(page, tmp_path):
    assert counted(page) == "0 of 4 answered, 0 to save"
    click(page, 0, "is: bees")
    click(page, 1, "right")
    click(page, 2, "leave out")
    assert counted(page) == "3 of 4 answered, 2 to save"
    # Both cards of the first photo show the answer.
    assert pressed(page) == ["is: bees", "right", "leave out", "", "is: bees"]
    from selenium.webdriver.support.select import Select

    choice = every(page, "[data-review] select")[3]
    choice.click()
    Select(choice).select_by_visible_text("wasps, and others")
    assert saved(page, tmp_path) == [
        ["path", "label", "note", "sha256"],
        ["ants/1.jpg", "bees", "was ants", "a" * 64],
        ['bees/"3", x\n.jpg', "skip", "was bees", "c" * 64],
        ["bees/\\xff.jpg", "wasps, and others", "was bees", "d" * 64],
    ]
    assert "--corrections=corrections.csv" in every(page, "#review-next")[0].text


def test_a_class_called_like_the_answer_to_leave_out_is_not_offered(window, tmp_path):
    photos = [PHOTOS[0] | {"suggested": "skip"}]
    classes = ["ants", "skip", "wasps"]
    window.get(review_pages.write(tmp_path, photos, classes).as_uri())
    buttons = [button.text for button in every(window, ".answers button")]
    assert buttons == ["right", "leave out"]
    press(window, *"\ue014i2")  # arrow, the suggestion, the second class
    assert counted(window) == "1 of 1 answered, 1 to save"
    select = every(window, ".answers select")[0]
    assert select.get_property("value") == "=wasps"
    review = photo_review.PhotoReview(
        key=1, class_names=classes, command="", file_name=photo_review.LABELS
    )
    assert review.data["classes"] == classes


def test_a_second_click_takes_an_answer_back(page):
    click(page, 1, "leave out")
    click(page, 1, "leave out")
    assert pressed(page)[1] == ""
    assert counted(page) == "0 of 4 answered, 0 to save"


def test_keys_answer_and_go_on_to_the_next_photo(page):
    from selenium.webdriver import Keys

    press(page, Keys.ARROW_RIGHT, "2", "r", "x", "3")
    assert pressed(page) == ["is: bees", "right", "leave out", "", "is: bees"]
    choice = every(page, "[data-review] select")[3]
    assert choice.get_property("value") == "=wasps, and others"
    assert counted(page) == "4 of 4 answered, 3 to save"
    press(page, "u", "u")
    assert counted(page) == "2 of 4 answered, 1 to save"
    press(page, Keys.ARROW_LEFT, Keys.ARROW_LEFT, "i")
    assert pressed(page)[0] == "is: bees"
    press(page, Keys.ARROW_LEFT)
    assert page.get_log("browser") == []


def test_a_reload_keeps_the_answers_and_other_data_has_its_own(page, tmp_path):
    click(page, 0, "is: bees")
    click(page, 2, "right")
    page.refresh()
    assert pressed(page) == ["is: bees", "", "right", "", "is: bees"]
    assert counted(page) == "2 of 4 answered, 1 to save"
    review_pages.write(tmp_path, PHOTOS, CLASSES, key="other data")
    page.refresh()
    assert counted(page) == "0 of 4 answered, 0 to save"
    # A class that is gone is no answer.
    review_pages.write(tmp_path, PHOTOS, ["ants"])
    page.refresh()
    assert counted(page) == "0 of 4 answered, 0 to save"


def test_without_storage_the_answers_last_until_the_page_is_closed(page):
    script = page.execute_cdp_cmd(
        "Page.addScriptToEvaluateOnNewDocument",
        {
            "source": "Object.defineProperty(window, 'localStorage', "
            "{ get() { throw new DOMException('blocked', 'SecurityError'); } })"
        },
    )
    page.refresh()
    click(page, 0, "right")
    assert counted(page) == "1 of 4 answered, 0 to save"
    assert page.get_log("browser") == []
    page.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", script)


def test_a_photo_is_enlarged_and_answered_there(page):
    from selenium.webdriver import Keys

    every(page, "[data-review] img")[1].click()
    (dialog,) = every(page, "#enlarged")
    assert dialog.is_displayed()
    assert every(page, "#enlarged-title")[0].text == "ants/2.jpg"
    assert every(page, "#enlarged > img")[0].rect["width"] > 600
    every(page, "#enlarged button[value='-']")[0].click()
    assert pressed(page)[1] == "leave out"
    press(page, Keys.ESCAPE)
    assert not dialog.is_displayed()
    press(page, Keys.ARROW_RIGHT, Keys.ENTER)
    assert dialog.is_displayed()
    press(page, "x")
    assert every(page, "#enlarged-title")[0].text == "bees/\\xff.jpg"
    assert dialog.is_displayed()


def test_a_page_of_unlabelled_photos_saves_a_list_for_convert(page, tmp_path):
    photos = [
        {"path": "new/1.jpg", "suggested": "ants"},
        {"path": "new/2.jpg", "suggested": "ants"},
        {"path": "new/3.jpg", "suggested": "bees"},
    ]
    review_pages.write(tmp_path, photos, CLASSES, file_name="labels.csv")
    page.refresh()
    from selenium.webdriver import Keys

    press(page, Keys.ARROW_RIGHT, "r", "2", "x")
    assert counted(page) == "3 of 3 answered, 2 to save"
    assert saved(page, tmp_path, "labels.csv") == [
        ["path", "label"],
        ["new/1.jpg", "ants"],
        ["new/2.jpg", "bees"],
    ]


def test_on_a_phone_a_table_says_that_it_scrolls(page):
    hint = "return document.querySelector('.scroll + .scroll-hint')?.textContent"
    assert page.execute_script(hint) is None
    browser.emulate(page, 390, 800)
    time.sleep(0.2)
    assert "scroll sideways" in page.execute_script(hint)
    box = every(page, ".scroll")[0]
    assert box.get_attribute("data-more") == "right"
    page.execute_script("arguments[0].scrollLeft = 10000", box)
    time.sleep(0.2)
    assert box.get_attribute("data-more") == "left"
    reach = page.execute_script("return document.documentElement.scrollWidth")
    assert reach <= 390


def test_the_command_names_the_photos_or_the_records(tmp_path):
    names = ("my photos", "r", "folds/records/fold-0")
    photos, records, fold = (tmp_path / name for name in names)
    for folder in (records, fold):
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text("{}")
    (tmp_path / "folds" / "repeats.json").write_text("{}")
    begin, end = "python -m pipeline.convert ", " --corrections=corrections.csv"
    command = photo_review.conversion_command
    assert command(str(photos)) == f"{begin}'{photos}'{end}"
    assert command(str(records)) == f"{begin}SRC --out={records}{end}"
    assert command(str(fold)) == f"{begin}SRC{end}"
