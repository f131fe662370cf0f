from __future__ import annotations

from pathlib import Path

import pytest

from pageglass.errors import SettingsError
from pageglass.profiles import PROFILES
from pageglass.settings import iter_options, load_settings

README = Path(__file__).parents[1] / "README.md"


def test_flags_beat_environment_beats_file_beats_default(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert load_settings().search.top_k == 5
    Path("pageglass.toml").write_text("[search]\ntop_k = 6\ncandidates = 50\n")
    assert load_settings().search.top_k == 6
    monkeypatch.setenv("PAGEGLASS_SEARCH__TOP_K", "7")
    assert load_settings().search.top_k == 7
    chosen = load_settings({"data_dir": tmp_path, "search": {"top_k": 8}})
    assert chosen.search.top_k == 8
    assert chosen.search.candidates == 50


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("serch = 1", "serch"),
        ("[search]\ntop_kk = 1", "top_kk"),
        ("[search]\ntop_k = 0", "search.top_k"),
        ("profile = 'huge'", "profile"),
        ("[search.weights]\nsprase = 2", "search.weights.sprase"),
        ("[search", "pageglass.toml"),
    ],
)
def test_a_mistake_in_the_file_is_named_in_one_line(content: str, named: str) -> None:
    Path("pageglass.toml").write_text(content)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_misspelt_variable_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAGEGLASS_SEARCH__TOPK", "3")
    with pytest.raises(SettingsError, match="PAGEGLASS_SEARCH__TOPK"):
        load_settings()


def test_a_variable_that_must_be_json_and_is_not_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAGEGLASS_SEARCH__WEIGHTS", "dense=0.5")
    with pytest.raises(SettingsError, match=r"must be JSON.*search"):
        load_settings()


def test_a_file_that_is_no_text_is_refused() -> None:
    Path("pageglass.toml").write_bytes(b"profile = '\xff'")
    with pytest.raises(SettingsError, match=r"pageglass\.toml: not valid TOML"):
        load_settings()


def test_a_named_settings_file_must_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAGEGLASS_CONFIG", "elsewhere.toml")
    with pytest.raises(SettingsError, match=r"elsewhere\.toml"):
        load_settings()


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_settings().search.top_k = 3  # pyright: ignore[reportAttributeAccessIssue]


def test_every_option_is_described_and_stands_in_the_readme() -> None:
    readme = README.read_text("utf-8")
    rows = {
        line.split("|")[1].strip().strip("`"): line
        for line in readme.splitlines()
        if line.startswith("| `")
    }
    options = iter_options()
    for name, description in options:
        assert description, name
        assert name in rows, f"{name} is missing from the README's settings table"
        assert description in rows[name], f"the README describes {name} differently"
    dotted = {name for name in rows if name in dict(options) or ("." in name and "/" not in name)}
    assert dotted <= {name for name, _ in options}, "the README names an unknown setting"


def test_a_profile_brings_settings_of_its_own_and_people_override_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert load_settings({"profile": "gpu"}).rerank.pages == 8
    cpu = load_settings({"profile": "cpu"})
    assert (cpu.rerank.pages, cpu.answer.pages, cpu.answer.threshold) == (0, 3, 0.5)
    Path("pageglass.toml").write_text("profile = 'cpu'\n[rerank]\nweight = 0.4\n")
    assert (load_settings().rerank.pages, load_settings().rerank.weight) == (0, 0.4)
    monkeypatch.setenv("PAGEGLASS_RERANK__PAGES", "8")
    assert (load_settings().rerank.pages, load_settings().rerank.weight) == (8, 0.4)
    assert load_settings({"answer": {"pages": 5}}).answer.pages == 5


def test_a_profiles_settings_are_valid() -> None:
    for profile in PROFILES.values():
        for section, values in profile.settings.items():
            model = type(getattr(load_settings(), section))
            assert model.model_validate(values).model_fields_set == set(values)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[search]\ntopk = 3\n", "pageglass.toml: [search] has no topk; did you mean top_k?"),
        ("[serch]\ntop_k = 3\n", "pageglass.toml has no serch; did you mean search?"),
        ("[search]\ndpi = 3\n", "pageglass.toml: [search] has no dpi; did you mean ingest.dpi?"),
        ("[ingest.limits]\nfile = 3\n", "[ingest.limits] has no file; did you mean file_mb?"),
        ("[search]\nxyzzy = 3\n", "pageglass.toml: [search] has no xyzzy: see the settings table"),
        ('[search]\ntop_k = "many"\n', "pageglass.toml: setting search.top_k: input should be"),
        ("search = 3\n", "pageglass.toml: setting search: input should be"),
        ("[watch]\nignore = [1]\n", "pageglass.toml: setting watch.ignore.0: input should be"),
        ("[server.weights]\nme = 0\n", "pageglass.toml: setting server.weights.me: input should"),
        ("a = 1\nb =\n", "at line 2"),
    ],
)
def test_an_error_in_the_file_names_it_and_the_likely_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pageglass.toml").write_text(text)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("PAGEGLASS_SEARCH__TOPK", "3", "did you mean PAGEGLASS_SEARCH__TOP_K?"),
        ("PAGEGLASS_PROFLE", "cpu", "did you mean PAGEGLASS_PROFILE?"),
        ("PAGEGLASS_SEARCH__TOP_K", "many", "setting search.top_k (PAGEGLASS_SEARCH__TOP_K): "),
        ("PAGEGLASS_SEARCH", '{"topk": 3}', "PAGEGLASS_SEARCH: [search] has no topk; did you mean"),
    ],
)
def test_an_error_in_the_environment_names_the_variable_and_the_likely_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    # What the file says is right.
    (tmp_path / "pageglass.toml").write_text("[search]\ntop_k = 3\n")
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert said in str(caught.value)
