"""What a figure shows, in words: numbers of the description are those of the traces."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest

from rislab.reports import figure_content


def packed(values: Any) -> dict[str, Any]:
    array = np.asarray(values, dtype=np.float32)
    shape = {"shape": ", ".join(map(str, array.shape))} if array.ndim > 1 else {}
    return {"dtype": "f4", "bdata": base64.b64encode(array.tobytes()).decode(), **shape}


LOSS = {
    "data": [
        {"name": "<b>train</b>", "x": [0, 1, 2, 3], "y": packed([0.5, np.nan, 0.0625, 0.25])},
        {"name": "hidden", "y": [7], "visible": "legendonly"},
        {"y": [9, 9], "hoverinfo": "skip"},
    ],
    "layout": {
        "title": {"text": "Loss"},
        "yaxis": {"type": "log", "title": {"text": "NMSE"}},
        "xaxis": {"title": "step"},
    },
}
MAP = {
    "data": [{"type": "heatmap", "z": packed([[-3, -1], [-2, 0]]), "x": [10, 20], "y": packed([1, 2])}],
    "layout": {"annotations": [{"text": "beam<br>map", "xref": "paper", "yanchor": "bottom"}]},
}
BARS = {"data": [{"type": "bar", "x": ["a", "b"], "y": [3, 5]}], "layout": {}}


@pytest.mark.parametrize(
    ("figure", "text"),
    [
        (LOSS, "Loss. NMSE (logarithmic) over step. train: 4 values from 0.5 to 0.25, least 0.0625, greatest 0.5"),
        (MAP, "beam map. map: 2 by 2 values from -3 to 0, greatest at 20, 2"),
        (BARS, "bars: a 3, b 5"),
        ({"data": [], "layout": {}}, "empty figure"),
        ({"data": [{"y": [None]}], "layout": {"title": "Nothing"}}, "Nothing"),
    ],
)
def test_a_description_states_what_was_measured(figure: dict[str, Any], text: str) -> None:
    assert figure_content.describe_figure(figure) == text


def test_any_kind_of_trace_is_described() -> None:
    traces = [
        go.Scatter3d(x=[1], y=[2], z=[3]), go.Surface(z=np.eye(3)), go.Table(), go.Box(y=[1, 2]), go.Histogram(x=[1]),
        go.Scatterpolar(r=[1, 2], theta=[0, 90]), go.Indicator(value=3), go.Pie(labels=["a"], values=[1]),
        go.Bar(x=[1, 2], y=["a", "b"], orientation="h"), go.Contour(z=np.eye(2)), go.Scatter(y=[]),
        go.Heatmap(z=[[None]]),
    ]  # fmt: skip
    for trace in traces:
        assert figure_content.describe_figure(go.Figure(trace, {"title": "T"}).to_plotly_json()).startswith("T")
    many = [{"y": [1, 2], "name": f"n{number}"} for number in range(20)]
    assert figure_content.describe_figure({"data": many}).endswith(". 8 more")


def test_a_legend_has_each_name_once_in_its_colour() -> None:
    curves = [
        {"name": "a", "mode": "lines", "line": {"color": "#123456", "dash": "dot"}},
        {"name": "b", "mode": "markers"},
        {"name": "out", "showlegend": False},
    ]
    layout = {"template": {"layout": {"colorway": ["red", "green"]}}}
    entries = figure_content.legend(
        [{"data": curves, "layout": layout}, {"data": [*curves, {"type": "bar", "name": "c"}]}]
    )
    assert [(one["name"], one["kind"], one["colour"], one["dash"]) for one in entries] == [
        ("a", "line", "#123456", "dot"), ("b", "marker", "green", "solid"), ("c", "bar", "currentColor", "solid"),
    ]  # fmt: skip
