"""The growth of cost as a picture."""

import matplotlib
import numpy as np

__all__ = ["plot_growth"]

LEFT_OUT = {"config", "axis", "value"}


def plot_growth(rows: list[dict], path: str) -> None:
    """Write a panel for each axis: seconds of each path, or GiB of each switch.

    Args:
        rows: of the task growth.
        path: of the PNG.
    """
    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = list(dict.fromkeys(row["axis"] for row in rows))
    figure, axes = pyplot.subplots(1, len(names), figsize=(3.6 * len(names), 3.2))
    for name, panel in zip(names, np.atleast_1d(axes), strict=True):
        of_axis = [row for row in rows if row["axis"] == name]
        for line in (key for key in of_axis[0] if key not in LEFT_OUT):
            memory = "peak_memory_bytes" in of_axis[0][line]
            values = [
                row[line]["peak_memory_bytes"] / 2**30 if memory else row[line]["median_ms"] / 1e3
                for row in of_axis
            ]
            panel.plot([row["value"] for row in of_axis], values, marker="o", label=line)
        panel.set_xlabel(name)
        panel.set_ylabel("GiB" if memory else "seconds")
        panel.set_ylim(bottom=0)
        panel.legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(path, dpi=100)
