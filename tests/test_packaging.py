"""What is installed, and what runs where there is no Linux."""

import functools
import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from hatchling.build import build_wheel
from jaxmig import cli
from jaxmig.sources import snapshot

ROOT = Path(__file__).parent.parent
EXTRAS = ("plot", "parquet", "cuda", "tpu", "docs", "test")

# What a Mac lacks, taken away before jaxmig is imported; jax itself is not on trial.
ELSEWHERE = """
import builtins, io, os, pkgutil, sys
import jax, numpy
sys.platform = "darwin"
for name in ("sched_getaffinity", "memfd_create", "pidfd_open", "eventfd"):
    if hasattr(os, name):
        delattr(os, name)
def gone(path):
    return str(path).startswith(("/proc", "/sys"))
def blocked(real):
    def call(path, *args, **kwargs):
        if not isinstance(path, int) and gone(path):
            raise FileNotFoundError(2, "No such file or directory", str(path))
        return real(path, *args, **kwargs)
    return call
for module, name in ((builtins, "open"), (io, "open"), (os, "open"), (os, "stat"),
                     (os, "listdir"), (os, "scandir")):
    setattr(module, name, blocked(getattr(module, name)))
import jaxmig
for found in pkgutil.walk_packages(jaxmig.__path__, "jaxmig."):
    if not found.name.endswith("__main__"):
        __import__(found.name)
from jaxmig.cli import main
small = "migratepages memhog:1m 0 1 --kernel 6.2 --cpus 2 --running 1 --no-content"
assert main(small.split()) == 0
assert main(["snapshot", "1", "-o", "x.npz"]) == 1
assert main(["snapshot", "--all", "-o", "x.npz"]) == 1
assert main(["migratepages", "1", "0", "1"]) == 1
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    home = Path.cwd()
    os.chdir(ROOT)
    try:
        return zipfile.ZipFile(folder / build_wheel(str(folder)))
    finally:
        os.chdir(home)


def test_a_wheel_holds_every_module_profile_and_the_mark_of_types(
    wheel: zipfile.ZipFile,
) -> None:
    held = set(wheel.namelist())
    package = ROOT / "jaxmig"
    wanted = {
        str(path.relative_to(ROOT))
        for path in package.rglob("*")
        if path.suffix in (".py", ".toml") or path.name == "py.typed"
    }
    assert "jaxmig/py.typed" in wanted
    assert "jaxmig/time/machines/xeon-2s.toml" in wanted
    assert wanted <= held
    others = {name.split("/")[0] for name in held} - {"jaxmig"}
    assert all(name.endswith(".dist-info") for name in others)


def test_a_wheel_says_its_extras_command_and_pythons(wheel: zipfile.ZipFile) -> None:
    texts = {Path(n).name: wheel.read(n).decode() for n in wheel.namelist()
             if ".dist-info/" in n}  # fmt: skip
    lines = texts["METADATA"].splitlines()
    assert [n for n in EXTRAS if f"Provides-Extra: {n}" not in lines] == []
    assert "Requires-Python: >=3.11" in lines
    assert "jaxmig = jaxmig.cli:main" in texts["entry_points.txt"]
    said = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert f"Version: {said['version']}" in lines


def test_without_a_proc_file_system_a_line_says_so(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("take", "take_all"):
        real = getattr(snapshot, name)
        monkeypatch.setattr(
            snapshot, name, functools.partial(real, root=tmp_path / "proc")
        )
    file = str(tmp_path / "x.npz")
    for command in (
        ["snapshot", "4711", "-o", file],
        ["snapshot", "--all", "-o", file],
        ["migratepages", "4711", "0", "1"],
    ):
        assert cli.main(command) == 1
        out, err = capsys.readouterr()
        assert out == ""
        assert err.count("\n") == 1
        assert "no process file system here; take the snapshot on Linux" in err
    assert list(tmp_path.iterdir()) == []


def test_everything_but_proc_works_without_linux(tmp_path: Path) -> None:
    env = os.environ | {"JAXMIG_NO_CACHE": "1", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE],
        cwd=tmp_path,
        env=env | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "pages moved" in done.stdout
    assert done.stderr.count("no process file system here") == 3
    assert list(tmp_path.iterdir()) == []
