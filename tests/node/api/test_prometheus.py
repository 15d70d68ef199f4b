"""Prometheus' text format, as its own parser reads it."""

from node.api.prometheus import Metric, single, write_metrics


def test_values_and_labels_are_written_as_the_format_says() -> None:
    metrics = [
        single("a_total", "counter", "how many", 3),
        Metric("b", "gauge", "a back\\slash and\na line", [({"model": 'x"\\\n', "n": "1"}, 0.5), ({}, 2e300)]),
        Metric("c", "gauge", "nothing yet", []),
    ]
    assert write_metrics(metrics) == (
        "# HELP a_total how many\n# TYPE a_total counter\na_total 3\n"
        "# HELP b a back\\\\slash and\\na line\n# TYPE b gauge\n"
        'b{model="x\\"\\\\\\n",n="1"} 0.5\nb ' + str(int(2e300)) + "\n"
        "# HELP c nothing yet\n# TYPE c gauge\n"
    )
