"""A headless Chromium that opens files, and records what a page asks the network for."""

import contextlib
import json
import shutil
import time

import pytest

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
BINARIES = ("chromium", "chromium-browser", "google-chrome")
KEY_CODES = {"Tab": 9, "Enter": 13}


class Browser:
    """A page in a browser.

    Args:
      driver: selenium's.
    """

    def __init__(self, driver):
        self.driver = driver

    def run(self, script, *values):
        """What a script returns."""
        return self.driver.execute_script(f"return {script}", *values)

    def open(self, path):
        """Opens a file, and waits until its picture is shown."""
        self.driver.get(path.as_uri())
        self.wait("window.explorer.weights !== null")

    def wait(self, condition, seconds=60):
        """Waits until an expression is true."""
        end = time.monotonic() + seconds
        while not self.run(condition):
            assert time.monotonic() < end, condition
            time.sleep(0.05)

    def emulate(self, width=1200, height=900, **media):
        """Sets the size of the window, and media features such as prefers_color_scheme."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        features = [{"name": k.replace("_", "-"), "value": v} for k, v in media.items()]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def mouse(self, kind, x, y):
        """A mouse event at a place of the window: mousePressed, mouseReleased, mouseMoved."""
        event = {"type": kind, "x": x, "y": y, "button": "left", "clickCount": 1}
        self.driver.execute_cdp_cmd("Input.dispatchMouseEvent", event)

    def click(self, selector, across, down):
        """Clicks at a place of an element, as shares of its width and height."""
        x, y = self.place(selector, across, down)
        self.mouse("mousePressed", x, y)
        self.mouse("mouseReleased", x, y)

    def tap(self, selector, across, down):
        """Touches a place of an element."""
        x, y = self.place(selector, across, down)
        for kind, points in (("touchStart", [{"x": x, "y": y}]), ("touchEnd", [])):
            event = {"type": kind, "touchPoints": points}
            self.driver.execute_cdp_cmd("Input.dispatchTouchEvent", event)

    def place(self, selector, across, down):
        """Coordinates of a place of an element in the window."""
        found = f"const e = document.querySelector({json.dumps(selector)})"
        box = self.driver.execute_script(
            f"{found}; e.scrollIntoView({{block: 'center'}}); const b = e.getBoundingClientRect();"
            "return [b.left, b.top, b.width, b.height]"
        )
        return box[0] + across * box[2], box[1] + down * box[3]

    def choose(self, selector, path):
        """Chooses a file."""
        self.driver.find_element("css selector", selector).send_keys(str(path))

    def key(self, name, modifiers=0):
        """Presses a key."""
        for kind in ("rawKeyDown", "keyUp"):
            event = {"type": kind, "key": name, "code": name, "modifiers": modifiers}
            event["windowsVirtualKeyCode"] = KEY_CODES.get(name, 0)
            self.driver.execute_cdp_cmd("Input.dispatchKeyEvent", event)

    def text(self, selector):
        """The text of an element."""
        return self.run(f"document.querySelector({json.dumps(selector)}).textContent")

    def errors(self):
        """What the console shows of warnings and errors."""
        return [line for line in self.driver.get_log("browser") if line["level"] != "INFO"]

    def requests(self):
        """Addresses that a page asked for since the last call, but for data in the page itself."""
        found = []
        for line in self.driver.get_log("performance"):
            message = json.loads(line["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                found.append(message["params"]["request"]["url"])
        return [url for url in found if not url.startswith(("data:", "blob:", "chrome:", "about:"))]


@contextlib.contextmanager
def started(profile, *flags):
    """A browser with a fresh profile; the test is skipped where there is none."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    binary = next(filter(None, map(shutil.which, BINARIES)), None)
    driver = shutil.which("chromedriver")
    if binary is None or driver is None:
        pytest.skip("no chromium with chromedriver on the path")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in (*FLAGS, *flags, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = webdriver.chrome.service.Service(driver)
    opened = webdriver.Chrome(options=options, service=service)
    try:
        yield Browser(opened)
    finally:
        opened.quit()
