"""Figures of a study: which exist, what they mark, and that they are reproducible."""

import csv
import itertools
import json

import numpy as np
import pytest
from matplotlib import rc_context
from matplotlib.collections import LineCollection
from matplotlib.colors import to_hex
from matplotlib.image import imread
from matplotlib.patches import Rectangle

from simlib.core.config import SimConfig
from simlib.core.records import TTFT_PARTS
from simlib.errors import InvalidParameterError
from simlib.study.figures import write, write_figures
from simlib.study.figures.crossover import crossover_figure
from simlib.study.figures.data import StudyData
from simlib.study.figures.kinds import KINDS, pages
from simlib.study.figures.place import ByPlace, level_key
from simlib.study.figures.style import STYLE, WARNING, level_text, series_styles
from simlib.study.jobs import outputs

STATISTICS = ("mean", "p50", "p90", "p95", "p99")
ALWAYS = {"ttft_parts", "utilization"}


class Tables:
    """A synthetic study in a folder: TTFT rises with every factor's level."""

    def __init__(
        self,
        folder,
        factors,
        *,
        compare=None,
        crossover=None,
        unstable=lambda where: False,
        unfair="",
        requests=False,
        missing=(),
        lower_bounds="",
        verdicts=("slower", "too close to call", "slower"),
        turned=None,
    ):
        self.study = folder / "study.json"
        self.tables = folder / "tables"
        self.output = folder / "figures"
        self.tables.mkdir(parents=True)
        rows, summary = [], []
        for levels in itertools.product(*factors.values()):
            where = dict(zip(factors, levels, strict=True))
            index = len(rows)
            config = SimConfig(mode=where.get("mode", "mono")).to_dict()
            if "arrival.rate_per_s" in where:
                config["arrival"]["rate_per_s"] = where["arrival.rate_per_s"]
            rows.append(
                {"coordinates": where, "point_id": f"{index:016x}", "config": config,
                 "replicates": 3, "precision_id": None, "precision_place": 0}
            )  # fmt: skip
            verdict = "unstable" if unstable(where) else "stable"
            summary.append(_summary_line(where, index, verdict, missing, lower_bounds))
        _write(self.tables / "summary.csv", summary)
        if compare:
            self._compare(factors, compare, unstable, unfair, verdicts, turned or {})
        if crossover:
            _write(self.tables / "crossover.csv", _crossings(factors, compare, crossover))
        if requests:
            _write(self.tables / "distribution.csv", _distributions(rows, summary))
        study = {
            "name": "synthetic",
            "title": "A synthetic study",
            "factors": [
                {"name": name, "keys": [name], "levels": levels} for name, levels in factors.items()
            ],
            "rows": rows,
            "compare": compare,
            "crossover": crossover,
            "precision": None,
            "requests_table": requests,
        }
        self.study.write_text(json.dumps(study))

    def _compare(self, factors, compare, unstable, unfair, verdicts, turned):
        comparison, attribution = [], []
        factor, baseline = compare["factor"], compare["baseline"]
        others = {name: levels for name, levels in factors.items() if name != factor}
        for candidate in factors[factor]:
            if candidate == baseline:
                continue
            for i, levels in enumerate(itertools.product(*others.values())):
                where = dict(zip(others, levels, strict=True))
                head = {**where, "baseline": baseline, "candidate": candidate}
                size = 0.1 * (i - 1)
                sides = {
                    f"{name}_stability": "unstable"
                    if unstable({**where, factor: side})
                    else "stable"
                    for name, side in (("baseline", baseline), ("candidate", candidate))
                }
                verdict = verdicts[i % len(verdicts)]
                for statistic in STATISTICS:
                    line = {**head, "statistic": f"{statistic}_ttft_s", "ratio": 1 + size}
                    line |= _interval("difference_s", size)
                    line |= {"verdict": verdict, "other_definitions": turned.get(i, "")}
                    comparison.append({**line, **sides, "unfair": unfair})
                for part in (*TTFT_PARTS, "total"):
                    share = size if part in ("decode_wait_s", "total") else 0.0
                    attribution.append({**head, "part": part, **_interval("difference_s", share)})
        _write(self.tables / "comparison.csv", comparison)
        _write(self.tables / "attribution.csv", attribution)

    def write(self):
        return write_figures(self.study, self.tables, self.output)

    def data(self):
        return StudyData.read(self.study, self.tables)


def _interval(name, value):
    return {name: value, f"{name}_low": value - 0.03, f"{name}_high": value + 0.03}


def _summary_line(where, index, verdict, missing, lower_bounds):
    line = {**where, "point_id": f"{index:016x}", "replicates": 3, "window_s": 540.0,
            "stability": verdict, "ttft_definition": "first_decode_step",
            "lower_bounds": lower_bounds}  # fmt: skip
    pools = ("gpu",) if where.get("mode", "mono") == "mono" else ("prefill", "decode")
    for pool in ("gpu", "prefill", "decode"):
        line[f"utilization_{pool}"] = min(0.1 * (index + 1), 1.0) if pool in pools else ""
    for rank, statistic in enumerate(STATISTICS):
        name = f"{statistic}_ttft_s"
        value = 0.1 * (index + 1) * (rank + 1)
        line |= _interval(name, value)
        if name in missing:
            line |= dict.fromkeys((name, f"{name}_low", f"{name}_high"), "")
    for part in TTFT_PARTS:
        line[f"mean_{part}"] = 0.05 * (index + 1) if part.startswith("prefill") else 0.0
    return line


def _crossings(factors, compare, crossover):
    return [
        {crossover["y"]: level, "baseline": compare["baseline"], "candidate": candidate,
         "statistic": f"{statistic}_ttft_s", "along": crossover["x"],
         "crossover": 1.5, "crossover_low": 1.2, "crossover_high": 1.8}
        for level in factors[crossover["y"]]
        for candidate in factors[compare["factor"]]
        if candidate != compare["baseline"]
        for statistic in ("mean", "p99")
    ]  # fmt: skip


def _distributions(rows, summary):
    return [
        {**row["coordinates"], "share": share, "ttft_s": share * float(line["mean_ttft_s"])}
        for row, line in zip(rows, summary, strict=True)
        for share in np.linspace(0.01, 1.0, 50)
    ]


def _write(path, lines):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)


RATES = {"mode": ["mono", "disagg"], "arrival.rate_per_s": [1, 2, 4]}
MODES = {"factor": "mode", "baseline": "mono"}


@pytest.fixture(autouse=True)
def _style():
    with rc_context(STYLE):
        yield


def figures(data, name=None):
    """Return the figures of a study, or of one kind, by their file's name."""
    drawn = {}
    for kind in [name] if name else KINDS:
        for stem, page in pages(kind, data):
            figure = KINDS[kind].draw(page)
            if figure is not None:
                drawn[stem] = figure
    return drawn


def ttft_figure(data):
    (figure,) = figures(data, "ttft_vs_<factor>").values()
    return figure


def stems(paths):
    return {path.stem for path in paths}


def texts(figure):
    return [text.get_text() for text in figure.texts]


def marks(ax):
    """Return x and marker of each drawn point of a panel: hollow, filled, or a cross."""
    found = []
    for line in ax.lines:
        if line.get_marker() not in ("None", "", None):
            white = to_hex(line.get_markerfacecolor()) == "#ffffff"
            kind = "cross" if line.get_marker() == "x" else "hollow" if white else "filled"
            found += [(x, kind) for x in line.get_xdata()]
    return found


def hollow(ax):
    return [x for x, kind in marks(ax) if kind == "hollow"]


def shown(folder):
    """Return the files of a folder, but for the note of what was written."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def test_every_figure_of_a_comparison_is_written_as_png_and_svg(tmp_path):
    study = Tables(
        tmp_path,
        {**RATES, "sim_seconds": [600, 900]},
        compare=MODES,
        crossover={"x": "arrival.rate_per_s", "y": "sim_seconds"},
        unstable=lambda where: where["arrival.rate_per_s"] == 4,
        requests=True,
    )
    written = study.write()
    assert stems(written) == ALWAYS | {
        "ttft_vs_arrival_rate_per_s", "ttft_ecdf", "difference", "attribution", "crossover_map",
    }  # fmt: skip
    assert sorted(written) == shown(study.output)
    assert {path.suffix for path in written} == {".png", ".svg"}
    for path in written:
        if path.suffix == ".png":
            height, width, _ = imread(path).shape
            assert min(height, width) > 200


def test_equal_tables_give_equal_bytes_and_leave_no_other_folder(tmp_path):
    modes = {"mode": ["mono", "disagg"]}
    study = Tables(tmp_path, modes, compare=MODES, requests=True)
    before = {path: path.read_bytes() for path in study.write()}
    stale, foreign = study.output / "stale.svg", study.output / "mine.svg"
    stale.write_text("from an earlier study")
    foreign.write_text("of the user")
    outputs.record(study.output, "figures", [*(path.name for path in before), stale.name])
    after = {path: path.read_bytes() for path in study.write()}
    assert before == after
    assert set(shown(study.output)) == {*after, foreign}  # the stale figure is gone
    assert sorted(p.name for p in tmp_path.iterdir()) == ["figures", "study.json", "tables"]


def test_a_failed_drawing_leaves_the_old_figures(tmp_path):
    study = Tables(tmp_path, {}, requests=True)
    before = {path: path.read_bytes() for path in study.write()}
    (study.tables / "distribution.csv").write_bytes(b"damaged\n1\n")
    with pytest.raises(KeyError):
        study.write()
    assert {path: path.read_bytes() for path in shown(study.output)} == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["figures", "study.json", "tables"]


def test_unstable_points_are_hollow_shaded_and_left_out_of_the_line(tmp_path):
    def unstable(where):
        return where["mode"] == "disagg" and where["arrival.rate_per_s"] == 4

    study = Tables(tmp_path, RATES, compare=MODES, unstable=unstable)
    figure = ttft_figure(study.data())
    for ax in figure.axes:
        assert hollow(ax) == [4]
        assert len(marks(ax)) == 6
        joined = [line for line in ax.lines if line.get_linestyle() != "None"]
        joined = [line for line in joined if len(line.get_xdata()) == 3]
        assert sorted(int(np.isnan(line.get_ydata()).sum()) for line in joined) == [0, 1]
        assert len(ax.patches) == 1  # the shade, around x = 4
        shade = ax.patches[0].get_extents().transformed(ax.transData.inverted())
        assert 2 < shade.x0 < 4 < shade.x1


def test_stable_points_are_neither_hollow_nor_shaded(tmp_path):
    figure = ttft_figure(Tables(tmp_path, RATES, compare=MODES).data())
    assert all(not hollow(ax) and not ax.patches for ax in figure.axes)


def test_differences_mark_verdicts_and_instability(tmp_path):
    study = Tables(
        tmp_path, RATES, compare=MODES, unstable=lambda where: where["arrival.rate_per_s"] == 4
    )
    (figure,) = figures(study.data(), "difference").values()
    for ax in figure.axes:
        assert dict(marks(ax)) == {1: "filled", 2: "cross", 4: "hollow"}


def test_differences_tell_equal_from_too_close_and_ring_what_a_definition_turns(tmp_path):
    study = Tables(
        tmp_path,
        RATES,
        compare=MODES,
        verdicts=("equal within 7%", "too close to call", "slower"),
        turned={2: "prefill_end: faster"},
    )
    (figure,) = figures(study.data(), "difference").values()
    for ax in figure.axes:
        drawn = {line.get_marker(): list(line.get_xdata()) for line in ax.lines}
        assert drawn["$=$"] == [1]
        assert drawn["x"] == [2]
        rings = [line for line in ax.lines if line.get_markersize() > 10]
        assert [list(line.get_xdata()) for line in rings] == [[4]]
        assert rings[0].get_markerfacecolor() == "none"
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels[-4:] == [
        "significant difference",
        "equal within 7%",
        "too close to call",
        "another TTFT definition says otherwise",
    ]


@pytest.mark.parametrize("unfair", ["", "GPUs differ: 4 against 6"])
def test_unequal_hardware_is_said_in_red_on_every_figure(tmp_path, unfair):
    study = Tables(
        tmp_path,
        {**RATES, "sim_seconds": [600, 900]},
        compare=MODES,
        crossover={"x": "arrival.rate_per_s", "y": "sim_seconds"},
        unfair=unfair,
        requests=True,
    )
    drawn = figures(study.data())
    assert len(drawn) == 7
    for figure in drawn.values():
        red = [text.get_text() for text in figure.texts if text.get_color() == WARNING]
        assert red == ([f"UNEQUAL HARDWARE: {unfair} (disaggregated)"] if unfair else [])


def test_the_heading_says_definition_window_replicates_and_confidence(tmp_path):
    figure = ttft_figure(Tables(tmp_path, RATES, compare=MODES).data())
    heading = " ".join(texts(figure)).replace("\u00a0", " ")
    for words in ("A synthetic study", "end of the first decode step", "window 60–600 s",
                  "3 replicates", "95% confidence intervals"):  # fmt: skip
        assert words in heading


def test_theory_is_drawn_on_the_mean_of_monolithic_serving_only(tmp_path):
    figure = ttft_figure(Tables(tmp_path, RATES, compare=MODES).data())
    dotted = [[line for line in ax.lines if line.get_linestyle() == ":"] for ax in figure.axes]
    assert [len(lines) for lines in dotted] == [1, 0, 0, 0]
    x, y = dotted[0][0].get_data()
    assert (x[0], x[-1]) == (1, 4)
    assert np.all(np.diff(y) > 0)
    # at a low load, TTFT is little more than the mean prefill: about 600 tokens at 8,000/s
    assert y[0] == pytest.approx(0.0757, rel=0.02)
    assert "M/G/c, Lee–Longton approx." in [t.get_text() for t in figure.legends[0].get_texts()]


def test_a_percentile_without_enough_samples_gets_a_note_instead_of_an_empty_panel(tmp_path):
    study = Tables(tmp_path, RATES, compare=MODES, missing=("p99_ttft_s",))
    figure = ttft_figure(study.data())
    assert len(figure.axes) == 3
    assert any("p99 everywhere" in text for text in texts(figure))


def test_lower_bounds_are_marked(tmp_path):
    study = Tables(tmp_path, RATES, lower_bounds="p99_ttft_s")
    figure = ttft_figure(study.data())
    arrows = [sum(text.get_text() == "↑" for text in ax.texts) for ax in figure.axes]
    assert arrows == [0, 0, 0, 6]


@pytest.mark.parametrize(
    ("factors", "compare", "stem"),
    [
        ({}, None, "ttft"),
        ({"arrival.rate_per_s": [1, 2]}, None, "ttft_vs_arrival_rate_per_s"),
        ({"mode": ["mono", "disagg"], "arrival.rate_per_s": [3]}, MODES,
         "ttft_vs_arrival_rate_per_s"),
        ({"mode": ["mono", "disagg"]}, MODES, "ttft_vs_mode"),
        ({"mode": ["mono", "disagg"], "engine": ["fast", "simpy"]}, MODES, "ttft_vs_engine"),
        ({"random_seed": [1, 2, 3], "drain": [True, False]},
         {"factor": "random_seed", "baseline": 1}, "ttft_vs_drain"),
    ],
)  # fmt: skip
def test_any_shape_of_study_has_figures(tmp_path, factors, compare, stem):
    data = Tables(tmp_path, factors, compare=compare, requests=True).data()
    drawn = figures(data)
    expected = ALWAYS | {stem, "ttft_ecdf"} | ({"difference", "attribution"} if compare else set())
    assert set(drawn) == expected
    for figure in drawn.values():
        assert all(ax.has_data() for ax in figure.axes)  # no empty panels


def test_twelve_lines_look_different_and_are_all_in_the_legend(tmp_path):
    names = [f"{n}P{13 - n}D" for n in range(1, 13)]
    study = Tables(
        tmp_path,
        {"deployment": names, "arrival.rate_per_s": [1, 2]},
        compare={"factor": "deployment", "baseline": "1P12D"},
    )
    figure = ttft_figure(study.data())
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert set(names) <= set(labels)
    styles = series_styles(names, ordered=False)
    assert len({(style.color, style.linestyle) for style in styles}) == 12
    assert len({style.marker for style in styles}) == 12


def test_many_places_are_spread_over_pages(tmp_path):
    factors = {
        **RATES, "prompt_tokens.mean": [5, 6, 7], "output_tokens.mean": [5, 6, 7],
    }  # fmt: skip
    drawn = figures(Tables(tmp_path, factors, compare=MODES).data(), "ttft_vs_<factor>")
    assert list(drawn) == ["ttft_vs_arrival_rate_per_s_1", "ttft_vs_arrival_rate_per_s_2"]
    assert sum(len(figure.axes) for figure in drawn.values()) == 9 * 4


def test_no_text_of_a_figure_lies_outside_it(tmp_path):
    names = [f"a deployment with a long name, {n}" for n in range(12)]
    study = Tables(
        tmp_path,
        {"deployment": names},
        compare={"factor": "deployment", "baseline": names[0]},
        unfair="GPUs differ: 4 against 6; prefill_tokens_per_s differ: 8000 against 16000",
        requests=True,
    )
    for stem, figure in figures(study.data()).items():
        figure.canvas.draw()
        box = figure.bbox.padded(1)
        drawn = [
            text
            for ax in figure.axes
            for text in ax.get_xticklabels()
            if ax.get_xlim()[0] <= text.get_position()[0] <= ax.get_xlim()[1]
        ]
        for text in [*figure.texts, *figure.legends, *drawn]:
            inside = text.get_window_extent()
            assert box.x0 <= inside.x0, (stem, text)
            assert inside.x1 <= box.x1, (stem, text)
            assert box.y0 <= inside.y0, (stem, text)


def test_tables_of_another_version_of_the_study_are_refused(tmp_path):
    study = Tables(tmp_path, RATES, compare=MODES)
    lines = (study.tables / "summary.csv").read_text().splitlines(keepends=True)
    (study.tables / "summary.csv").write_text("".join(lines[:-1]))
    with pytest.raises(InvalidParameterError, match=r"summary\.csv must be a line for each row"):
        study.write()


@pytest.mark.parametrize(
    ("level", "in_table"),
    [(1, "1"), (0.1 + 0.2, "0.3"), (25e9, "2.5e+10"), (True, "True"), ("1P3D", "1P3D"), (None, "")],
)
def test_levels_are_recognised_in_tables(level, in_table):
    assert level_key(level) == level_key(in_table)


def test_level_texts_are_short():
    assert level_text("cluster_disagg.kv_bandwidth_bytes_per_s", 25e9) == "25G"
    assert level_text("arrival.rate_per_s", 8000) == "8000"
    assert level_text("mode", "disagg") == "disaggregated"


def edited(study, change):
    """Write summary.csv anew, each line as `change` returns it."""
    path = study.tables / "summary.csv"
    with path.open(newline="") as file:
        lines = [change(line) for line in csv.DictReader(file)]
    _write(path, lines)


def drawn_by(study, kept, monkeypatch):
    """Return which figures a call draws, and the bytes of all that it leaves."""
    drawn = []
    save = write._save

    def noted(figure, files):
        drawn.append(files[0].stem)
        save(figure, files)

    monkeypatch.setattr(write, "_save", noted)
    paths = write_figures(study.study, study.tables, study.output, kept=kept)
    monkeypatch.setattr(write, "_save", save)
    return drawn, {path: path.read_bytes() for path in paths}


def test_an_edit_draws_only_the_pages_that_show_it(tmp_path, monkeypatch):
    factors = {
        **RATES, "prompt_tokens.mean": [5, 6, 7], "output_tokens.mean": [5, 6, 7],
    }  # fmt: skip
    study, kept = Tables(tmp_path, factors, compare=MODES), tmp_path / "kept"
    first, whole = drawn_by(study, kept, monkeypatch)
    assert {"ttft_parts_1", "ttft_parts_2", "difference_2"} <= set(first)
    assert drawn_by(study, kept, monkeypatch) == ([], whole)
    edited(study, lambda line: {
        **line, "p50_ttft_s": "7" if line["prompt_tokens.mean"] == "5" else line["p50_ttft_s"],
    })  # fmt: skip
    again, now = drawn_by(study, kept, monkeypatch)
    assert set(again) == {stem for stem in first if stem.endswith("_1")}
    assert set(now) == set(whole)
    _, without = drawn_by(study, None, monkeypatch)
    assert now == without  # what was kept is what would be drawn
    assert len(list(kept.iterdir())) == len(now)  # nothing of before the edit


def test_a_study_may_do_without_svg(tmp_path):
    study = Tables(tmp_path, RATES, compare=MODES)
    described = json.loads(study.study.read_text())
    study.study.write_text(json.dumps({**described, "svg": False}))
    assert {path.suffix for path in study.write()} == {".png"}


def test_overload_does_not_stretch_the_axis_and_stands_at_its_edge(tmp_path):
    def unstable(where):
        return where["mode"] == "disagg" and where["arrival.rate_per_s"] == 4

    study = Tables(tmp_path, RATES, compare=MODES, unstable=unstable)
    before = [ax.get_ylim() for ax in ttft_figure(study.data()).axes]
    edited(study, lambda line: {
        **line, **({"mean_ttft_s": "9000"} if line["stability"] == "unstable" else {}),
    })  # fmt: skip
    figure = ttft_figure(study.data())
    assert [ax.get_ylim() for ax in figure.axes] == before
    top = before[0][1]
    at_edge = [line for line in figure.axes[0].lines if line.get_marker() == "^"]
    assert [(line.get_xdata()[0], line.get_ydata()[0]) for line in at_edge] == [(4, top)]
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert "unstable, beyond the axis" in labels


def test_an_open_interval_ends_in_a_caret_at_the_edge(tmp_path):
    study = Tables(tmp_path, RATES, compare=MODES)
    edited(study, lambda line: {
        **line, **({"mean_ttft_s_high": "inf"} if line["arrival.rate_per_s"] == "4" else {}),
    })  # fmt: skip
    figure = ttft_figure(study.data())
    ax = figure.axes[0]
    carets = [line for line in ax.lines if line.get_marker() == 10]
    assert [(list(line.get_xdata()), line.get_ydata()[0]) for line in carets] == [
        ([4], ax.get_ylim()[1])
    ] * 2
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert "interval open on this side" in labels


def test_parts_are_those_of_the_definition_and_the_text_is_their_sum(tmp_path):
    study = Tables(tmp_path, {"mode": ["mono", "disagg"]}, compare=MODES)
    edited(study, lambda line: {
        **line, "ttft_definition": "prefill_end", "mean_prefill_wait_s": "1.0",
        "mean_prefill_s": "3.0", "mean_decode_wait_s": "100",
    })  # fmt: skip
    (figure,) = figures(study.data(), "ttft_parts").values()
    (ax,) = figure.axes
    assert [text.get_text() for text in ax.texts] == ["4 s", "4 s"]
    widths = [bar.get_width() for bar in ax.patches]
    assert widths == pytest.approx([0.25, 0.75] * 2)
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["prefill wait", "prefill"]


def test_bars_stand_at_the_highest_load_where_sides_can_be_compared(tmp_path):
    rates = {"mode": ["mono", "disagg"], "arrival.rate_per_s": [1, 2, 3, 4, 5, 6]}
    study = Tables(
        tmp_path, rates, compare=MODES, unstable=lambda where: where["arrival.rate_per_s"] > 5
    )
    (figure,) = figures(study.data(), "ttft_parts").values()
    assert [ax.get_title() for ax in figure.axes] == [
        f"arrival rate {rate} requests/s" for rate in (1, 3, 5)
    ]


def test_nothing_stable_still_has_figures(tmp_path):
    study = Tables(tmp_path, RATES, compare=MODES, unstable=lambda where: True, requests=True)
    drawn = figures(study.data())
    assert ALWAYS | {"ttft_vs_arrival_rate_per_s", "ttft_ecdf", "difference"} <= set(drawn) | {
        "ttft_parts"
    }


def test_the_map_tells_equal_sides_from_what_is_too_close_to_call(tmp_path):
    study = Tables(
        tmp_path,
        {**RATES, "sim_seconds": [600, 900]},
        compare=MODES,
        crossover={"x": "arrival.rate_per_s", "y": "sim_seconds"},
        verdicts=("equal within 7%", "too close to call", "slower"),
    )
    figure = crossover_figure(study.data())
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels.index("equal within 7%") + 1 == labels.index("too close to call")
    drawn = dict(zip(labels, figure.legends[0].get_patches(), strict=False))
    cells = [patch for patch in figure.axes[0].patches if isinstance(patch, Rectangle)]
    for words, count in (("equal within 7%", 2), ("too close to call", 2)):
        looks = (drawn[words].get_facecolor(), drawn[words].get_hatch())
        alike = [cell for cell in cells if (cell.get_facecolor(), cell.get_hatch()) == looks]
        assert len(alike) == count, words


@pytest.mark.parametrize(
    ("low", "high", "reach"),
    [
        ("1.25", "1.75", [0.25, 0.75]),
        ("-inf", "1.75", [-0.5, 0.75]),
        ("1.25", "inf", [0.25, 2.5]),
        ("-inf", "inf", None),
    ],
)
def test_the_map_draws_crossings_as_far_as_the_data_bound_them(tmp_path, low, high, reach):
    study = Tables(
        tmp_path,
        {"mode": ["mono", "disagg"], "arrival.rate_per_s": [1, 2, 3], "sim_seconds": [600]},
        compare=MODES,
        crossover={"x": "arrival.rate_per_s", "y": "sim_seconds"},
    )
    table = study.tables / "crossover.csv"
    lines = [one.replace("1.2,1.8", f"{low},{high}") for one in table.read_text().splitlines()]
    table.write_text("\n".join(lines) + "\n")
    figure = crossover_figure(study.data())
    drawn = [
        [x for x, _ in segment]
        for collection in figure.axes[0].collections
        if isinstance(collection, LineCollection)
        for segment in collection.get_segments()
    ]
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert drawn == ([] if reach is None else [pytest.approx(reach)])
    assert ("crossover, 95% interval" in labels) == (reach is not None)


def test_the_trade_shows_ratios_with_verdicts_where_the_pace_differs(tmp_path):
    study = Tables(tmp_path, RATES, compare=MODES)
    assert not figures(study.data(), "tradeoff")  # no time between tokens to compare
    with (study.tables / "comparison.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    tpot = [
        {**line, "statistic": line["statistic"].replace("ttft", "tpot"), "ratio": "0.5",
         "ratio_low": "0.4", "ratio_high": "0.6", "verdict": "faster"}
        for line in lines
    ]  # fmt: skip
    _write(study.tables / "comparison.csv",
           [{**line, "ratio_low": "", "ratio_high": ""} for line in lines] + tpot)  # fmt: skip
    edited(study, lambda line: {**line, "p99_tpot_s": "0.02"})
    (figure,) = figures(study.data(), "tradeoff").values()
    titles = [ax.get_title() for ax in figure.axes]
    ratios = [f"p99 {metric}, ratio to monolithic" for metric in ("TTFT", "TPOT")]
    assert titles == ["p99 TPOT against p99 TTFT", *ratios]
    assert dict(marks(figure.axes[2])) == {1: "filled", 2: "filled", 4: "filled"}
    assert dict(marks(figure.axes[1]))[2] == "cross"
    (line,) = [one for one in figure.axes[0].lines if one.get_linestyle() != "None"][:1]
    assert list(line.get_ydata()) == [20.0] * 3  # milliseconds


def test_places_are_found_as_by_a_search(tmp_path):
    items = [
        {"a": a, "b": b, "n": str(n)}
        for n, (a, b) in enumerate(itertools.product(["1", "2", "", "x"], ["True", "0.1", ""]))
    ]
    table = ByPlace(items, lambda item: item)
    for a, b in itertools.product([1, 2.0, "x", "y", None], [True, 0.1, 5]):
        expected = [
            item for item in items
            if level_key(item["a"]) in (None, level_key(a))
            and level_key(item["b"]) in (None, level_key(b))
        ]  # fmt: skip
        assert table.at({"a": a}, b=b) == expected
    assert table.at({"a": ""}) == []
    assert list(table.only([{"a": 2}, {"a": 1}])) == [i for i in items if i["a"] in ("1", "2", "")]
