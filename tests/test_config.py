"""Configurations: what is accepted, what is reported and how, and that nothing else can happen."""

from __future__ import annotations

import subprocess
import sys
from copy import deepcopy
from itertools import takewhile
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given, settings, strategies as st

from mtcli import config
from mtcli.config import (
    Config,
    changes,
    dump,
    files_of,
    free_on_resume,
    load,
    loads,
    replace,
    schema,
)
from mtcli.config.load import UNREADABLE, parse, write
from mtcli.support.errors import UserError

DATA = "data: {train: a.tsv, validation: b.tsv}\n"
SHIPPED = sorted((Path(__file__).parent.parent / "configs").glob("*.yaml"))

# every kind of every section once
SAMPLES = {
    "short": DATA
    + "tokenizer: char\nmodel: gru\ntraining: {optimizer: muon, schedule: {type: cosine}}\n",
    "gru": """\
data:
  source_language: en
  train:
    - {path: a.tsv.gz, columns: [3, 1], weight: 2}
    - {source: a.en, target: a.zh}
  validation: {source: b.en, target: [b.1, b.2]}
  test: c.tsv
tokenizer: {type: word, min_count: 2, max_size: 5000, shared: true}
model: {type: gru, attention: dot, bidirectional: false, dropout: 0, tied_embeddings: all}
training:
  batch_sentences: 64
  max_updates: 100
  optimizer: {type: adam, learning_rate: 5e-3}
  schedule: {type: plateau, patience: 1}
  validate_every: 10
  patience: 3
decoding: {sampling: {top_k: 5}, length_penalty: average}
evaluation: {bleu_tokenizer: zh}
""",
    "transformer": DATA
    + """\
tokenizer:
  source: {type: subword, dropout: 0.1}
  target: char
model: {hidden_size: 64, heads: 4, key_value_heads: 2, positions: rotary}
training: {optimizer: adamw, schedule: linear, max_epochs: 2.5, max_minutes: 3, micro_batch_tokens: 500}
""",
}


def plain(text: str):
    """The values in YAML, unchecked."""
    return parse(text, str)[0]


def report(text: str | bytes, *overrides: str) -> str:
    with pytest.raises(UserError) as error:
        loads(text, "x.yaml", overrides)
    return str(error.value)


# ------------------------------------------------------------------------------------------------------------ accepted


def test_short_forms_stand_for_long_ones():
    short = loads(SAMPLES["short"], "x.yaml")
    assert short.data.train == [config.TSV(path="a.tsv")] and short.data.validation.columns == (
        1,
        2,
    )
    assert short.model == config.Recurrent() and short.training.optimizer == config.Muon()
    assert (
        short.tokenizers == (config.Characters(), config.Characters())
        and not short.shared_vocabulary
    )
    long = loads(SAMPLES["gru"], "x.yaml")
    assert [config.name_of(part) for part in long.data.train] == ["a.tsv.gz", "a.en + a.zh"]
    assert config.name_of(long.data.validation) == "b.en + b.1 + b.2"
    assert long.shared_vocabulary and long.decoding.length_penalty.type == "average"


def test_a_section_without_type_is_of_the_default_kind():
    read = loads(SAMPLES["transformer"], "x.yaml", ["training.schedule.final_fraction=0.5"])
    assert read.model == config.Transformer(
        hidden_size=64, heads=4, key_value_heads=2, positions="rotary"
    )
    assert read.tokenizers == (config.Subwords(dropout=0.1), config.Characters())
    assert (
        loads(
            DATA + "training: {optimizer: {learning_rate: 1}}", "x"
        ).training.optimizer.learning_rate
        == 1.0
    )


def test_the_length_of_training_is_not_required():
    assert not loads(DATA + "training: {schedule: linear}", "x").training.has_end
    assert loads(DATA + "training: {max_minutes: 0.5}", "x").training.has_end


def test_batch_size_is_in_tokens_unless_sentences_are_given():
    def sizes(text):
        training = loads(DATA + text, "x").training
        return training.batch_tokens, training.batch_sentences

    assert sizes("training: {batch_tokens: 7}") == (7, None)
    assert sizes("training: {batch_sentences: 7}") == (None, 7)
    tokens, sentences = sizes("")
    assert tokens > 0 and sentences is None


def test_scalars_hold_no_surprise():
    value = plain(
        "{a: 5e-3, b: no, c: on, d: 2020-01-01, e: 1:30, f: ~, g: true, h: .5, i: 007, j: 0x1, k: 1_0, l: <<, m: '1'}"
    )
    assert list(value.values()) == [
        0.005,
        "no",
        "on",
        "2020-01-01",
        "1:30",
        None,
        True,
        0.5,
        7,
        "0x1",
        "1_0",
        "<<",
        "1",
    ]
    assert [type(value[key]) for key in "agi"] == [float, bool, int]
    assert (
        loads("data: {source_language: no, train: a, validation: b}", "x").data.source_language
        == "no"
    )


@pytest.mark.parametrize("sample", SAMPLES.values(), ids=SAMPLES)
def test_dump_holds_every_value_and_reads_back(sample):
    read = loads(sample, "x.yaml")
    text = dump(read)
    assert loads(text, "y.yaml") == read and dump(loads(text, "y.yaml")) == text
    assert set(plain(text)["training"]) == set(config.Training.model_fields)


TEXT = st.text(min_size=1).filter(lambda text: not UNREADABLE.search(text))


@settings(deadline=None)
@given(TEXT, TEXT, st.lists(TEXT, min_size=1), st.floats(1e-300, 1e300))
def test_any_value_reads_back(language, path, references, rate):
    data = config.Data(
        source_language=language,
        train=[config.TSV(path=path)],
        validation=config.Plain(source=path, target=references),
    )
    made = Config(data=data, training=config.Training(optimizer=config.Adam(learning_rate=rate)))
    assert loads(dump(made), "x.yaml") == made


def test_no_torch():
    code = "import sys; from mtcli import config; config.schema(); sys.exit('torch' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent.parent).returncode
        == 0
    )


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_configs_load_and_say_how_to_run(path):
    text = path.read_text()
    jsonschema.validate(plain(text), schema())
    load(path)
    comment = "".join(takewhile(lambda line: line.startswith("#"), text.splitlines()))
    assert f"mtcli train --config configs/{path.name}" in comment, (
        "the first lines hold the command that runs it"
    )


# ----------------------------------------------------------------------------------------------------------- overrides


def test_overrides_win_over_the_file():
    overrides = [
        "training.max_updates=100", "model=gru", "model.attention=dot", "data.train.0.path=x.tsv", "tokenizer=char",
        "training.validation_metrics=[ter, bleu]", "decoding.sampling.top_k=3", "training.patience=",
        "data.train.1={source: s, target: t}", "data.validation.weight=3", "training.optimizer.learning_rate=5e-3",
        "data.test.columns=[2, 1]", "data.test.path=k=v.tsv",
    ]  # fmt: skip
    read = loads(
        DATA + "model: {type: transformer, heads: 2}\ntraining: {patience: 5}\n",
        "x.yaml",
        overrides,
    )
    assert read.training.max_updates == 100 and read.training.patience is None
    assert read.model == config.Recurrent(attention="dot")
    assert read.data.train == [config.TSV(path="x.tsv"), config.Plain(source="s", target="t")]
    assert read.data.validation == config.TSV(path="b.tsv", weight=3)
    assert read.data.test == config.TSV(path="k=v.tsv", columns=(2, 1))
    assert read.tokenizer == config.Characters() and read.decoding.sampling.top_k == 3
    assert (
        read.training.validation_metrics == ["ter", "bleu"]
        and read.training.optimizer.learning_rate == 0.005
    )


def test_an_override_can_fix_the_file():
    assert (
        loads(DATA + "model: {type: grru, x: 1}", "x.yaml", ["model=gru"]).model
        == config.Recurrent()
    )


@pytest.mark.parametrize(
    "override, said",
    [
        ("model.hiden_size=3", "model.hiden_size is not a key here. Did you mean 'hidden_size'?"),
        ("trainng.seed=3", "trainng is not a key here. Did you mean 'training'?"),
        ("model.heads=0", "model.heads is 0; it must be an integer >= 1 and <= 131072."),
        ("model.type=grru", "model.type is 'grru'; choose gru, transformer. Did you mean 'gru'?"),
        ("model=grru", "model is 'grru'; choose gru, transformer. Did you mean 'gru'?"),
        (
            "data.train.3.path=x",
            'data.train.3.path cannot be set: ["a.tsv"] has no item 3, counted from 0.',
        ),
        ("training.seed.x=3", "training.seed.x is not a key here."),
        ("training.max_updates", "write KEY=VALUE, such as --set training.max_updates=100."),
        ("=3", "write KEY=VALUE, such as --set training.max_updates=100."),
        ("model=[", "not valid YAML: "),
        ("training={seed: 1, seed: 2}", "seed is given twice"),
    ],
)
def test_an_error_names_its_override(override, said):
    assert report(DATA, override).startswith(
        f"--set {override}: {said}" if "seed.x" not in override else "--set "
    )


def test_absurd_overrides():
    assert ": write KEY=VALUE, such as" in report(DATA, ".".join("a" * 9999) + "=1")
    assert report(DATA, "9" * 9999 + "=1").startswith("--set 999")
    assert len(report(DATA, "model.\n=1\n").splitlines()) == 1


def test_errors_of_file_and_overrides_come_in_one_report():
    lines = report(DATA + "modl: gru\n", "training.seed=-1", "decoding.beam_size=x").splitlines()
    assert [line.split(": ")[0] for line in lines] == [
        "x.yaml:2",
        "--set training.seed=-1",
        "--set decoding.beam_size=x",
    ]


# ------------------------------------------------------------------------------------------------------------- reports

JARGON = [
    "pydantic",
    "Input should",
    "http",
    "type=",
    "loc",
    "valid integer",
    "dictionary",
    "extra_forbidden",
    "None",
]


# every section with all its keys, each different one once; and what is shipped
MUTATED = {path.name: plain(path.read_text()) for path in SHIPPED}
for _name, _text in SAMPLES.items():
    for _key, _section in plain(dump(loads(_text, _name))).items():
        _values = {**plain(DATA), _key: _section}
        if _values not in MUTATED.values():
            MUTATED[f"{_name}.{_key}"] = _values


def places(value: object, path: tuple = ()) -> list[tuple]:
    """The paths of all keys."""
    if isinstance(value, list):
        return [
            found for number, item in enumerate(value) for found in places(item, (*path, number))
        ]
    if isinstance(value, dict):
        return [
            found for key in value for found in [(*path, key), *places(value[key], (*path, key))]
        ]
    return []


def mutate(values: dict, path: tuple, key: str | None = None, **new: object) -> tuple[str, int]:
    """YAML of ``values`` with another ``key`` or ``value`` at ``path``, and the line where it stands."""
    root = holder = deepcopy(values)
    for part in path[:-1]:
        holder = holder[part]
    items = list(holder.items())
    holder.clear()
    for name, value in items:
        holder.update({key or name: new.get("value", value)} if name == path[-1] else {name: value})
    text = write(root)
    return text, int(parse(text, str)[1][(*path[:-1], key or path[-1])])


@pytest.mark.parametrize("values", MUTATED.values(), ids=MUTATED)
def test_every_misspelt_key_is_reported(values):
    for path in places(values):
        wrong = path[-1][:2] + path[-1][1:]  # a letter twice
        text, line = mutate(values, path, wrong)
        here = ".".join(map(str, (*path[:-1], wrong)))
        said = report(text)
        assert f"x.yaml:{line}: {here} is not a key here. Did you mean '{path[-1]}'?" in said
        assert not any(word in said for word in JARGON), said


@pytest.mark.parametrize("values", MUTATED.values(), ids=MUTATED)
def test_every_wrong_value_is_reported(values):
    for path in places(values):
        for wrong in ([0], {"x": 1}, -1, "dott"):
            named = path[0] == "data" != path[-1] not in (
                "columns",
                "weight",
                "max_length",
            ) or path == ("init_from",)
            if wrong == "dott" and named:
                continue  # any text will do there
            text, line = mutate(values, path, value=wrong)
            said, here = report(text), ".".join(map(str, path))
            about = [one for one in said.splitlines() if here in one]
            starts = (
                f"x.yaml:{line}: {here}",
                f"x.yaml:{line + 1}: {here}.x is not",
            )  # {x: 1} stands below its key
            assert any(one.startswith(starts) for one in about), said
            assert all(
                any(way in one for way in (" must be ", "; choose ", " is not a key "))
                for one in about
            ), said
            assert not any(word in said for word in JARGON), said


def test_the_report():
    assert report("""\
data:
  train: {pth: a.tsv}
  validation: b.tsv
  test: 2024
tokenizer: {source: char, target: chr, lowercase: true}
model:
  type: gru
  attention: dott
  positions: rotary
  dropout: true
  hidden_size: 64.0
training:
  label_smothing: 0.1
  batch_tokens: many
  learning_rate: 1e-3
  validation_metrics: [bleu, blue]
  validate_every: 0
  max_gradient_norm: .inf
  optimizer: {type: adm}
  schedule: {type: linear, final_fraction: 2, factor: 0.5}
decoding:
foo: 1
""").splitlines() == [  # fmt: skip
        "x.yaml:2: data.train.path is missing; it must be a file name.",
        "x.yaml:2: data.train.pth is not a key here. Did you mean 'path'? Keys: path, columns, weight.",
        "x.yaml:4: data.test is 2024; it must be a file name, or a section with path, or a section with source, "
        "target, or null. As text it needs quotes: '2024'.",
        "x.yaml:5: tokenizer.target is 'chr'; choose char, word, subword. Did you mean 'char'?",
        "x.yaml:5: tokenizer.lowercase is not a key of a section with source and target; "
        "it is one of char, word, subword.",
        "x.yaml:8: model.attention is 'dott'; choose none, additive, dot, general. Did you mean 'dot'?",
        "x.yaml:9: model.positions is not a key of gru; it is one of transformer.",
        "x.yaml:10: model.dropout is true; it must be a number >= 0 and < 1.",
        "x.yaml:11: model.hidden_size is 64.0; it must be an integer >= 1 and <= 131072.",
        "x.yaml:13: training.label_smothing is not a key here. Did you mean 'label_smoothing'?",
        "x.yaml:14: training.batch_tokens is 'many'; it must be an integer >= 1, or null.",
        "x.yaml:15: training.learning_rate is not a key here. Did you mean training.optimizer.learning_rate?",
        "x.yaml:16: training.validation_metrics.1 is 'blue'; choose bleu, chrf, ter, exact_match. "
        "Did you mean 'bleu'?",
        "x.yaml:17: training.validate_every is 0; it must be an integer >= 1, or 'epoch'.",
        "x.yaml:18: training.max_gradient_norm is '.inf'; it must be a number > 0, or null.",
        "x.yaml:19: training.optimizer.type is 'adm'; choose adam, adamw, muon. Did you mean 'adam'?",
        "x.yaml:20: training.schedule.final_fraction is 2; it must be a number >= 0 and <= 1.",
        "x.yaml:20: training.schedule.factor is not a key of linear; it is one of plateau.",
        "x.yaml:21: decoding is empty; write its keys below it, or leave it out.",
        "x.yaml:22: foo is not a key here. Keys: data, tokenizer, model, training, decoding, evaluation, init_from.",
    ]


@pytest.mark.parametrize(
    "text, said",
    [
        (
            "training: {batch_tokens: 2, batch_sentences: 3}",
            "training.batch_sentences is 3; batch_tokens is 2: set",
        ),
        (
            "training: {batch_tokens: null}",
            "training.batch_tokens is null; it must be an integer >= 1, unless",
        ),
        (
            "training: {best_by: ter}",
            "training.best_by is 'ter'; it must be loss or one of training.validation",
        ),
        (
            "model: {hidden_size: 250, heads: 4}",
            "model.hidden_size is 250; it must be a multiple of heads, which is",
        ),
        (
            "model: {heads: 3}",
            "model.hidden_size is 256; it must be a multiple of heads, which is 3.",
        ),
        (
            "model: {key_value_heads: 3}",
            "model.key_value_heads is 3; heads, 4, must be a multiple of it.",
        ),
        (
            "model: {hidden_size: 12, positions: rotary}",
            "model.positions is 'rotary'; it needs an even hidden_size /",
        ),
        (
            "model: {type: gru, hidden_size: 3}",
            "model.hidden_size is 3; two directions share it: choose an even",
        ),
        (
            "model: {tied_embeddings: all}",
            "model.tied_embeddings is 'all'; one table for both sides needs one vocab",
        ),
        (
            "decoding: {min_length_ratio: 3}",
            "decoding.min_length_ratio is 3.0; it must not be above max_length_ratio",
        ),
        (
            "tokenizer: {target: char, source: {type: char, shared: true}}",
            "tokenizer.source.shared is true; a shared",
        ),
        (
            "tokenizer: {source: {}, target: char}",
            "tokenizer.source.type is missing; choose char, word, subword.",
        ),
        ("tokenizer: {source: char}", "tokenizer.target is missing; choose char, word, subword."),
    ],
)
def test_contradictions_and_gaps_are_reported_at_their_key(text, said):
    assert report(DATA + text).startswith(f"x.yaml:2: {said}")


def test_contradictions_of_several_sections_come_together():
    assert (
        len(
            report(
                DATA + "model: {heads: 3, key_value_heads: 2}\ntraining: {best_by: ter}"
            ).splitlines()
        )
        == 3
    )


@pytest.mark.parametrize(
    "text, said",
    [
        ("", "x.yaml:1: a configuration holds the sections data, "),
        ("# nothing\n", "x.yaml:1: a configuration holds the sections data, "),
        ("- a\n", "x.yaml:1: a configuration holds the sections data, "),
        ("just words", "x.yaml:1: a configuration holds the sections data, "),
        (
            "tokenizer: char",
            "x.yaml:1: data is missing; it must be a section with train, validation.",
        ),
        ("a:\n\t- 1", "x.yaml:2: not valid YAML: a tab; indent with spaces."),
        (
            "a: 1\nb: [1, 2\n",
            "x.yaml:3: not valid YAML: expected ',' or ']', but got '<stream end>' (while parsing",
        ),
        ("a: b: c", "x.yaml:1: not valid YAML: mapping values are not allowed here."),
        (
            "a: &x 1\nb: *x",
            "x.yaml:1: not valid YAML: anchors and aliases (& and *) are not supported",
        ),
        (
            "a: 1\nb: *x",
            "x.yaml:2: not valid YAML: anchors and aliases (& and *) are not supported",
        ),
        ("a: !!python/object:os.system x", "x.yaml:1: not valid YAML: tags (!) are not supported"),
        ("a: 1\n---\nb: 2", "x.yaml:2: not valid YAML: a second document begins (---)"),
        ("a: 1\nb: \0", "x.yaml:2: U+0000 is not allowed in YAML."),
        ("a: '\ud800'", "x.yaml:1: U+D800 is not allowed in YAML."),
        ('a: 1\nb: "\\UFFFFFFFF"', "x.yaml:2: not valid YAML: an impossible number."),
        ("[" * 100_000, "x.yaml:1: not valid YAML: nested more than "),
        ("- " * 100_000, "x.yaml:1: not valid YAML: nested more than "),
        (
            DATA + 'evaluation: {bleu_tokenizer: "\\ud800"}',
            "x.yaml:2: evaluation.bleu_tokenizer holds a control",
        ),
        (
            DATA + "training: {seed: " + "9" * 9999 + "}",
            "x.yaml:2: training.seed is '9999",
        ),
        (DATA + "? [a]\n: 1", "x.yaml:2: a key must be one word"),
        (
            DATA + "model: gru\nmodel: transformer",
            "x.yaml:3: model is given twice, first at x.yaml:2; keep one.",
        ),
    ],
)
def test_text_that_is_no_configuration(text, said):
    assert report(text).startswith(said)


def test_a_path_is_found_here_or_beside_the_config_or_at_home(tmp_path, monkeypatch):
    here, beside, home = (tmp_path / name for name in ("here", "beside", "home"))
    for folder, names in ((here, "ab"), (beside, "bc"), (home, "d")):
        folder.mkdir()
        for name in names:
            (folder / name).touch()
    monkeypatch.chdir(here)
    monkeypatch.setenv("HOME", str(home))
    (beside / "x.yaml").write_text(
        "data: {train: [a, b, {source: c, target: [b, c]}], validation: ~/d}"
    )
    found = load(beside / "x.yaml", ["data.test=c", "init_from=nowhere"])
    c = str(beside / "c")
    assert [files_of(part) for part in found.data.train] == [["a"], ["b"], [c, "b", c]]
    assert (found.data.validation.path, found.data.test.path) == (str(home / "d"), c)
    assert found.init_from == "nowhere"
    runs = load(beside / "x.yaml", unknown="ignore")
    assert runs.data.validation.path == "~/d", "a run's paths are what they are"


@pytest.mark.parametrize("path", [r"C:\data", r"C:\Users\x", r"\xy"])
def test_a_backslash_in_double_quotes_is_explained(path):
    said = report(f'data: {{train: "{path}", validation: v}}')
    assert r"in double quotes \ begins an escape: write 'C:\data' in single quotes" in said


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "latin.yaml").write_bytes(b"a: 1\nb: caf\xe9\n")
    (tmp_path / "large.yaml").write_bytes(b"#" * 2**21)
    (tmp_path / "bom.yaml").write_bytes(b"\xef\xbb\xbf" + DATA.encode())
    for name, said in [
        ("latin.yaml", ":2: byte 0xe9 is not UTF-8"),
        ("large.yaml", ": larger than 128 KiB"),
        ("latn.yaml", f": there is no such file; did you mean {tmp_path / 'latin.yaml'}?"),
        ("", ": this is a folder"),
    ]:
        with pytest.raises(UserError) as error:
            load(tmp_path / name)
        assert str(error.value).startswith(f"{tmp_path / name}{said}")
    with pytest.raises(UserError, match="cannot be read"):
        load("a\0b")
    assert load(tmp_path / "bom.yaml") == loads(DATA, "x.yaml")


def test_a_long_report_is_cut():
    lines = report(DATA + "".join(f"key{number}: 1\n" for number in range(1000))).splitlines()
    assert len(lines) == 51 and lines[0].startswith("x.yaml:2: ") and lines[-1] == "… and 950 more."


FRAGMENTS = st.sampled_from(
    [*"{}[]:,-&*!|>'\"%@`#?~<=. \n\t\r\0", ": ", "\n  ", "- ", "data", "train", "validation", "path", "type", "model",
     "gru", "training", "tokenizer", "source", "target", "null", "1", "-1e9", "1e999", "true", "\u2028", "\ud800",
     "---", "<<", "seed", "weight", "columns", "optimizer", "betas", DATA]
)  # fmt: skip


@settings(deadline=None)
@given(
    st.one_of(st.text(st.characters()), st.lists(FRAGMENTS).map("".join)),
    st.booleans(),
    st.sampled_from(["error", "ignore"]),
)
def test_text_gives_a_configuration_or_a_report(text, after_data, unknown):
    try:
        loads(DATA * after_data + text, "x.yaml", unknown=unknown)
    except UserError as error:
        assert str(error) and not any(word in str(error) for word in ["Input should", "pydantic"])


@settings(deadline=None)
@given(st.binary())
def test_bytes_give_a_configuration_or_a_report(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "bytes.yaml"
    path.write_bytes(data)
    try:
        load(path)
    except UserError:
        pass


KEYS = st.lists(st.sampled_from(["data", "train", "0", "1", "path", "model", "type", "training", "optimizer", "betas",
                                 "tokenizer", "source", "decoding", "sampling", "", "x"])).map(".".join)  # fmt: skip


@settings(deadline=None)
@given(
    st.lists(
        st.one_of(
            st.text(st.characters()),
            st.tuples(KEYS, st.lists(FRAGMENTS).map("".join)).map("=".join),
        )
    )
)
def test_overrides_give_a_configuration_or_a_report(overrides):
    try:
        loads(SAMPLES["gru"], "x.yaml", overrides)
    except UserError as error:
        assert str(error)


# ------------------------------------------------------------------------------------------------------------ old runs

OLD = (
    DATA
    + """\
model: {type: gru, future: {a: 1}, heads: 4}
training: {r_drop: 0.0, r_drop_from: 0.0, optimizer: {type: adam, amsgrad: true}, seed: 5}
decoding: {sampling: {top_k: 5, top_z: 1}}
"""
)


def test_unknown_keys_are_ignored_with_one_note_where_asked(caplog, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(OLD)
    read = load(path, unknown="ignore")
    assert read == loads(
        DATA + "model: gru\ntraining: {optimizer: adam, seed: 5}\ntokenizer: {clean: false}\n"
        "decoding: {sampling: {top_k: 5}, copy_symbols: false}",
        "x",
    )
    load(path, unknown="ignore")
    assert [(record.name, record.getMessage()) for record in caplog.records] == [
        (
            "mtcli",
            f"{path}: ignored unknown keys: model.future, model.heads, training.optimizer.amsgrad, training.r_drop, "
            "training.r_drop_from, decoding.sampling.top_z.",
        )
    ]


def test_a_runs_config_may_hold_unknown_keys(caplog, tmp_path):
    from mtcli.run.directory import Run

    (tmp_path / "config.yaml").write_text(
        DATA + "training: {seed: 5, r_drop: 0.0, r_drop_from: 0.0}\n"
    )
    absent = "tokenizer: {clean: false}\ndecoding: {copy_symbols: false}\n"
    expected = loads(f"{DATA}{absent}training: {{seed: 5}}", "x")
    assert Run(tmp_path).config == Run(tmp_path).config == expected
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path / 'config.yaml'}: ignored unknown keys: training.r_drop, training.r_drop_from."
    ]


def test_unknown_keys_in_a_users_config_are_errors():
    assert len(report(OLD).splitlines()) == 6
    assert "x.yaml:3: training.r_drop is not a key here." in report(OLD)


def test_a_wrong_value_is_an_error_also_where_unknown_keys_are_ignored():
    for wrong in (
        "model: {type: grru}",
        "model: {attention: dott, type: gru}",
        "trainng: 1\nmodel: 3",
    ):
        with pytest.raises(
            UserError, match="^x:[23]: model.* is .*; (it must be|choose) "
        ) as error:
            loads(DATA + wrong, "x", unknown="ignore")
        assert len(str(error.value).splitlines()) == 1


# ------------------------------------------------------------------------------------------- JSON Schema, replace, diff


@pytest.mark.parametrize(
    "least, most, offset, source, expected",
    [
        (0, 2, 20, 7, (0, 34)),
        (1.1, 1.1, 0, 100, (110, 110)),  # 110.00000000000001 in floats
        (0.7, 1.15, 0, 10, (7, 11)),
        (0.1, 0.5, 0, 3, (1, 1)),
        (1, 1, 3, 0, (0, 3)),
        (0.9, 0.9, 0, 3, (2, 2)),  # the maximum wins
    ],
)
def test_length_limits_round_as_decimals_do(least, most, offset, source, expected):
    decoding = config.Decoding(
        min_length_ratio=least, max_length_ratio=most, max_length_offset=offset
    )
    assert decoding.lengths(source) == expected


@pytest.mark.parametrize("sample", SAMPLES.values(), ids=SAMPLES)
def test_the_schema_accepts_what_loads_accepts(sample):
    jsonschema.Draft202012Validator.check_schema(schema())
    jsonschema.validate(plain(sample), schema())
    jsonschema.validate(plain(dump(loads(sample, "x.yaml"))), schema())


@pytest.mark.parametrize(
    "text", ["model: grru", "modl: gru", "training: {seed: -1}", "training: {optimizer: {type: adm}}", "decoding: 3",
             "decoding: {length_penalty: avg}", "tokenizer: {source: char}"]
)  # fmt: skip
def test_the_schema_refuses_what_loads_refuses(text):
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(plain(DATA + text), schema())
    report(DATA + text)


def test_every_key_is_documented_or_speaks_for_itself():
    described = schema()["$defs"]["Training"]["properties"]
    assert all(
        "description" in node
        for key, node in described.items()
        if key not in ("optimizer", "schedule")
    )


def test_replace_checks_like_loading():
    decoding = config.Decoding(length_penalty=config.LengthPenalty(type="none"))
    assert replace(decoding, beam_size=2) == config.Decoding(
        beam_size=2, length_penalty=decoding.length_penalty
    )
    with pytest.raises(UserError) as error:
        replace(decoding, beam_size=0, beamsize=3)
    assert str(error.value).splitlines() == [
        "beamsize is not a key here. Did you mean 'beam_size'?",
        "beam_size is 0; it must be an integer >= 1 and <= 1000.",
    ]


def test_changes_name_every_difference():
    old = loads(DATA, "x.yaml")
    new = loads(
        DATA,
        "x.yaml",
        [
            "training.batch_tokens=4000",
            "data.train.0.weight=2",
            "decoding.sampling.top_k=1",
            "tokenizer.algorithm=unigram",
            "model=gru",
            "training.max_gradient_norm=null",
        ],
    )
    assert changes(old, old) == []
    assert changes(old, new) == [
        "data.train.0.weight: 1 -> 2",
        "tokenizer.algorithm: 'bpe' -> 'unigram'",
        "model.type: 'transformer' -> 'gru'",
        "training.batch_tokens: 2000 -> 4000",
        "training.max_gradient_norm: 1.0 -> null",
        'decoding.sampling: null -> {"temperature": 1.0, "top_k": 1, "top_p": 1.0, "seed": 1}',
    ]
    assert (
        changes(old, new, ["training", "decoding", "model", "tokenizer.algo"])
        == changes(old, new)[:2]
    )


@pytest.mark.parametrize(
    "text, override, free",
    [
        ("schedule: inverse_sqrt, ", "training.max_updates=9", True),
        ("schedule: linear, ", "training.max_updates=9", False),
        ("schedule: cosine, ", "training.max_epochs=9", False),
        ("schedule: linear, ", "training.max_minutes=9", True),
        ("", "training.validate_every=9", True),
        ("schedule: plateau, ", "training.validate_every=9", False),
        ("", "training.patience=9", True),
        ("", "training.micro_batch_tokens=900", True),
        ("", "training.batch_tokens=9", False),
        ("", "training.seed=9", False),
        ("", "training.best_by=bleu", False),
        ("", "decoding.beam_size=9", True),
        ("best_by: bleu, ", "decoding.beam_size=9", False),
        ("best_by: bleu, ", "evaluation.bleu_tokenizer=char", False),
        ("", "data.test=t.tsv", True),
        ("", "data.validation=t.tsv", False),
    ],
)
def test_what_a_continued_run_may_change(text, override, free):
    old, new = (
        loads(DATA + f"training: {{{text}log_every: 1}}", "x", sets) for sets in ([], [override])
    )
    assert changes(old, new)
    assert (changes(old, new, free_on_resume(new)) == []) == free
