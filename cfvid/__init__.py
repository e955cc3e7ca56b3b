"""cfvid: ClusterFit for images and videos, from a pool of files to a table of transfer scores."""

__version__ = "0.1.0"
