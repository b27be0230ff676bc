"""What all tests share: threads, markers, and the real images where there are any."""

import os

# Before torch is imported anywhere: one worker's threads must not crowd out the other's.
_WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // _WORKERS)))
os.environ.setdefault("MPLBACKEND", "Agg")

import shutil
from pathlib import Path

import pytest

_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


def pytest_addoption(parser):
    parser.addoption(
        "--must-run",
        action="append",
        default=[],
        metavar="MARKER",
        help="a test with this marker fails where it would be skipped (may be repeated)",
    )


def pytest_runtest_setup(item):
    if item.get_closest_marker("real_data") and _data_folder() is None:
        pytest.skip("no real images: set GALSTRESS_DATA to the folder that holds them")
    if item.get_closest_marker("browser") and _browser() is None:
        pytest.skip("no browser: install chromium")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    required = [name for name in item.config.getoption("--must-run") if item.get_closest_marker(name)]
    if report.skipped and required and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, but --must-run {required[0]} was given: {report.longrepr[-1]}"
    return report


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of the real images; for tests marked ``real_data``."""
    folder = _data_folder()
    if folder is None:
        pytest.skip("no real images: set GALSTRESS_DATA to the folder that holds them")
    return folder


@pytest.fixture(scope="session")
def browser() -> str:
    """Path of Chromium; for tests marked ``browser``."""
    found = _browser()
    if found is None:
        pytest.skip("no browser: install chromium")
    return found


@pytest.fixture(scope="session")
def repository() -> Path:
    """The checkout that the tests run in."""
    return Path(__file__).resolve().parents[1]


def _data_folder() -> Path | None:
    named = os.environ.get("GALSTRESS_DATA")
    return Path(named) if named and Path(named).is_dir() else None


def _browser() -> str | None:
    return next((path for path in map(shutil.which, _BROWSERS) if path), None)
