"""What a config leaves open is chosen by the size of the corpus; what it names stays."""

import math

import pytest

from mtcli import config as configs
from mtcli.training import defaults


def corpus(folder, pairs: int, target: str = "ein Haus {}"):
    path = folder / "train.tsv"
    path.write_text(
        "".join(f"a house {n}\t{target.format(n)}\n" for n in range(pairs)), encoding="utf-8"
    )
    return path


def fitted(path, rest: str = "model: transformer") -> configs.Config:
    return defaults.fit(
        configs.loads(f"data: {{train: {path}, validation: {path}}}\n{rest}\n", "x.yaml")
    )


def test_larger_corpora_get_larger_models_and_fewer_epochs(tmp_path, monkeypatch):
    small = fitted(corpus(tmp_path, 50))
    monkeypatch.setattr(defaults, "count_lines", lambda path: 10**7)
    large = fitted(corpus(tmp_path, 50))
    assert small.model.hidden_size < large.model.hidden_size
    assert small.model.dropout > large.model.dropout
    assert small.tokenizer.vocabulary_size < large.tokenizer.vocabulary_size
    assert small.training.max_epochs > large.training.max_epochs
    assert small.training.batch_tokens < large.training.batch_tokens
    assert small.training.patience == large.training.patience == 10
    assert small.training.best_by == "chrf" and large.training.best_by == "loss"
    assert fitted(corpus(tmp_path, 50), "model: gru").training.optimizer.type == "muon"


def test_values_in_the_config_are_kept_even_if_equal_to_the_default(tmp_path, caplog):
    caplog.set_level("INFO", "mtcli")
    path = corpus(tmp_path, 50)
    given = "model: {type: transformer, hidden_size: 64, dropout: 0.1}\ntraining: {max_updates: 7, batch_sentences: 5}\ntokenizer: char"
    config = fitted(path, given)
    assert (config.model.hidden_size, config.model.dropout) == (64, 0.1)
    assert config.model.feed_forward_size == 256
    assert config.training.max_epochs is None and config.training.batch_tokens is None
    assert config.tokenizer == configs.Characters()
    chosen = [
        line for line in caplog.text.splitlines() if "chosen for about 590 target tokens" in line
    ]
    assert chosen and "hidden_size" not in chosen[0]


def test_fit_changes_nothing_in_a_resolved_config(tmp_path):
    config = fitted(corpus(tmp_path, 50))
    assert defaults.fit(configs.loads(configs.dump(config), "x.yaml")) == config


def test_what_a_continued_run_leaves_open_is_as_it_was(tmp_path, monkeypatch):
    """Also where the defaults have changed since; and a run of open length can be bounded in minutes."""
    path = corpus(tmp_path, 50)
    before = fitted(path)
    config = f"data: {{train: {path}, validation: {path}}}\nmodel: transformer\n"
    monkeypatch.setattr(defaults, "SIZES", [defaults.Size(math.inf, 999, 64, 2, 0.5, 77)])
    assert defaults.fill(configs.loads(config, "x.yaml"), before) == before
    bounded = configs.loads(config + "training: {max_minutes: 5}", "x.yaml")
    filled = defaults.fill(bounded, before)
    assert configs.changes(before, filled) == ["training.max_minutes: null -> 5.0"]
    assert not configs.changes(before, filled, configs.free_on_resume(before))
    schedule = configs.Linear(warmup_updates=100)  # once the default
    older = before.model_copy(
        update={"training": configs.replace(before.training, schedule=schedule.model_dump())}
    )
    named = configs.loads(config + "training: {schedule: linear}", "x.yaml")
    assert not configs.changes(older, defaults.fill(named, older))
    other = defaults.fill(configs.loads(config + "training: {seed: 9}", "x.yaml"), before)
    assert configs.changes(before, other) == ["training.seed: 1 -> 9"]


@pytest.mark.parametrize(("target", "shared"), [("das Haus {}", True), ("房子{}", False)])
def test_sides_with_the_same_letters_share_subwords(tmp_path, target, shared):
    config = fitted(corpus(tmp_path, 50, target))
    assert config.shared_vocabulary == shared
    assert config.model.tied_embeddings == ("all" if shared else "target")


@pytest.mark.parametrize("model", ["transformer", "gru"])
def test_length_of_training_depends_on_tokens_not_on_pairs(tmp_path, monkeypatch, model):
    monkeypatch.setattr(defaults, "count_lines", lambda path: 30_000)
    trained = {}
    for words in (11, 26):  # 15 and 35 subwords, as they come out
        config = fitted(corpus(tmp_path, 50, " ".join(["Haus"] * words)), f"model: {model}")
        tokens = 30_000 * (5 * words / 4 + 1)
        trained[words] = config.training.max_epochs * tokens
        updates = trained[words] / config.training.batch_tokens
        assert 40 <= updates / config.training.validate_every <= 60
    assert all(0.9 < value / defaults.TRAINED_TOKENS < 1.1 for value in trained.values()), trained


@pytest.mark.parametrize(
    "rows, copied",
    [
        ([("12", "12"), ("3 a", "drei"), ("…", "…")], True),
        ([("12", "twelve"), ("a", "b")], False),
        ([("123", "321")], False),
        ([("1.5", "1,5"), *[("a", "b")] * 200], True),
    ],
)
def test_symbols_are_copied_unless_the_corpus_translates_them(tmp_path, rows, copied):
    path = tmp_path / "train.tsv"
    path.write_text("".join(f"{s}\t{t}\n" for s, t in rows), encoding="utf-8")
    assert fitted(path).decoding.copy_symbols == copied
    given = f"decoding: {{copy_symbols: {str(not copied).lower()}}}"
    assert fitted(path, given).decoding.copy_symbols != copied


def test_given_length_of_training_sets_no_patience(tmp_path):
    config = fitted(corpus(tmp_path, 50), "training: {max_updates: 5}")
    assert (
        config.training.patience,
        config.training.validate_every,
        config.training.max_epochs,
    ) == (None, "epoch", None)
    assert fitted(corpus(tmp_path, 50)).training.patience == 10


def test_defaults_agree_with_the_schema(tmp_path):
    """A default of the JSON Schema is the resolved config's; where the corpus decides, the schema names no default."""
    schema = configs.schema()
    resolved = fitted(corpus(tmp_path, 50)).model_dump(mode="json")
    definitions = {
        "training": "Training",
        "model": "Transformer",
        "tokenizer": "Subwords",
        "decoding": "Decoding",
    }
    for section, definition in definitions.items():
        for key, node in schema["$defs"][definition]["properties"].items():
            if "default" in node and key != "shared":  # of a tokenizer that is named
                assert resolved[section][key] == node["default"], f"{section}.{key}"
    properties = schema["$defs"]["Training"]["properties"]
    assert (
        properties["optimizer"]["default"]["type"] == "muon"
        and properties["schedule"]["default"]["type"] == "linear"
    )
    assert (
        "default" not in properties["max_epochs"]
        and "size of the corpus" in properties["max_epochs"]["description"]
    )
