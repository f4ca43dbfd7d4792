"""The version that is installed."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("anomalyr1")
except PackageNotFoundError:  # run from a checkout that is not installed
    __version__ = "not installed"
