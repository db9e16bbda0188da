"""Machine profiles: the numbers, who says them, and what a bad file is told."""

import dataclasses
import subprocess
import sys
import tomllib
import zipfile
from importlib import resources
from pathlib import Path

import pytest
from jaxmig.report import assumed_line, machine_text
from jaxmig.time import machines
from jaxmig.time.machines import SCHEMA, ProfileError, dumps, load, names, required

MACHINES = [
    "arm64-2n128c",
    "haswell-2s",
    "xeon-2s",
    "xeon-8s",
    "zen3-2s",
    "zen3-2s-invlpgb",
    "zen4-vm",
]
NEW = ("cache", "hot", "call", "cached", "walk_next", "remap_next")
NEW += ("copy_first", "copy_hot", "copy_beyond")
SMALL = 'base = "xeon-2s"\ntitle = "mine"\n'


def raw(name: str) -> dict:
    files = resources.files(machines)
    return tomllib.loads((files / f"{name}.toml").read_text("utf-8"))


def write(tmp_path: Path, text: str) -> str:
    path = tmp_path / "box.toml"
    path.write_text(text, "utf-8")
    return str(path)


def test_names():
    assert names() == MACHINES


@pytest.mark.parametrize("name", MACHINES)
def test_every_number_says_unit_and_source(name):
    doc = raw(name)
    for section in {key.split(".")[0] for key in SCHEMA} & doc.keys():
        for key, number in doc[section].items():
            assert number["unit"], key
            assert len(number["source"]) > 5, key
            if number["source"].startswith("assumed"):
                assert number["low"] <= number["value"] <= number["high"], key
    for engine in doc.get("engine", {}).values():
        for table in engine.values():
            assert table["unit"] == "GB/s"
            assert len(table["source"]) > 20


@pytest.mark.parametrize("name", MACHINES)
def test_profiles_hold_exactly_what_their_architecture_needs(name):
    profile = load(name)
    assert profile.numbers.keys() == required(profile.arch)
    assert profile.name == name
    assert profile.dvfs is False
    assert profile.running <= profile.cpus
    assert hash(profile) == hash(load(name))


def test_a_guest_s_shootdown_is_a_kind_of_its_own():
    guest, server = load("zen4-vm"), load("xeon-2s")
    assert 10_000 <= guest["cost.flush_first"] <= 16_000
    assert guest["cost.flush_first"] > 5 * server["cost.flush_first"]
    assert guest["target.page"] > 20 * server["target.page"]
    counts = guest.origins("cost.")
    assert counts == {"measured": 17, "published": 0, "assumed": 7}
    assert sum(server.origins("cost.").values()) == sum(counts.values()) == 24


def test_a_file_from_before_says_what_it_lacks(tmp_path, capsys):
    text = dumps(load("xeon-2s"))
    old = [x for x in text.splitlines() if x.split(" =")[0] not in NEW]
    assert len(old) == len(text.splitlines()) - len(NEW)
    profile = load(write(tmp_path, "\n".join(old)))
    assert {key.split(".")[1] for key in profile.absent} == set(NEW)
    assert profile["cost.walk_next"] == profile["cost.walk"] == 250
    assert profile["cost.call"] == profile["machine.cache"] == 0
    assert profile["cost.copy_hot"] == profile["cost.copy_4k"] == 900
    assert load(write(tmp_path, dumps(profile))) == profile
    line = assumed_line(profile, running=[1])
    assert (
        "not in the profile, so nothing: machine.cache, machine.hot, cost.call" in line
    )
    assert "not in" not in assumed_line(load("xeon-2s"), running=[1])
    assert "taken as cost.walk" in machine_text(profile)


def test_default_costs():
    xeon = {
        "alloc": 200,
        "bookkeeping": 500,
        "walk": 250,
        "remap": 150,
        "switch": 250,
        "copy_4k": 900,
        "copy_2m": 196_000,
        "local_page": 100,
        "local_full": 500,
        "flush_first": 1800,
        "flush_next": 280,
        "flush_lazy": 200,
        "defer": 30,
    }
    arm64 = {
        "alloc": 300,
        "bookkeeping": 880,
        "walk": 360,
        "remap": 130,
        "switch": 650,
        "copy_4k": 3350,
        "tlbi": 110,
        "dsb": 2080,
    }
    for name, costs in (("xeon-2s", xeon), ("arm64-2n128c", arm64)):
        profile = load(name)
        assert {key: profile[f"cost.{key}"] for key in costs} == costs
    assert load("xeon-2s")["target.page"] == 300
    assert load("xeon-2s")["target.full"] == 500
    assert load("xeon-2s").tlb == (128, 12)
    assert load("xeon-8s")["cost.flush_next"] == 657
    assert load("haswell-2s")["cost.copy_4k"] == 2000
    assert load("haswell-2s")["cost.copy_2m"] == 845_000


def test_shapes():
    shapes = {name: (load(name).nodes, load(name).cpus) for name in MACHINES}
    assert shapes["arm64-2n128c"] == (2, 128)
    assert shapes["xeon-8s"] == (8, 120)
    assert shapes["zen3-2s"] == (2, 64)
    assert load("arm64-2n128c").arch == "arm64"
    assert load("zen3-2s-invlpgb").arch == "x86-invlpgb"


def test_base_keeps_what_the_file_leaves_out(tmp_path):
    text = SMALL + '[cost]\nalloc = { value = 7, unit = "ns", source = "me" }\n'
    profile, base = load(write(tmp_path, text)), load("xeon-2s")
    assert profile.name == "box"
    assert profile["cost.alloc"] == 7
    # The number is replaced whole: the base's range does not cling to it.
    assert profile.numbers["cost.alloc"].low is None
    left = {k: n for k, n in profile.numbers.items() if k != "cost.alloc"}
    assert left == {k: n for k, n in base.numbers.items() if k != "cost.alloc"}
    assert profile.engines == base.engines


@pytest.mark.parametrize("name", MACHINES)
def test_dumps_reads_back(tmp_path, name):
    profile = load(name).replace({"cost.alloc": 123.5}, 'measured: "here" \\ é')
    path = tmp_path / f"{name}.toml"
    path.write_text(dumps(profile), "utf-8")
    assert load(path) == profile


def test_ends_of_the_ranges():
    profile = load("xeon-2s")
    low, high = profile.at("low"), profile.at("high")
    assert (low["cost.alloc"], high["cost.alloc"]) == (116, 287)
    # A single published figure is its own range.
    assert low["cost.local_page"] == high["cost.local_page"] == 100
    assert profile.at("value") == profile


def test_replace_refuses_what_is_no_number_of_the_machine():
    for values in ({"cost.tlbi": 1}, {"cost.alloc": -1}, {"cost.alloc": float("nan")}):
        with pytest.raises(ProfileError, match=r"xeon-2s: cost\."):
            load("xeon-2s").replace(values)


ALLOC = "[cost]\nalloc = "
RATES = '[engine.dma.huge]\nunit = "GB/s"\nsource = "me"\nbaseline = 10\n'


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("= 3", "not TOML"),
        (SMALL + "[costs]\n", "costs: unknown key"),
        (SMALL + 'colour = "red"\n', "colour: unknown key"),
        ('base = "xeon-2s"\n', "title: missing"),
        ('base = "nothing"\ntitle = "x"\n', "nothing: no such machine"),
        ('title = "x"\narch = "x86"\n', "missing; add it in"),
        ('title = "x"\n', "arch: missing"),
        (SMALL + 'arch = "mips"\n', "arch: 'mips' is none of"),
        (SMALL + 'arch = "arm64"\n', r"cost\.dsb: missing; add it in ns"),
        (SMALL + "dvfs = true\n", "dvfs: frequency scaling is not modelled"),
        (SMALL + "cost = 3\n", "cost: must be a table"),
        (SMALL + "[cost]\nallok = 3\n", r"cost\.allok: unknown for x86; known are"),
        (SMALL + "[cost]\ntlbi = 3\n", r"cost\.tlbi: unknown for x86"),
        (SMALL + ALLOC + "3\n", r"cost\.alloc: write"),
        (SMALL + ALLOC + '{ value = 3, unit = "ns" }', r"alloc\.source: missing"),
        (SMALL + ALLOC + '{ value = 3, source = "me" }', r"alloc\.unit: missing"),
        (SMALL + ALLOC + '{ unit = "ns", source = "me" }', r"alloc\.value: missing"),
        (
            SMALL + ALLOC + '{ value = true, unit = "ns", source = "me" }',
            "not a number",
        ),
        (
            SMALL + ALLOC + '{ value = 3, unit = "us", source = "me" }',
            "give it in 'ns'",
        ),
        (SMALL + ALLOC + '{ value = -3, unit = "ns", source = "me" }', "number >= 0"),
        (SMALL + ALLOC + '{ value = nan, unit = "ns", source = "me" }', "finite"),
        (SMALL + ALLOC + '{ value = inf, unit = "ns", source = "me" }', "finite"),
        (
            SMALL + ALLOC + '{ value = 3, unit = "ns", source = "assumed" }',
            "both low and high",
        ),
        (
            SMALL + ALLOC + '{ value = 3, unit = "ns", source = "me", low = 1 }',
            "both low and high",
        ),
        (
            SMALL
            + ALLOC
            + '{ value = 3, unit = "ns", source = "me", low = 4, high = 5 }',
            "does not hold",
        ),
        (
            SMALL
            + ALLOC
            + '{ value = 6, unit = "ns", source = "me", low = 4, high = 5 }',
            "does not hold",
        ),
        (
            SMALL + ALLOC + '{ value = 3, unit = "ns", source = "me", hi = 4 }',
            r"cost\.alloc\.hi: unknown key",
        ),
        (
            SMALL + '[machine]\ncpus = { value = 2.5, unit = "CPUs", source = "me" }',
            "whole number >= 1",
        ),
        (
            SMALL + '[machine]\ncpus = { value = 3, unit = "CPUs", source = "me" }',
            r"machine\.cpus: fewer than",
        ),
        (
            SMALL + '[cost]\nmove_check = { value = 900, unit = "ns", source = "me" }',
            r"move_check: is part of cost\.switch",
        ),
        (
            SMALL + '[cost]\nbatch_gain = { value = 9000, unit = "ns", source = "me" }',
            "batch_gain: exceeds",
        ),
        (SMALL + "engine = 3\n", "engine: must be a table"),
        (SMALL + "[engine.magic]\n", "engine.magic: must be"),
        (SMALL + "[engine.dma.medium]\n", "engine.dma.medium: unknown key"),
        (SMALL + "[engine.dma.huge]\n", "must have exactly baseline"),
        (
            SMALL + RATES + "copy_share = 0.5\nrates = { 1 = 20.0 }",
            "impossible with this copy_share",
        ),
        (SMALL + RATES + "copy_share = 0.5\nrates = { 1 = 0 }", "impossible"),
        (SMALL + RATES + "copy_share = 0.5\nrates = { x = 9.0 }", "rates: write"),
        (SMALL + RATES + "copy_share = 1.5\nrates = { 1 = 9.0 }", "copy_share <= 1"),
        (SMALL + RATES + "copy_share = 0.5\nrates = { 0 = 9.0 }", "workers >= 1"),
    ],
)
def test_bad_files_are_refused_in_one_line(tmp_path, text, told):
    with pytest.raises(ProfileError, match=told) as caught:
        load(write(tmp_path, text))
    assert "\n" not in str(caught.value)
    if "no such machine" not in told:
        assert "box.toml: " in str(caught.value)


def test_profiles_that_do_not_exist(tmp_path):
    for name in ("xeon", "", str(tmp_path)):
        with pytest.raises(
            ProfileError, match=r"no such machine; use a \.toml file or"
        ):
            load(name)
    with pytest.raises(ProfileError, match="No such file"):
        load(tmp_path / "none.toml")
    (tmp_path / "dir.toml").mkdir()
    with pytest.raises(ProfileError, match="directory"):
        load(tmp_path / "dir.toml")
    (tmp_path / "latin.toml").write_bytes(b'title = "\xe9"')
    with pytest.raises(ProfileError, match="not UTF-8"):
        load(tmp_path / "latin.toml")


def test_a_profile_cannot_build_on_itself(tmp_path):
    path = str(tmp_path / "box.toml")
    write(tmp_path, f'base = "{path}"\ntitle = "x"\n')
    with pytest.raises(ProfileError, match="builds on itself"):
        load(path)


def test_profiles_load_from_a_zipped_wheel(tmp_path):
    package = Path(machines.__file__).parent
    home = package.parent.parent
    wheel = tmp_path / "jaxmig.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name in ("", "host", "time"):
            archive.writestr(str(Path("jaxmig", name, "__init__.py")), "")
        files = [home / f"host/{n}.py" for n in ("files", "refused", "terminal")]
        for file in (*files, *package.iterdir()):
            if file.suffix in (".py", ".toml"):
                archive.write(file, f"jaxmig/{file.relative_to(home)}")
    script = (
        f"import sys; sys.path.insert(0, {str(wheel)!r}); "
        "from jaxmig.time import machines as m; "
        "print(m.__file__); print(*[m.load(n).name for n in m.names()])"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", script],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    where, found = done.stdout.splitlines()
    assert ".whl" in where
    assert found.split() == MACHINES


@pytest.mark.parametrize(
    ("copy", "words"),
    [
        (
            "dma:16",
            "pages, at the rate published for 16; 2 MiB folios at the rate publ",
        ),
        (
            "dma:4",
            "pages, between the rates published for 1 and 16; 2 MiB folios at the rate",
        ),
        (
            "dma:64",
            "pages, at the rate published for 16, the most; 2 MiB folios at the rate",
        ),
        ("threads:3", "between the rates published for 2 and 4; 2 MiB folios between"),
    ],
)
def test_what_an_engine_is_priced_by_is_said(copy: str, words: str) -> None:
    xeon = load("xeon-2s")
    assert words in xeon.copy_assumed(copy)
    assert xeon.copy_assumed("cpu") == ""
    bare = dataclasses.replace(xeon.engines["dma"], huge=None)
    some = dataclasses.replace(xeon, engines={"dma": bare})
    assert "2 MiB folios at the CPU's rate, as none" in some.copy_assumed("dma:1")
