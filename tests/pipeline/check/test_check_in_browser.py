"""The page of a check in a real browser, and what convert makes of its answers."""

import shutil
import time

import cv2
import pytest

from pipeline.check import check_settings, checking
from pipeline.records.manifest_row import Code
from tests.support import browser, conversions, drawn_photos

pytestmark = pytest.mark.skipif(bool(browser.missing()), reason=browser.missing())


def test_answers_on_the_page_correct_the_records(tmp_path):
    photos, out = tmp_path / "photos", tmp_path / "check"
    for first, name in ((0, "ants"), (50, "bees")):
        (photos / name).mkdir(parents=True)
        for number in range(12):
            picture = drawn_photos.draw_scene(first + number)
            cv2.imwrite(str(photos / name / f"{number:02d}.jpg"), picture)
    shutil.copy(photos / "ants" / "02.jpg", photos / "bees" / "stray, too.jpg")
    small = cv2.resize(drawn_photos.draw_scene(53), None, fx=0.5, fy=0.5)
    cv2.imwrite(str(photos / "ants" / "other.jpg"), small)
    (photos / "bees" / "text.jpg").write_text("no photo")
    with conversions.in_this_process():
        checking.check(check_settings.Config(source=str(photos), out=str(out)))
    corrections = tmp_path / "corrections.csv"
    with browser.opened() as page:
        page.execute_cdp_cmd(
            "Browser.setDownloadBehavior",
            {"behavior": "allow", "downloadPath": str(tmp_path)},
        )
        page.get((out / "check.html").as_uri())

        def answer(path, text):
            figure = page.find_element("xpath", f"//figure[.//figcaption='{path}']")
            button = f".//button[.='{text}']"
            page.execute_script(
                "arguments[0].scrollIntoView({block: 'center'})", figure
            )
            figure.find_element("xpath", button).click()

        def count():
            return page.find_element("css selector", "#review-count").text

        # Files that are no photos are not counted.
        assert count() == "0 of 4 answered, 0 to save"
        answer("bees/stray, too.jpg", "is: ants")
        answer("ants/02.jpg", "right")
        answer("ants/other.jpg", "leave out")
        assert count() == "3 of 4 answered, 2 to save"
        page.find_element("css selector", "#review-save").click()
        for _ in range(100):
            if corrections.exists():
                break
            time.sleep(0.05)
        command = page.find_element("css selector", "#review-next code").text
        assert command == (
            f"python -m pipeline.convert {photos} --corrections=corrections.csv"
        )
        assert page.get_log("browser") == []
    summary = conversions.convert(
        photos, tmp_path / "records", corrections=str(corrections)
    )
    rows = {row.path: row for row in summary.manifest.rows}
    stray = rows["bees/stray, too.jpg"]
    assert (stray.class_name, stray.corrected_from) == ("ants", "bees")
    assert rows["ants/02.jpg"].is_included
    assert rows["ants/other.jpg"].codes == (Code.LEFT_OUT_BY_CORRECTION,)
    assert not any("several classes" in text for text in summary.findings)
