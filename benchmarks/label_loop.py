"""Measure the loop from doubtful labels to corrected ones, with clicks in a browser.

    python benchmarks/label_loop.py [FOLDER] [--planted=30] [--seed=0] [--folds]

Files some photos under a wrong class, converts, trains and evaluates. Then it measures:
how many of them are among the first doubts of evaluation/doubts.csv (three times as
many as are planted), and the seconds of the loop: a browser opens the report, the keys
of a person who knows the truth answer for these doubts, Save gives corrections.csv,
and convert, train and evaluate use it. --folds also compares the accuracy of five folds
on wrong and on corrected labels, which takes minutes. Needs Chromium and Selenium.
"""

import csv
import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import measure
import planted_labels


def answer(
    report: Path, doubts: list[dict[str, str]], truth: dict[str, str], saved: Path
) -> None:
    """Answer for doubtful photos with keys on the report's page, and save the CSV."""
    from selenium import webdriver
    from selenium.webdriver import ActionChains
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    driver = webdriver.Chrome(options, Service(shutil.which("chromedriver")))
    try:
        driver.execute_cdp_cmd(
            "Browser.setDownloadBehavior",
            {"behavior": "allow", "downloadPath": str(saved)},
        )
        driver.get(report.as_uri())
        page: dict[str, Any] = json.loads(
            driver.execute_script(
                "return document.getElementById('page-review').textContent"
            )
        )
        numbers = {photo[0]: number for number, photo in enumerate(page["photos"])}
        for doubt in doubts:
            driver.execute_script(
                "const card = document.querySelector("
                '`[data-review="${arguments[0]}"]`); card.focus()',
                numbers[doubt["path"]],
            )
            true = truth.get(doubt["path"], doubt["label"])
            is_right = true == doubt["label"]
            key = "r" if is_right else str(page["classes"].index(true) + 1)
            ActionChains(driver).send_keys(key).perform()
        driver.find_element("id", "review-save").click()
        deadline = time.monotonic() + 10
        while not (saved / "corrections.csv").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
    finally:
        driver.quit()


def pooled_accuracy(records: str, run: str) -> float:
    """Return the accuracy of five folds, each photo tested once."""
    measure.run_python("train.py", f"--data={records}", f"--run_dir={run}", "--folds=5")
    summary = json.loads((Path(run) / "repeats.json").read_text())
    return float(summary["all_photos"]["accuracy"])


def main() -> None:
    """Plant wrong labels, find them, correct them, and print figures and times."""
    parser = measure.argument_parser(__doc__)
    parser.add_argument("--planted", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folds", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        source, records = Path(scratch, "flowers"), f"{scratch}/records"
        runs = Path(scratch, "runs")
        truth = planted_labels.plant(
            arguments.folder, source, arguments.planted, arguments.seed
        )
        measure.convert(source, records)
        before = measure.train_and_evaluate(records, str(runs / "before"))
        if arguments.folds:
            folds_before = pooled_accuracy(records, str(runs / "folds-before"))
        evaluation = runs / "before" / "evaluation"
        start = time.perf_counter()
        with (evaluation / "doubts.csv").open(newline="", encoding="utf-8") as file:
            doubts = list(csv.DictReader(file))[: 3 * arguments.planted]
        answer(evaluation / "test.html", doubts, truth, Path(scratch))
        answered = time.perf_counter()
        convert = ("-m", "pipeline.convert", str(source), f"--out={records}")
        measure.run_python(*convert, f"--corrections={scratch}/corrections.csv")
        after = measure.train_and_evaluate(records, str(runs / "after"))
        end = time.perf_counter()
        num_found = sum(doubt["path"] in truth for doubt in doubts)
        print(f"{num_found} of {len(truth)} among the first {len(doubts)} doubts")
        print(f"answers {answered - start:.1f} s, whole loop {end - start:.1f} s")
        print(f"test accuracy {before['accuracy']:.4f}, then {after['accuracy']:.4f}")
        if arguments.folds:
            folds_after = pooled_accuracy(records, str(runs / "folds-after"))
            print(f"five folds {folds_before:.4f}, then {folds_after:.4f}")


if __name__ == "__main__":
    main()
