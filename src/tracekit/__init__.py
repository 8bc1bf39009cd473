"""tracekit: videos to captioned 3D interaction traces, and the trace world model that learns from them."""

__version__ = "0.1.0"
