"""Everything that README and docs show is true: code runs, commands exist, lists are complete."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import shutil
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from simlib.cli.run import cli
from simlib.core.config import SimConfig
from simlib.core.validation import ConfigModel
from simlib.study.jobs.run_point import run_point
from simlib.study.jobs.workflow import Plan
from simlib.study.plan.spec import Compare, Crossover, Precision, Study, StudyFile, Sweep
from simlib.study.tables.write import write_tables

REPO = Path(__file__).resolve().parents[2]
DOCS = REPO / "docs"
PAGES = [REPO / "README.md", *sorted(DOCS.glob("*.md"))]
GUIDE = (DOCS / "user_guide.md").read_text(encoding="utf-8")
PYTHON = re.compile(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```)?", re.DOTALL | re.MULTILINE)
SHELL = re.compile(r"^```bash\n(.*?)^```", re.DOTALL | re.MULTILINE)
MAKE = re.compile(r"`make ([^`]+)`")
LINK = re.compile(r"\]\(([^)#]+)\)")

MINI = """
defaults:
  sim_seconds: 60
  warmup_seconds: 10
  request_classes: { chat: { ttft_slo_s: 0.1 } }
replicates: 2
studies:
  arrival_rate:
    sweep:
      grid: { mode: [mono, disagg], arrival.rate_per_s: [2, 3] }
      zip:
        prefill_tokens_per_s:
          cluster_mono.prefill_tokens_per_s: [4000, 8000]
          cluster_disagg.prefill_tokens_per_s: [4000, 8000]
    compare: { factor: mode, baseline: mono }
    crossover: { x: arrival.rate_per_s, y: prefill_tokens_per_s }
  batching:
    overrides: { serving: batching, timeline: true, latency.model: llama-3.1-8b }
    sweep:
      grid: { mode: [mono, disagg], arrival.rate_per_s: [2, 3] }
    compare: { factor: mode, baseline: mono }
"""


def names(pages: list[Path]) -> list[str]:
    return [str(page.relative_to(REPO)) for page in pages]


def shell_lines(page: Path) -> list[str]:
    """Return the commands of a page's bash blocks."""
    blocks = SHELL.findall(page.read_text(encoding="utf-8"))
    return [line for block in blocks for line in block.splitlines() if line.strip()]


def leaves(settings: dict, prefix: str = "") -> dict:
    """Return values by dotted key."""
    found = {}
    for key, value in settings.items():
        found |= (
            leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        )
    return found


def section(heading: str) -> str:
    """Return the text of the guide below a heading, up to the next one."""
    return re.split(r"^#+ ", GUIDE.split(f"# {heading}\n")[1], flags=re.MULTILINE)[0]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Path:
    """Return a folder as a user's: config.yaml, data, and the results of small studies."""
    folder = tmp_path_factory.mktemp("docs")
    shutil.copy(REPO / "config.yaml", folder)
    shutil.copytree(REPO / "data", folder / "data")
    with contextlib.chdir(folder):
        plan = Plan.of(yaml.safe_load(MINI), results="results", source=str(REPO))
        plan.write()
        for name in ("arrival_rate", "batching"):
            for path in map(Path, plan.results_of(name)):
                run_point(path.parent / "point.json", int(path.stem[1:]), path)
            study = Path("results/studies", name)
            write_tables(study / "study.json", Path("results"), study / "tables")
    return folder


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_python_examples_run_and_print_what_the_page_says(page, workspace, monkeypatch):
    monkeypatch.chdir(workspace)
    namespace: dict = {"__name__": "example"}
    for code, expected in PYTHON.findall(page.read_text(encoding="utf-8")):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, str(page), "exec"), namespace)
        if expected:
            assert printed.getvalue() == expected


def test_readme_guide_and_quick_start_have_python_examples_with_their_output():
    for page in (REPO / "README.md", DOCS / "user_guide.md", DOCS / "quick_start.md"):
        examples = PYTHON.findall(page.read_text(encoding="utf-8"))
        assert any(expected for _, expected in examples), page


SIMLIB = sorted(
    {
        line.removeprefix(".venv/bin/")
        for page in PAGES
        for line in shell_lines(page)
        if line.removeprefix(".venv/bin/").startswith("simlib ")
    }
)


@pytest.mark.parametrize("line", SIMLIB)
def test_simlib_commands_run(line, workspace, monkeypatch):
    monkeypatch.chdir(workspace)
    result = CliRunner().invoke(cli, shlex.split(line)[1:])
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_shell_examples_name_what_exists(page):
    text = page.read_text(encoding="utf-8")
    targets = re.findall(
        r"^([a-z-]+):", (REPO / "Makefile").read_text(encoding="utf-8"), re.MULTILINE
    )
    lines = [*shell_lines(page), *(f"make {arguments}" for arguments in MAKE.findall(text))]
    for line in lines:
        program, *arguments = shlex.split(line.removeprefix(".venv/bin/"))
        if program == "make":
            wanted = [word for word in arguments if "=" not in word]
            assert wanted, line
            assert set(wanted) <= set(targets), line
        elif program == "python":
            assert (REPO / arguments[0]).is_file(), line
        elif program == "conda":
            environment = yaml.safe_load((REPO / "environment.yml").read_text(encoding="utf-8"))
            assert {environment["name"], "environment.yml"} & set(arguments), line
        else:
            assert program in ("simlib", "snakemake", "pytest"), line


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_links_to_files_lead_somewhere(page):
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_the_guide_lists_every_setting_of_a_simulation_with_its_default():
    table = section("Settings of one simulation").split("Lengths have")[0]
    table += section("Settings of continuous batching")
    rows = re.findall(r"^\| `([a-z_.]+)` \| (\S+) \|", table, re.M)
    listed = {key: yaml.safe_load(default) for key, default in rows}
    assert listed == leaves(SimConfig().to_dict())


def test_the_guide_lists_every_key_of_the_study_file_with_its_default():
    table = section("Keys of the file and of a study")
    rows = re.findall(r"^\| `([a-z_.<>]+)` \|([^|]*)\|", table, re.M)
    listed = {key: default.strip() for key, default in rows}
    parts: dict[str, type[ConfigModel]] = {
        "sweep": Sweep,
        "compare": Compare,
        "crossover": Crossover,
        "precision": Precision,
    }
    known = dict(StudyFile.model_fields)
    known["studies.<name>"] = known.pop("studies")
    for name, field in Study.model_fields.items():
        if name not in parts:
            known[f"studies.<name>.{name}"] = field
    for part, model in parts.items():
        for name, field in model.model_fields.items():
            known[f"studies.<name>.{part}.{name}"] = field
    assert listed.keys() == known.keys()
    for key, field in known.items():
        if isinstance(field.default, (int, float)) or (
            isinstance(field.default, str) and field.default
        ):
            assert listed[key].lower() == str(field.default).lower(), key


@pytest.mark.parametrize(
    ("study", "table"),
    [
        *(("arrival_rate", table) for table in ("summary", "comparison", "attribution")),
        ("arrival_rate", "distribution"),
        *(("arrival_rate", table) for table in ("crossover", "classes", "class_comparison")),
        *(("batching", table) for table in ("summary", "timeline")),
    ],
)
def test_the_guide_lists_every_column_of_a_table(study, table, workspace):
    path = workspace / f"results/studies/{study}/tables/{table}.csv"
    columns = path.read_text(encoding="utf-8").splitlines()[0].split(",")
    listed = set(re.findall(r"`([a-z0-9_]+)`", section(f"{table}.csv")))
    factors = {"mode", "arrival.rate_per_s", "prefill_tokens_per_s"}
    for column in columns:
        bare = re.sub(r"_(low|high)$", "", column) if table in ("summary", "classes") else column
        assert bare in listed | factors, column


def test_the_guide_lists_every_figure():
    from simlib.study.figures.kinds import KINDS

    lines = section("Reading the figures").splitlines()
    listed = [line for line in lines if line.startswith("| `")]
    assert listed == [f"| `{name}` | {kind.shows} |" for name, kind in KINDS.items()]


def test_the_api_pages_document_every_public_module():
    text = "".join(page.read_text(encoding="utf-8") for page in (DOCS / "api").glob("*.md"))
    documented = set(re.findall(r"^\.\. automodule:: (\S+)$", text, re.MULTILINE))
    modules = set()
    for path in (REPO / "simlib").rglob("*.py"):
        name = ".".join(path.relative_to(REPO).with_suffix("").parts)
        inner = name.startswith(
            ("simlib.serving.", "simlib.latency.catalog.", "simlib.study.figures.")
        )
        if not inner and path.name != "__init__.py":
            modules.add(name)
    assert documented >= modules
    assert "simlib.study.figures" in documented
