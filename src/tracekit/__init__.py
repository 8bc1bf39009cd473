"""tracekit: videos to captioned 3D interaction traces, and the trace world model that learns from them."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("tracekit")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0+unknown"
