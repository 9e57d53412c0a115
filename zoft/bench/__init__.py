"""The benchmark: zeroth-, first- and second-order methods on equal terms (``docs/benchmark.md``)."""
