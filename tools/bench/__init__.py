"""The speed of cfvid as ratios against a reference measured in the same run; see docs/BENCHMARKS.md."""
