"""Debian's Chromium, driven by Selenium; tests that need it are skipped without it."""

import contextlib
import json
import shutil

import pytest


def missing():
    """Why there is no browser here; "" if there is one."""
    try:
        import selenium  # noqa: F401
    except ImportError:
        return "selenium is not installed: tests/requirements.txt has it"
    for program in ("chromium", "chromedriver"):
        if shutil.which(program) is None:
            return f"no {program}: apt-get install chromium chromium-driver"
    return ""


@contextlib.contextmanager
def opened(width=1280, height=900, *, dark=False):
    """A window of that size, without a network; as a selenium WebDriver."""
    if why := missing():
        pytest.skip(why)
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for argument in (
        "--headless=new",
        "--no-sandbox",  # tests may run as root, and open nothing but their own pages
        "--disable-dev-shm-usage",
        "--disable-gpu",
        "--disable-background-networking",
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        "--hide-scrollbars",
        "--use-fake-device-for-media-stream",  # a camera that shows a green picture
        "--use-fake-ui-for-media-stream",
        f"--window-size={width},{height}",
    ):
        options.add_argument(argument)
    options.set_capability(
        "goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"}
    )
    driver = webdriver.Chrome(options, Service(shutil.which("chromedriver")))
    try:
        emulate(driver, width, height, dark=dark)
        yield driver
    finally:
        driver.quit()


def emulate(driver, width, height, *, dark=False):
    """Makes the page as wide as a phone's, which a window cannot be; or dark."""
    size = {"width": width, "height": height, "deviceScaleFactor": 1}
    driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {**size, "mobile": width < 600}
    )
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    still = {"name": "prefers-reduced-motion", "value": "reduce"}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme, still]})


def requests(driver):
    """Addresses asked for since the last call, but those that a page holds itself."""
    found = []
    for entry in driver.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            url = message["params"]["request"]["url"]
            if not url.startswith(("data:", "blob:")):
                found.append(url)
    return found
