"""Configuration: what is refused and how, what `--set` takes, and that the written YAML reads back."""

from pathlib import Path
from typing import get_args

import pytest
import yaml
from pydantic import ValidationError

from sage_va.data import InputError
from sage_va.fusion.config import (
    PRESETS,
    Config,
    DataConfig,
    LossConfig,
    ModelConfig,
    SplitConfig,
    check_config,
    configure,
    load_config,
)
from sage_va.tests.synthetic import random_corpus, streams_of

REFUSED = {
    "train.epoch=3": "configuration: expected a known key, got 'train.epoch'. Did you mean train.epochs?",
    "modle.dim=32": "configuration: expected a known key, got 'modle'. Did you mean model?",
    "xyz=1": "configuration: expected a known key, got 'xyz'. Known: seed, data, split, labels, model, loss, train.",
    "model.dim=0": "configuration: model.dim: expected greater than or equal to 1, got 0. Correct the value.",
    "model.dropout=1.5": "configuration: model.dropout: expected less than or equal to 1, got 1.5. Correct the value.",
    "model.floor=0.5": "configuration: model.floor: expected less than 0.5, got 0.5. Correct the value.",
    "train.learning_rate=.inf": "train.learning_rate: expected a finite number, got inf.",
    "train.noise=.nan": "train.noise: expected a finite number, got nan.",
    "seed=-1": "configuration: seed: expected greater than or equal to 0, got -1. Correct the value.",
    "data.grid_hz=0": "configuration: data.grid_hz: expected greater than 0, got 0. Correct the value.",
    "model=3": "configuration: model: expected a valid dictionary or instance of ModelConfig, got 3.",
    "model.dim=30": "configuration: model.dim: expected a multiple of model.heads = 4, got 30. Change one of them.",
    "data.hop_s=12.5": "configuration: data.hop_s: expected at most window_s = 12, got 12.5. Lower it: steps between "
    "windows would never be used.",
    "data={window_steps: 9, window_s: 12}": "data.window_steps: expected seconds, got window_steps and window_s. Write "
    "data.window_s alone.",
    "data={window_steps: 0}": "data.window_steps: expected seconds, got window_steps = 0 at grid_hz = 25.0. Write "
    "data.window_s alone.",
    "data={hop_steps: 20, grid_hz: null}": "data.hop_steps: expected seconds, got hop_steps = 20 at grid_hz = None.",
    "split.file=x.csv": "configuration: split.file: expected a file exactly if split.by=file, got x.csv with "
    "split.by=auto. Set both split.by=file and split.file, or neither.",
    "split.by=file": "split.file: expected a file exactly if split.by=file, got None with split.by=file.",
    "split={by: official, folds: 3}": "split.folds: expected folds of clips or subjects, got split.by=official. "
    "Set split.by to clip or subject, or leave split.folds out.",
    "split.fold=0": "split.fold: expected a fold below split.folds, got 0 of None. Set split.folds, and count folds "
    "from 0.",
    "split={folds: 3, fold: 3}": "split.fold: expected a fold below split.folds, got 3 of 3.",
    "split.folds=2": "split.folds: expected greater than or equal to 3, got 2.",
    "split.fractions=[1, 0, 0]": "split.fractions: expected shares of train and val above 0, got (1.0, 0.0, 0.0). "
    "The validation clips decide when to stop.",
    "epochs": "--set epochs: expected key=value, got 'epochs'. For example --set train.epochs=20.",
    "=3": "--set =3: expected key=value, got '=3'. For example --set train.epochs=20.",
    "model.dim={": "--set model.dim={: expected a YAML value, got {. Quote it.",
}


@pytest.mark.parametrize("assignment", REFUSED)
def test_refusals_name_key_value_and_way_out(assignment: str) -> None:
    with pytest.raises(InputError) as caught:
        load_config(None, [assignment])
    assert REFUSED[assignment] in str(caught.value)


def test_a_key_below_a_plain_value_is_refused() -> None:
    with pytest.raises(InputError, match=r"expected a key inside a section, got 'seed\.x'"):
        load_config(None, ["seed=1", "seed.x=2"])


def test_assignments_are_yaml_and_the_last_one_wins() -> None:
    config = load_config(
        None,
        [
            "train.learning_rate=1e-3",
            "data.streams=[visual/a, audio]",
            "model.causal=true",
            "split.folds=8",
            "seed=1",
            "seed=2",
        ],
    )
    assert config.train.learning_rate == 0.001
    assert config.data.streams == ("visual/a", "audio")
    assert config.model.causal
    assert config.split.folds == 8
    assert config.seed == 2


def test_yaml_round_trip(tmp_path: Path) -> None:
    config = load_config(None, ["model.stage=none", "split={by: file, file: s.csv}", "train.noise=0.25", "seed=7"])
    (tmp_path / "c.yaml").write_text(config.to_yaml(), encoding="utf-8")
    assert load_config(tmp_path / "c.yaml") == config
    assert load_config(tmp_path / "c.yaml", ["seed=8"]).seed == 8
    assert check_config(config.model_dump(mode="json"), "again") == config


def test_a_section_without_keys_takes_an_assignment(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("train:\n  # epochs: 20\nmodel:\n  dim: 8\n", encoding="utf-8")
    config = load_config(tmp_path / "c.yaml", ["train.epochs=3"])
    assert (config.train.epochs, config.model.dim) == (3, 8)


def test_an_empty_file_means_the_defaults(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("# nothing\n", encoding="utf-8")
    assert load_config(tmp_path / "c.yaml") == Config()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: [", r"c\.yaml: expected a YAML file, got .*Correct it\."),
        ("- train", r"c\.yaml: expected sections such as `train:`, got list\. Correct it\."),
        ("train: {epochz: 3}", r"c\.yaml: expected a known key, got 'train\.epochz'\. Did you mean train\.epochs\?"),
    ],
)
def test_a_wrong_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "c.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        load_config(tmp_path / "c.yaml")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.yaml: expected a YAML file, got .*No such file"):
        load_config(tmp_path / "none.yaml")


def test_parts_check_themselves_and_do_not_change() -> None:
    with pytest.raises(ValidationError, match=r"expected a multiple of model\.heads = 4, got 6"):
        ModelConfig(dim=6)
    assert ModelConfig(dim=6, layers=0).dim == 6
    with pytest.raises(ValidationError, match="frozen"):
        LossConfig().valence = 1.0  # type: ignore[misc]


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(
    "text",
    [
        "",
        "train: {epochs: 3}\nmodel:\n",
        "seed: 4\nsplit: null\ntrain: {learning_rate: 0.5}",
        "model: {dim: 64}\nloss:",
    ],
)
def test_a_file_and_a_dictionary_give_the_same_configuration(tmp_path: Path, preset: str, text: str) -> None:
    """A preset is laid under both in one place; `model:` with nothing below it is an empty section."""
    (tmp_path / "run.yaml").write_text(text, encoding="utf-8")
    config = load_config(tmp_path / "run.yaml", preset=preset)
    raw = yaml.safe_load(text) or {}
    assert configure(raw, preset, "config") == config
    for section, keys in PRESETS[preset].items():
        for key, value in keys.items():
            assert config.flat()[f"{section}.{key}"] == ((raw.get(section) or {}).get(key, value))


def test_an_unknown_preset_and_a_null_value_are_refused() -> None:
    with pytest.raises(InputError, match=r"config: expected a known preset, got 'tinny'\. Known: auto, tiny"):
        configure({}, "tinny", "config")
    with pytest.raises(InputError, match=r"config: seed: expected a valid integer, got None"):
        configure({"seed": None}, "base", "config")


def test_descriptions_are_comments_of_the_yaml_and_the_rest_is_plain() -> None:
    config = Config()
    lines = config.to_yaml().splitlines()
    bare = [line for line in lines if not line.lstrip().startswith("#")]
    assert "\n".join(bare) + "\n" == yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
    comments = " ".join(line for line in lines if line not in bare)
    for choice in get_args(SplitConfig.model_fields["by"].annotation):
        assert f"{choice}:" in comments


def test_a_configuration_of_before_is_still_valid(tmp_path: Path) -> None:
    (tmp_path / "old.yaml").write_text("split: {by: subject, file: null, fractions: [0.7, 0.15, 0.15], folds: null}")
    assert load_config(tmp_path / "old.yaml").split == SplitConfig(by="subject")


EARLIER = """\
seed: 3
data: {streams: [], grid_hz: 5.0, window_steps: 60, hop_steps: 40}
"""


def test_steps_of_an_earlier_configuration_are_seconds_of_its_grid(tmp_path: Path) -> None:
    (tmp_path / "old.yaml").write_text(EARLIER, encoding="utf-8")
    config = load_config(tmp_path / "old.yaml")
    assert config.data == DataConfig(grid_hz=5, window_s=12, hop_s=8)
    assert config.data.steps(config.data.hz) == (60, 40)
    assert load_config(None, ["data.hop_steps=100"]).data == DataConfig(grid_hz=25, window_s=12, hop_s=4)
    assert check_config(config.model_dump(mode="json"), "again") == config
    for num_steps in (1, 7, 100, 299, 300):
        for hz in (1.0, 3.0, 24.0, 25.0, 29.97, 50.0):
            data = check_config({"data": {"grid_hz": hz, "window_steps": num_steps, "hop_steps": 1}}, "old").data
            assert data.steps(hz) == (num_steps, 1)


def test_the_defaults_are_those_of_before_at_25_steps_per_second() -> None:
    data = Config().data
    assert data.grid_hz is None
    assert data.steps(25.0) == (300, 200)
    assert data.steps(1.0) == (12, 8)
    assert data.steps(0.01) == (1, 1)


def test_no_window_is_longer_than_the_longest_clip() -> None:
    corpus = random_corpus(streams_of(), [50, 90, 20])
    assert DataConfig().steps_on(corpus) == (90, 200)
    assert DataConfig(window_s=2, hop_s=1).steps_on(corpus) == (50, 25)
    assert Config().on_grid(corpus.hz).data.hz == 25
